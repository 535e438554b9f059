"""What Kubeflow Pipelines' API refuses (kubeflow/pipelines 2.17, backend/src/apiserver)."""

import base64
import json
import re
import urllib.parse

# The fields that lists can be filtered and sorted by: APIToModelFieldMap in model/run.go, job.go,
# experiment.go, pipeline.go and pipeline_version.go.
_FIELDS = {
    "runs": (
        *("run_id", "id", "display_name", "name", "created_at", "finished_at", "description", "scheduled_at"),
        *("storage_state", "status", "namespace", "experiment_id", "state", "state_history"),
        *("runtime_details", "recurring_run_id"),
    ),
    "recurringruns": (
        *("id", "recurring_run_id", "name", "display_name", "created_at", "updated_at", "description"),
    ),
    "experiments": (
        *("id", "experiment_id", "name", "display_name", "created_at", "last_run_created_at", "description"),
        *("namespace", "storage_state"),
    ),
    "pipelines": ("id", "pipeline_id", "name", "display_name", "created_at", "description", "namespace"),
    "pipeline_versions": (
        *("id", "pipeline_version_id", "name", "display_name", "created_at", "status", "description"),
    ),
}
# backend/api/v2beta1/filter.proto: an operation is its name or its number.
_OPERATIONS = {1: "EQUALS", 2: "NOT_EQUALS", 9: "IS_SUBSTRING"}
_TYPES = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "STRUCT": (dict,),
    "LIST": (list,),
}
# github.com/robfig/cron 1.2 (go.mod): of each field, the smallest and the largest number, and the names.
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_FIELDS = (
    *((0, 59, ()), (0, 59, ()), (0, 23, ()), (1, 31, ())),
    *((1, 12, _MONTHS), (0, 6, _DAYS)),
)


class RefusedError(Exception):
    """A response with an error.

    Attributes:
        status: Its status; the text is its message.
    """

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def page_of(collection, name, resources, query):
    """Returns a page of a list: validatedListOptions in server/list_request_util.go, list/list.go.

    Args:
        collection: ``runs``, ``recurringruns``, ``experiments``, ``pipelines`` or ``pipeline_versions``.
        name: Its name in the response.
        resources: The resources.
        query: Of the request.
    """
    size, token = int(query.get("page_size") or 20), query.get("page_token")
    if size < 0:
        raise RefusedError(400, f"The page size should be greater than 0. Got {size}")
    asked = {
        "sort": _sorting(collection, query.get("sort_by", "")),
        "filter": _predicates(collection, query.get("filter", "")),
    }
    start = 0
    if token:
        try:
            following = json.loads(base64.b64decode(token, validate=True))
        except ValueError:
            raise RefusedError(400, "Invalid page token") from None
        start = following.pop("start")
        if not query.get("sort_by") and not query.get("filter"):
            asked = following
        if asked != following:
            raise RefusedError(
                400, "page token does not match the supplied sort by and/or filtering criteria"
            )
    found = sorted(resources, key=lambda resource: str(resource.get(asked["sort"][0], "")))
    for key, operation, value in asked["filter"]:
        found = [resource for resource in found if _matches(str(resource.get(key)), operation, value)]
    if asked["sort"][1] == "desc":
        found.reverse()
    size = min(size, 200)
    page = {name: found[start : start + size], "total_size": len(found)}
    if start + size < len(found):
        following = json.dumps({**asked, "start": start + size})
        page["next_page_token"] = base64.b64encode(following.encode()).decode()
    return page


def _sorting(collection, text):
    words = text.lower().split() or ["created_at"]
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise RefusedError(400, f"Received invalid sort by format {text!r}")
    if words[0] not in _FIELDS[collection]:
        raise RefusedError(400, f"Invalid sorting field: {words[0]!r}")
    return [words[0], *words[1:]] if len(words) == 2 else [words[0], "asc"]


