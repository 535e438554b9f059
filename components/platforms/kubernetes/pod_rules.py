"""What Kubernetes requires of a pod's resources, nodes and secrets, checked before it is asked to create one.

The rules are those of Kubernetes 1.36: pkg/apis/core/validation/validation.go (ValidateTolerations,
ValidateNodeSelector's labels, validateContainerResourceName) and the names in
staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go.
"""

import re
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError

GPU_RESOURCE = "nvidia.com/gpu"
TPU_RESOURCE = "google.com/tpu"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_NAME = r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
_QUALIFIED_NAME = re.compile(rf"({_SUBDOMAIN}/)?{_LABEL_NAME}", re.ASCII)
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME})?", re.ASCII)
_SUBDOMAIN_NAME = re.compile(_SUBDOMAIN, re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_MAX_SUBDOMAIN = 253
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_OPERATORS = ("Equal", "Exists")
_TOLERATION_FIELDS = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
_TOLERATION_EXAMPLE = '[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]'


def check_node_selector(name: str, value: Any) -> None:
    """Rejects a node selector that is not an object of labels.

    Args:
        name: The argument.
        value: Its value, parsed from JSON.

    Raises:
        InvalidArgumentError: naming the label.
    """
    remedy = 'write {"cloud.google.com/gke-accelerator": "nvidia-l4"}'
    if not isinstance(value, Mapping) or not all(isinstance(label, str) for label in value.values()):
        raise InvalidArgumentError(f"{name}={value!r} is not a JSON object of strings", remedy=remedy)
    for key, label in value.items():
        if not _is_qualified_name(key):
            raise InvalidArgumentError(
                f"{name}: {key!r} is not a valid label of a node",
                remedy=f"{remedy}; the key is NAME or DOMAIN/NAME",
            )
        if not _LABEL_VALUE.fullmatch(label):
            raise InvalidArgumentError(
                f"{name}: {key}={label!r} is not a valid label value",
                remedy="use at most 63 letters, digits, -, _ and ., with a letter or digit at both ends",
            )


def check_tolerations(name: str, value: Any) -> None:
    """Rejects tolerations that Kubernetes would not accept.

    Args:
        name: The argument.
        value: Its value, parsed from JSON.

    Raises:
        InvalidArgumentError: naming the toleration's position and field.
    """
    if not isinstance(value, list) or not all(isinstance(toleration, dict) for toleration in value):
        raise InvalidArgumentError(
            f"{name}={value!r} is not a JSON list of objects", remedy=f"write {_TOLERATION_EXAMPLE}"
        )
    for index, toleration in enumerate(value):
        if problem := _toleration_problem(toleration):
            raise InvalidArgumentError(
                f"{name}[{index}]: {problem}", remedy=f"correct it, e.g. {_TOLERATION_EXAMPLE}"
            )


def _toleration_problem(toleration: Mapping[str, Any]) -> str:
    for field, value in toleration.items():
        kind = _TOLERATION_FIELDS.get(field)
        if kind is None:
            return f"there is no field {field!r}; allowed are {', '.join(_TOLERATION_FIELDS)}"
        # KFP writes every number as a float.
        is_whole = kind is int and isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, kind) or is_whole):
            return f"{field}={value!r} must be {'a whole number' if kind is int else 'text'}"
    key, operator = toleration.get("key", ""), toleration.get("operator", "") or "Equal"
    value, effect = toleration.get("value", ""), toleration.get("effect", "")
    if key and not _is_qualified_name(key):
        return f"key={key!r} is not a valid key of a taint"
    if operator not in _OPERATORS:
        return f"operator={operator!r}: allowed are {', '.join(_OPERATORS)}"
    if not key and operator != "Exists":
        return "without a key, which means all taints, operator must be Exists"
    if operator == "Exists" and value:
        return f"value={value!r} must be empty with operator Exists"
    if not _LABEL_VALUE.fullmatch(value):
        return f"value={value!r} is not a valid value of a taint"
    if effect and effect not in _EFFECTS:
        return f"effect={effect!r}: allowed are {', '.join(_EFFECTS)}"
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        return "tolerationSeconds requires effect NoExecute"
    return ""


def check_quantity(name: str, text: str) -> None:
    """Rejects an invalid quantity, or one of zero.

    Raises:
        InvalidArgumentError: naming the argument, its value and valid examples.
    """
    match = _QUANTITY.fullmatch(text)
    if not match or not float(match[1]):
        raise InvalidArgumentError(
            f"{name}={text!r} is not a valid Kubernetes quantity",
            remedy="write processors as 4 or 500m, and memory as 16G or 16Gi",
        )


def check_accelerator(prefix: str, kind: str, count: int) -> None:
    """Rejects an accelerator that Kubernetes has no name for, or whose count or kind is missing.

    Args:
        prefix: ``train`` or ``trial``, of the arguments' names.
        kind: The resource name; empty = none.
        count: How many.

    Raises:
        InvalidArgumentError: naming the argument.
    """
    if bool(kind) != bool(count):
        raise InvalidArgumentError(
            f"{prefix}_accelerator_type={kind!r} and {prefix}_accelerator_count={count}: one of the two is "
            "missing",
            remedy="set both, or neither",
        )
    # Other names without a domain are unknown; kubernetes.io is reserved for Kubernetes' own.
    domain, slash, _ = kind.rpartition("/")
    if kind and (not slash or not _is_qualified_name(kind) or domain.endswith("kubernetes.io")):
        raise InvalidArgumentError(
            f"{prefix}_accelerator_type={kind!r} is not the resource name of an accelerator",
            remedy=f"use {GPU_RESOURCE} or {TPU_RESOURCE}, or the name that `kubectl describe node` lists",
        )


def check_namespace(name: str, value: str) -> None:
    """Rejects a value that no namespace can have as its name; empty is allowed.

    Raises:
        InvalidArgumentError: naming the argument, ``name``, and its value.
    """
    if value and not _LABEL.fullmatch(value):
        raise InvalidArgumentError(
            f"{name}={value!r} is not a valid name of a namespace",
            remedy="use at most 63 lower-case letters, digits and -, with a letter or digit at both ends",
        )


def check_object_name(name: str, value: str, kind: str) -> None:
    """Rejects a value that no ServiceAccount or Secret can have as its name.

    Raises:
        InvalidArgumentError: naming the argument, ``name``, and its value.
    """
    if not is_subdomain(value):
        raise InvalidArgumentError(
            f"{name}={value!r} is not a valid name of a {kind} in Kubernetes",
            remedy="use lower-case letters, digits, - and ., with a letter or digit at both ends",
        )


def is_subdomain(value: str) -> bool:
    """Returns whether Kubernetes accepts a name of a Secret, a ServiceAccount, ...: a DNS subdomain."""
    return len(value) <= _MAX_SUBDOMAIN and bool(_SUBDOMAIN_NAME.fullmatch(value))


def _is_qualified_name(text: str) -> bool:
    return len(text.rpartition("/")[0]) <= _MAX_SUBDOMAIN and bool(_QUALIFIED_NAME.fullmatch(text))
