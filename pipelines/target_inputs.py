"""The inputs that a pipeline has on only one target, given as ``--input NAME=VALUE``."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgpipe.components.common.arguments import flat_fields, nearest_name, parse_text
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.kubernetes.pod_rules import GPU_RESOURCE, TPU_RESOURCE
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.tune.katib_arguments import KATIB
from imgpipe.pipelines.images import Images

# Inputs that a flag or config.yaml sets, where they are checked against the table of machines.
_SET_BY_FLAGS_ON_VERTEX = {
    "train_machine_type": "--master-machine-type",
    "train_accelerator_type": "--master-accelerator",
    "train_accelerator_count": "--master-accelerator",
    "train_tpu_topology": "acceleratorConfig.tpuTopology in config.yaml",
    "train_replicas": "--worker-count",
    "train_image": "--master-image-uri",
    "train_boot_disk_gb": "diskConfig.bootDiskSizeGb in config.yaml",
    "train_strategy": "--strategy",
    "train_worker_pools": "the flags of machines, or config.yaml",
    "service_account": "--service-account",
    "network": "--network",
    "encryption_key": "--kms-key",
    "labels": "--labels",
    "vertex_endpoint": "--endpoint",
}


def parse_target_inputs(
    settings: Sequence[str], *, target: str, form: str, tunes: bool, images: Images
) -> dict[str, Any]:
    """Returns the values of ``NAME=VALUE`` settings, converted to the types of the pipeline's inputs.

    Args:
        settings: The settings; a value of type dict or list is JSON.
        target: ``local``, ``kubeflow`` or ``vertex``.
        form: ``job`` or ``pipeline``; only a pipeline has inputs.
        tunes: Whether the pipeline has the step tune.
        images: Names of imgpipe's images.

    Raises:
        InvalidArgumentError: naming the input, its value and what to do.
    """
    if not settings:
        return {}
    if form == "job":
        raise InvalidArgumentError(
            f"--input {settings[0]}: only a pipeline has inputs, but only the training runs",
            remedy="add --as pipeline, or omit --input",
        )
    fields = target_fields(target, images, tunes=tunes)
    set_by = _SET_BY_FLAGS_ON_VERTEX if target == "vertex" else {}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise InvalidArgumentError(
                f"--input {setting} has no {'value' if name else 'name'}", remedy="write --input NAME=VALUE"
            )
        if name in values:
            raise InvalidArgumentError(f"--input {name} is given twice", remedy="omit one of the two")
        if name in flat_fields(TUNE_PIPELINE_ARGUMENTS):
            raise InvalidArgumentError(
                f"--input {setting}: {name} is a training argument",
                remedy=f"use --{name}={text} after `--`",
            )
        if name in set_by:
            raise InvalidArgumentError(
                f"--input {setting}: {name} is set by {set_by[name]}", remedy=f"use {set_by[name]}"
            )
        if name not in fields:
            _raise_unknown(name, [known for known in fields if known not in set_by], target=target)
        values[name] = _value(fields[name], text)
    return values


def is_target_input(name: str) -> bool:
    """Returns whether a pipeline has this input on only one target; loads KFP, which takes a second."""
    return any(name in target_fields(target, Images(), tunes=True) for target in ("kubeflow", "vertex"))


def image_for_accelerator(parameters: Mapping[str, Any], images: Images) -> dict[str, str]:
    """Returns imgpipe's image for an accelerator that ``--input`` requests, unless an image is given."""
    role = "trial" if parameters.get("tune_engine") == KATIB else "train"
    kind = {GPU_RESOURCE: "gpu", TPU_RESOURCE: "tpu"}.get(parameters.get(f"{role}_accelerator_type", ""))
    if not kind or parameters.get("train_image"):
        return {}
    return {"train_image": images.of_training(kind)}


def target_fields(target: str, images: Images, *, tunes: bool) -> "dict[str, dataclasses.Field[Any]]":
    """Returns the inputs that a pipeline has only on this target."""
    # Imported here: the targets load KFP, which takes a second.
    from imgpipe.pipelines.targets.kubeflow import KUBEFLOW
    from imgpipe.pipelines.targets.local import LOCAL
    from imgpipe.pipelines.targets.vertex import VERTEX

    known = {known.name: known for known in (LOCAL, KUBEFLOW, VERTEX)}[target]
    classes = known.step_arguments.get("tune", ()) if tunes else ()
    return {**known.inputs(images), **flat_fields(classes)}


def _raise_unknown(name: str, known: Sequence[str], *, target: str) -> None:
    problem = f"--input {name}: the pipeline has no such input on target {target}"
    if not known:
        raise InvalidArgumentError(problem, remedy="omit it: this target has no inputs of its own")
    raise InvalidArgumentError(problem, remedy=nearest_name(name, known))


def _value(field: Any, text: str) -> Any:
    kind = type(field.default)
    if kind not in (dict, list):
        try:
            return parse_text(field, text)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"--input {error.problem.removeprefix('--')}", remedy=error.remedy
            ) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"--input {field.name}={text} is not JSON: {error}", remedy=field.metadata["description"]
        ) from None


def overridden_notices(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns a notice for each value in ``parameters`` that ``--input`` overrides."""
    return [
        f"{name}={parameters[name]} is ignored: --input {name}={value} overrides it"
        for name, value in given.items()
        if parameters.get(name, value) != value
    ]