def _predicates(collection, text):
    """parseAPIFilter: the text was decoded with the URL, and is decoded once more."""
    if re.search("%(?![0-9a-fA-F]{2})", text):
        raise RefusedError(400, f"failed to parse valid filter from {text!r}: invalid URL escape")
    try:
        content = json.loads(urllib.parse.unquote_plus(text) or "{}")
    except ValueError:
        raise RefusedError(400, f"failed to parse valid filter from {text!r}") from None
    if content.keys() - {"predicates"}:
        raise RefusedError(400, f"failed to parse valid filter from {text!r}: unknown field")
    found = []
    for predicate in content.get("predicates", []):
        value = predicate.get("stringValue", predicate.get("string_value"))
        if predicate.keys() - {"operation", "key", "stringValue", "string_value"} or value is None:
            raise RefusedError(400, f"failed to parse valid filter from {text!r}: unknown field")
        operation = _OPERATIONS.get(predicate["operation"], predicate["operation"])
        if operation not in _OPERATIONS.values():
            raise RefusedError(400, f"invalid predicate operation: {operation}")
        if predicate["key"] not in _FIELDS[collection]:
            raise RefusedError(400, f"no support for filtering on unrecognized field {predicate['key']!r}")
        found.append([predicate["key"], operation, value])
    return found


def _matches(value, operation, wanted):
    # MySQL's collation does not distinguish upper and lower case.
    value, wanted = value.lower(), wanted.lower()
    if operation == "IS_SUBSTRING":
        return wanted in value
    return (value == wanted) == (operation == "EQUALS")


def check_length(model, field, value, limit):
    """validation/length.go."""
    if len(value.encode()) > limit:
        raise RefusedError(400, f"{model}.{field} length cannot exceed {limit}")


def check_kubernetes_name(kind, name):
    """storage/pipeline_store_kubernetes.go: IsDNS1123Subdomain."""
    part = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    if len(name) > 253 or not re.fullmatch(rf"{part}(\.{part})*", name):
        raise RefusedError(400, f"Invalid {kind} name {name!r}: not a lowercase RFC 1123 subdomain")


def check_inputs(declared, given):
    """validatePipelineJobInputs in template/v2_template.go."""
    for name, parameter in declared.items():
        if name not in given:
            if not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise RefusedError(
                    400, f"parameter {name} is not optional, yet has neither default value nor ..."
                )
            continue
        kind, value = parameter["parameterType"], given[name]
        # In JSON, true is not a number.
        is_bool = isinstance(value, bool)
        if not isinstance(value, _TYPES[kind]) or is_bool != (kind == "BOOLEAN"):
            raise RefusedError(400, f"input parameter {name} requires type {kind}")
        if parameter.get("literals") and value not in parameter["literals"]:
            raise RefusedError(
                400, f"input parameter {name} value {value!r} is not one of the allowed literals"
            )
    if extra := given.keys() - declared.keys():
        raise RefusedError(
            400, f"parameter(s) provided are not required by pipeline: {', '.join(sorted(extra))}"
        )


def check_cron(text):
    """toModelJob in server/api_converter.go: cron.Parse, whose first field is the second."""
    fields = text.split()
    if len(fields) not in (5, 6):
        raise RefusedError(400, f"Schedule cron is not a supported format: {len(fields)} fields")
    for field, (smallest, largest, names) in zip(fields, _CRON_FIELDS, strict=False):
        for term in field.split(","):
            span, slash, step = term.partition("/")
            ends = [] if span in ("*", "?") else span.split("-")
            numbers = [
                smallest + names.index(end.lower()) if end.lower() in names else int(end)
                for end in ends
                if end.lower() in names or end.isdigit() or _refuse_cron(term)
            ]
            if (slash and not step.isdigit()) or step == "0" or len(ends) > 2:
                _refuse_cron(term)
            if numbers != sorted(numbers) or any(not smallest <= number <= largest for number in numbers):
                _refuse_cron(term)


def _refuse_cron(term):
    raise RefusedError(400, f"Schedule cron is not a supported format: {term}")
