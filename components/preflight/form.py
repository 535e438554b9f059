"""The form for people: few inputs with names that explain themselves, and all other arguments by name.

The input ``settings`` takes the other arguments. The first step checks them and passes them to the others.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.arguments import (
    RunValues,
    argument,
    checked_value,
    flat_fields,
    named_field,
    nearest_name,
)
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.platforms.kubernetes.pod_rules import GPU_RESOURCE, TPU_RESOURCE
from imgpipe.components.preflight.pipeline_inputs import BATCH_PREDICT, PIPELINES, RETRAIN, TRAIN, TUNE
from imgpipe.components.preflight.pod_fields import pod_fields
from imgpipe.components.preflight.target_rules import DEPLOY_TARGETS
from imgpipe.components.tune.katib_arguments import KATIB, KatibArguments
from imgpipe.components.validate.arguments import ValidateArguments

SETTINGS = "settings"
ACCELERATOR, ACCELERATOR_COUNT, NO_ACCELERATOR = "accelerator", "accelerator_count", "none"
_IMAGE_KINDS = {NO_ACCELERATOR: "cpu", GPU_RESOURCE: "gpu", TPU_RESOURCE: "tpu"}


@dataclasses.dataclass(frozen=True)
class TrainingImages:
    """The images of the training, of which a form selects one."""

    training_images: str = argument("{}", "Our images by kind, as a JSON object: cpu, gpu and tpu.")


# Arguments that the first step passes on as outputs, by name.
FORM_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "data_version": "version",
        "train_image": "pod_image",
        "train_cpu": "pod_cpu",
        "train_memory": "pod_memory",
        "train_accelerator_type": "pod_accelerator_type",
        "train_accelerator_count": "pod_accelerator_count",
        "train_node_selector": "pod_node_selector",
        "train_tolerations": "pod_tolerations",
    }
)
# The output with the other arguments of a step; ``others`` = of all steps that are not named.
SETTINGS_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "convert": "convert_settings",
        "validate": "validate_settings",
        "train": "training_settings",
        "others": "other_settings",
    }
)
SETTINGS_FIELD = named_field(
    SETTINGS, argument({}, "The arguments of this step that have no input of their own, by name.")
)
_COMMON = ("images", "train_csv", "job_dir", "recipe", "max_minutes", "min_accuracy")
_DEPLOYMENT = ("deploy_target", "deploy_dir")
# What is already code in Markdown; and what has characters that would make the text italic.
_MARKDOWN_SYNTAX = re.compile(r"`[^`]*`|\{[^{}]+\}|[\w/.:=;,*-]*[_*]([\w/.:=;,*-]*[\w*])?")
_SENTENCE_END = re.compile(r"(?<=\.)(?<!e\.g\.) ")
# Characters of a field in the manual, if its first sentence is not longer.
_MANUAL_LINE = 130
_EVERYWHERE = (ACCELERATOR, ACCELERATOR_COUNT, SETTINGS, "storage_secret", "webhook_secret")
# The fields of each form besides those that all forms have.
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        TRAIN: (*_COMMON, "validation_csv", "model_type", *_DEPLOYMENT),
        TUNE: (*_COMMON, "tune", "max_trials", "tune_engine", *_DEPLOYMENT),
        RETRAIN: (*_COMMON, "validation_csv", "tolerance", *_DEPLOYMENT),
    }
)

# What has to be filled in.
REQUIRED: Mapping[str, str] = MappingProxyType(
    {
        TRAIN: "Fill in `images` or `train_csv`.",
        TUNE: "Fill in `images` or `train_csv`, and `tune`.",
        RETRAIN: "Fill in `images` or `train_csv`, and the `deploy_target` and `deploy_dir` of the deployed "
        "model.",
        BATCH_PREDICT: "Fill in `model`, and one of `images`, `image_list` and `records`.",
    }
)
# Descriptions for a person who has only the form; ``recipe`` has its own.
_TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "deploy_dir": "Folder for the deployed model, with one numbered subfolder per version, e.g. "
        "gs://bucket/serving/flowers. Required if deploy_target is not none.",
        "deploy_target": "Where to deploy the model if it is accurate enough: nowhere, KServe, or a Vertex "
        "AI endpoint. vertex requires project, region and serving_image in settings.",
        "images": "Folder with one subfolder of images per label, e.g. gs://bucket/flowers or "
        "s3://bucket/flowers. Fill in either images or train_csv.",
        "job_dir": "Folder for the model and the checkpoints, e.g. gs://bucket/runs/flowers_1. Empty = the "
        "model is only an artifact of the run.",
        "max_minutes": "Time limit of the training in minutes; the number of steps follows from it. 0 = no "
        "limit, but 8 on a CPU and 60 on a GPU or TPU with head-then-fine-tune.",
        "max_trials": "Number of trials. 0 = 10, or as hyperparameters in settings says.",
        "min_accuracy": "Minimum top-1 accuracy for deployment, e.g. 0.9. 0 = any.",
        "model_type": "The network. auto = as the recipe says. mobilenet-v3-small is the smallest and "
        "fastest, then mobilenet-v3-large, mobilenet-v2, resnet-18 and efficientnet-b0; convnext-tiny and "
        "convnext-small are accurate and slow; within a family, a larger number means more accurate and "
        "slower.",
        "storage_secret": "Secret with the credentials for Cloud Storage or S3, for pods without an identity "
        "of their own. The secret need not exist.",
        "tolerance": "How far the top-1 accuracy may be below that of the deployed model on the same images, "
        "e.g. 0.005.",
        "train_csv": "CSV file that lists the training images, one path,label per line, e.g. "
        "gs://bucket/train.csv. Fill in either train_csv or images.",
        "tune": "What to search, e.g. initial_learning_rate=log:0.001:0.2;train_batch_size=16,32,64. A range "
        "is log:MIN:MAX, linear:MIN:MAX or reverse-log:MIN:MAX. May stay empty if settings has "
        "hyperparameters.",
        "tune_engine": "Where the trials run: local (several at a time in the pod of the tune step) or "
        "katib (each in a pod of a Katib Experiment; requires a job_dir in a bucket).",
        "validation_csv": "CSV file that lists the validation images, in the format of train_csv. Empty = "
        "some of the images of train_csv are set aside.",
        "webhook_secret": "Secret whose entry url is an address that gets a POST request when the run ends. "
        "The secret need not exist.",
    }
)


def known_fields(pipeline: str) -> "dict[str, Field[Any]]":
    """Returns all arguments of a pipeline on Kubeflow, with and without a field in its form."""
    katib = (KatibArguments,) if pipeline == TUNE else ()
    return {**flat_fields((*PIPELINES[pipeline], *katib)), **pod_fields()}


def form_fields(pipeline: str) -> "dict[str, Field[Any]]":
    """Returns the fields of a pipeline's form on Kubeflow, with the descriptions of the form."""
    known = {**known_fields(pipeline), **_own_fields()}
    names = (*FORMS[pipeline], *_EVERYWHERE)
    return {name: _form_field(name, known[name]) for name in names}


