"""The inputs that a pipeline has on one target alone, as ``--input NAME=VALUE`` gives them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgpipe.components.common.arguments import flat_fields, from_values, nearest_name, parse_text
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.custom_job.arguments import CustomJobArguments
from imgpipe.components.platforms.kubernetes.quantity import check_quantity
from imgpipe.components.tune.katib_arguments import KATIB, KatibArguments
from imgpipe.pipelines.images import Images, check_image
from imgpipe.pipelines.kubernetes_machines import GPU_RESOURCE, TPU_RESOURCE
from imgpipe.pipelines.parameters import TUNE_PIPELINE_ARGUMENTS

# What a flag or config.yaml says, and is checked there against the table of machines.
_OTHERWISE_ON_VERTEX = {
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
    words: Sequence[str], *, target: str, form: str, tunes: bool, images: Images
) -> dict[str, Any]:
    """Returns the values of ``NAME=VALUE`` words in the types of the compiled pipeline's inputs.

    Args:
        words: What was given; a value of type dict or list is JSON.
        target: ``local``, ``kubeflow`` or ``vertex``.
        form: ``job`` or ``pipeline``; the training alone has none of them.
        tunes: Whether the pipeline is the one with the tune step.
        images: Names of our images.

    Raises:
        InvalidArgumentError: naming the input, its value and what to do.
    """
    if not words:
        return {}
    if form == "job":
        raise InvalidArgumentError(
            f"--input {words[0]}: the training alone was asked for, and it has no inputs of a pipeline",
            remedy="add --as pipeline, or leave --input out",
        )
    fields = _fields(target, images, tunes=tunes)
    otherwise = _OTHERWISE_ON_VERTEX if target == "vertex" else {}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise InvalidArgumentError(
                f"--input {word} has no {'value' if name else 'name'}", remedy="write --input NAME=VALUE"
            )
        if name in values:
            raise InvalidArgumentError(f"--input {name} is given twice", remedy="leave one of the two out")
        if name in flat_fields(TUNE_PIPELINE_ARGUMENTS):
            raise InvalidArgumentError(
                f"--input {word}: {name} is an argument of the training",
                remedy=f"give --{name}={text} after `--`",
            )
        if name in otherwise:
            raise InvalidArgumentError(
                f"--input {word}: {name} comes from {otherwise[name]}", remedy=f"give {otherwise[name]}"
            )
        if name not in fields:
            _refuse_unknown(name, [one for one in fields if one not in otherwise], target=target)
        values[name] = _value(fields[name], text)
    return values


def is_target_input(name: str) -> bool:
    """Tells whether a pipeline has such an input on one target alone; loads KFP, which takes a second."""
    return any(name in _fields(target, Images(), tunes=True) for target in ("kubeflow", "vertex"))


def image_for_accelerator(parameters: Mapping[str, Any], images: Images) -> dict[str, str]:
    """Returns our image for an accelerator that ``--input`` asks for, if no image is given; else nothing."""
    role = "trial" if parameters.get("tune_engine") == KATIB else "train"
    kind = {GPU_RESOURCE: "gpu", TPU_RESOURCE: "tpu"}.get(parameters.get(f"{role}_accelerator_type", ""))
    if not kind or parameters.get("train_image"):
        return {}
    return {"train_image": images.of_training(kind)}


def _fields(target: str, images: Images, *, tunes: bool) -> "dict[str, dataclasses.Field[Any]]":
    # Imported here: the targets load KFP, which takes a second.
    from imgpipe.pipelines.targets.kubeflow import KUBEFLOW
    from imgpipe.pipelines.targets.local import LOCAL
    from imgpipe.pipelines.targets.vertex import VERTEX

    known = {one.name: one for one in (LOCAL, KUBEFLOW, VERTEX)}[target]
    classes = known.step_arguments.get("tune", ()) if tunes else ()
    return {**known.inputs(images), **flat_fields(classes)}


def _refuse_unknown(name: str, known: Sequence[str], *, target: str) -> None:
    problem = f"--input {name}: the pipeline has no such input on target {target}"
    if not known:
        raise InvalidArgumentError(problem, remedy="leave it out: this target has none of its own")
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
    told = {dict: "a JSON object of texts", list: "a JSON list of objects"}[kind]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    entries = value.values() if isinstance(value, dict) else value
    of_entry = str if kind is dict else dict
    if not isinstance(value, kind) or not all(isinstance(entry, of_entry) for entry in entries):
        raise InvalidArgumentError(
            f"--input {field.name}={text} is not {told}", remedy=field.metadata["description"]
        )
    return value


def given_instead(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns a notice for each input whose value in ``parameters`` another one takes the place of."""
    return [
        f"{name}={parameters[name]} is ignored: --input says {value}"
        for name, value in given.items()
        if parameters.get(name, value) != value
    ]


def check_target_inputs(parameters: Mapping[str, Any], names: Sequence[str], *, target: str) -> None:
    """Checks the inputs among the parameters of a pipeline that it has on one target alone.

    Args:
        parameters: All of the pipeline's.
        names: Those that ``--input`` gave.
        target: ``kubeflow`` or ``vertex``.

    Raises:
        InvalidArgumentError: naming what is wrong or does not go together.
    """
    if not names:
        return
    if target == "vertex":
        from_values(CustomJobArguments, parameters)
        return
    for name in names:
        if name.endswith(("_cpu", "_memory")):
            check_quantity(f"--input {name}", parameters[name])
    if "train_image" in names:
        check_image(parameters["train_image"], name="--input train_image")
    kind, count = parameters.get("train_accelerator_type", ""), parameters.get("train_accelerator_count", "0")
    if not count.isascii() or not count.isdigit():
        raise InvalidArgumentError(
            f"--input train_accelerator_count={count} is no count", remedy="write a whole number, e.g. 1"
        )
    if bool(kind) != bool(int(count)):
        raise InvalidArgumentError(
            f"train_accelerator_type={kind!r} and train_accelerator_count={count}: one of the two is missing",
            remedy="give both with --input, or neither",
        )
    from_values(KatibArguments, parameters)