def _form_field(name: str, known: "Field[Any]") -> "Field[Any]":
    metadata = {**known.metadata, "description": _TEXTS.get(name, known.metadata["description"])}
    if name == "deploy_target":
        metadata["choices"] = DEPLOY_TARGETS["kubeflow"]
    return named_field(name, dataclasses.field(default=known.default, metadata=metadata))


def form_manual(description: str, required: str, fields: "Mapping[str, Field[Any]]") -> str:
    """Returns a short manual of a form in Markdown; Kubeflow shows no descriptions of fields.

    It has the beginning of each description: Kubeflow's page shows what fits on the screen, and does not
    scroll.

    Args:
        description: What the pipeline does.
        required: What has to be filled in.
        fields: The fields of the form.
    """
    lines = [
        f"- `{name}`: {_beginning(field.metadata['description'])}" for name, field in sorted(fields.items())
    ]
    text = "\n".join([description, "", f"{required} All other fields may stay as they are.", "", *lines])
    return _MARKDOWN_SYNTAX.sub(lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`", text)


def _beginning(description: str) -> str:
    """Returns the first sentence, and the following ones as far as they are short."""
    first, *others = _SENTENCE_END.split(description)
    for sentence in others:
        if len(first) + len(sentence) > _MANUAL_LINE:
            break
        first += f" {sentence}"
    return first


def _own_fields() -> "dict[str, Field[Any]]":
    declared = {
        ACCELERATOR: argument(
            NO_ACCELERATOR,
            "Accelerator of the training: none, an NVIDIA GPU or a TPU. It also selects the image of the "
            "training.",
            choices=tuple(_IMAGE_KINDS),
        ),
        ACCELERATOR_COUNT: argument(1, "Number of accelerators; ignored if accelerator is none.", minimum=1),
        SETTINGS: argument(
            {},
            "Any other argument by its name, as a JSON object, e.g. "
            f"{json.dumps({'train_batch_size': 64, 'train_memory': '16G'})}. The names are those of the "
            "page docs/arguments.md.",
        ),
    }
    return {name: named_field(name, field) for name, field in declared.items()}


def expand_settings(
    pipeline: str, values: Mapping[str, Any], images: Mapping[str, str] = MappingProxyType({})
) -> RunValues:
    """Returns the arguments that a filled-in form means.

    Args:
        pipeline: A name in ``FORMS``.
        values: The form's fields by name, including ``settings``. There, text may also be written as a
            number, a list or an object. Other values are returned as they are.
        images: Our training images by kind: ``cpu``, ``gpu``, ``tpu``.

    Raises:
        InvalidArgumentError: for a name in ``settings`` that no argument has or that has a field of its own,
            or a value of the wrong type or size; all of them together.
    """
    form, known, own = form_fields(pipeline), known_fields(pipeline), _own_fields()
    problems, remedies = list[str](), list[str]()
    fields, given = dict[str, Any](), dict[str, Any]()
    for name, field in form.items():
        try:
            fields[name] = checked_value(field, values[name])
        except InvalidArgumentError as error:
            problems.append(error.problem)
            remedies.append(f"correct the field {name}")
    for name, value in fields.get(SETTINGS, {}).items():
        if name in form:
            problems.append(f"settings.{name}: {name} has a field of its own")
            remedies.append(f"fill in the field {name}, and remove it from settings")
        elif name not in known:
            problems.append(f"settings.{name}: there is no such argument")
            remedies.append(nearest_name(name, [other for other in known if other not in form]))
        else:
            text = isinstance(known[name].default, str)
            try:
                given[name] = checked_value(known[name], _as_text(value) if text else value)
            except InvalidArgumentError as error:
                problems.append(f"settings.{error.problem}")
                remedies.append(f"correct the value of {name} in settings")
    if problems:
        raise InvalidArgumentError("; ".join(problems), remedy="; ".join(dict.fromkeys(remedies)))
    arguments = {name: value for name, value in {**values, **fields}.items() if name not in own}
    return RunValues(pipeline, arguments, {**_accelerator_values(fields, images), **given})


def _as_text(value: Any) -> Any:
    """Returns a number as text, and a list or an object as JSON; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | list | dict):
        return value
    return json.dumps(_with_whole_numbers(value))


def _with_whole_numbers(value: Any) -> Any:
    """Returns a JSON value with 8 in place of 8.0: Kubeflow Pipelines passes on all numbers as floats."""
    if isinstance(value, dict):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@contextmanager
def settings_named(pipeline: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Adds to an error which of its arguments are in ``settings``, or have to be given there."""
    try:
        yield
    except PipelineError as error:
        if named := _named_in(error.problem, settings):
            error.where = "; ".join(filter(None, (f"the field settings: {', '.join(named)}", error.where)))
        if isinstance(error, InvalidArgumentError):
            others = known_fields(pipeline).keys() - form_fields(pipeline).keys() - settings.keys()
            if named := _named_in(error.remedy, sorted(others)):
                error.remedy += f" ({', '.join(named)}: in the field settings)"
        raise


def _named_in(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]


def _accelerator_values(fields: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    kind, count = fields[ACCELERATOR], fields[ACCELERATOR_COUNT]
    image = {"train_image": images[_IMAGE_KINDS[kind]]} if images else {}
    if kind == NO_ACCELERATOR:
        return image
    if fields.get("tune_engine") == KATIB:
        return {**image, "trial_accelerator_type": kind, "trial_accelerator_count": count}
    return {**image, "train_accelerator_type": kind, "train_accelerator_count": str(count)}


def settings_of_steps(run: RunValues) -> dict[str, dict[str, Any]]:
    """Returns the arguments without a field that each kind of step gets.

    Those of the cached steps are only their own, so that other settings do not invalidate their cache. The
    training gets its initial weights from another step when it continues from the deployed model.
    """
    others = {name: value for name, value in run.settings.items() if name not in pod_fields()}
    kept = {"pretrained_checkpoint_path"} if run.pipeline == RETRAIN else set()
    of_step = {
        "convert": flat_fields([ConvertArguments]).keys(),
        "validate": flat_fields([ValidateArguments]).keys(),
        "train": others.keys() - kept,
        "others": others.keys(),
    }
    return {
        step: {name: value for name, value in others.items() if name in own} for step, own in of_step.items()
    }
