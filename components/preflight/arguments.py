"""Checks all arguments of a run on a target, before its first step starts and again in that step."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import checked_value, flat_fields, from_values
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.image_name import check_image
from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.common.shared_arguments import KSERVE_TARGET
from imgpipe.components.custom_job.arguments import CustomJobArguments
from imgpipe.components.platforms.kubernetes.pod_rules import (
    GPU_RESOURCE,
    TPU_RESOURCE,
    check_accelerator,
    check_namespace,
    check_node_selector,
    check_object_name,
    check_quantity,
    check_tolerations,
)
from imgpipe.components.preflight.pipeline_inputs import BATCH_PREDICT, PIPELINES, TUNE
from imgpipe.components.preflight.target_rules import check_deploy_target, check_paths
from imgpipe.components.storage import is_local
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.job_dir import check_local, check_shared_with_pods
from imgpipe.components.tune.katib_arguments import KATIB, LOCAL, KatibArguments

_Check = Callable[[], object]
_OUR_TRAINING_IMAGE = re.compile(r"imgpipe-train-(cpu|gpu|tpu)\b")
_IMAGE_KINDS = {GPU_RESOURCE: "gpu", TPU_RESOURCE: "tpu"}


def check_arguments(pipeline: str, target: str, values: Mapping[str, Any]) -> None:
    """Checks all arguments of a pipeline's steps and of their machines; reads no files and sends no requests.

    The first step of every compiled pipeline, `imgpipe run`, `submit`, `check` and `schedule` call it.

    Args:
        pipeline: ``image_classification``, ``image_classification_tune``, ``image_classification_retrain`` or
            ``batch_predict``.
        target: ``local``, ``kubeflow`` or ``vertex``.
        values: The pipeline's inputs; missing ones have their defaults. Others are ignored.

    Raises:
        InvalidArgumentError: naming every wrong value and what is allowed. Combinations are checked once each
            value alone is valid.
    """
    classes = list(PIPELINES[pipeline])
    trains = pipeline != BATCH_PREDICT
    if target == "kubeflow" and pipeline == TUNE:
        classes.append(KatibArguments)
    if target == "vertex" and trains:
        classes.append(CustomJobArguments)
    fields = flat_fields(classes)
    single: list[_Check] = [
        partial(checked_value, fields[name], values[name]) for name in fields if name in values
    ]
    single.append(partial(_check_texts, values))
    if values.get("deploy_target") == KSERVE_TARGET:
        single += _checks_of_deployment(values)
    if target == "kubeflow":
        single += _checks_of_pods(values, trains=trains)
    _raise_errors(single, remedy="correct the value, or omit the argument to use its default")
    combined: list[_Check] = [
        *(partial(from_values, arguments_class, values) for arguments_class in classes),
        partial(check_deploy_target, target, values),
        partial(check_paths, target, values),
        partial(_check_deploy_dir, values),
    ]
    if pipeline == TUNE:
        combined.append(partial(_check_tuning, target, values))
    if target == "kubeflow" and trains:
        combined.append(partial(_check_training_image, values))
    _raise_errors(combined)


def _raise_errors(checks: Iterable[_Check], *, remedy: str = "") -> None:
    """Raises the errors of checks together, each once: steps share arguments and report the same."""
    by_problem: dict[str, InvalidArgumentError] = {}
    for check in checks:
        try:
            check()
        except InvalidArgumentError as error:
            by_problem.setdefault(error.problem, error)
    errors = list(by_problem.values())
    if len(errors) == 1 and errors[0].remedy != "correct the value":
        raise errors[0]
    if errors:
        remedies = [error.remedy for error in errors if error.remedy != "correct the value"]
        raise InvalidArgumentError(
            "; ".join(by_problem),
            where="; ".join(dict.fromkeys(error.where for error in errors if error.where)),
            remedy="; ".join(dict.fromkeys(remedies)) or remedy,
        )


def _check_texts(values: Mapping[str, Any]) -> None:
    """Rejects text that KFP or the steps would misread.

    Raises:
        InvalidArgumentError: for text that is not Unicode, or KFP's own placeholder syntax.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            continue
        if not is_valid_unicode(value):
            raise InvalidArgumentError(
                f"{name}={value!r} is not Unicode text", remedy="rename the file or folder"
            )
        if "{{$" in value:
            raise InvalidArgumentError(
                f"{name}={value!r} contains '{{{{$', which Kubeflow Pipelines reads as a placeholder",
                remedy="rename the file or folder",
            )


def _check_deploy_dir(values: Mapping[str, Any]) -> None:
    """Rejects a deploy_dir inside the folder of images, where versions would be read as labels.

    Raises:
        InvalidArgumentError: if it is there.
    """
    images, deployed = values.get("images", ""), values.get("deploy_dir", "")
    if not images or not deployed or not (is_local(images) and is_local(deployed)):
        return
    folders = [Path(path).expanduser().absolute() for path in (images, deployed)]
    if folders[0] in (folders[1], *folders[1].parents):
        raise InvalidArgumentError(
            f"deploy_dir={deployed!r} is inside the folder of images, images={images!r}",
            remedy="use a deploy_dir outside of it: the model's versions would be read as labels",
        )


def _check_tuning(target: str, values: Mapping[str, Any]) -> None:
    """Checks the search space, and that the trials can write to the job_dir.

    Raises:
        InvalidArgumentError: if the space is missing or invalid, or the job_dir cannot be used.
    """
    from imgpipe.components.tune.search_space import check_search_space, read_request

    job_dir = str(values.get("job_dir", ""))
    if target == "kubeflow" and values.get("tune_engine", LOCAL) == KATIB:
        check_shared_with_pods(job_dir)
    elif target == "local":
        check_local(job_dir)
    request = read_request(from_values(TuneArguments, values))
    check_search_space(request, from_values(RecipeTrainingArguments, values))


def _checks_of_deployment(values: Mapping[str, Any]) -> Iterator[_Check]:
    """Yields checks for what Kubernetes would reject in the names of a deployment."""
    yield partial(check_namespace, "namespace", str(values.get("namespace", "")))
    if account := str(values.get("serving_service_account", "")):
        yield partial(check_object_name, "serving_service_account", account, "ServiceAccount")


def _checks_of_pods(values: Mapping[str, Any], *, trains: bool) -> Iterator[_Check]:
    """Yields checks for what Kubernetes would reject in the pods of the steps."""
    for name in ("storage_secret", "webhook_secret"):
        if name in values:
            yield partial(check_object_name, name, values[name], "Secret")
    if not trains:
        return
    for name in ("train_cpu", "train_memory"):
        if name in values:
            yield partial(check_quantity, name, values[name])
    yield partial(check_image, values.get("train_image", ""), name="train_image")
    yield partial(check_node_selector, "train_node_selector", values.get("train_node_selector", {}))
    yield partial(check_tolerations, "train_tolerations", values.get("train_tolerations", []))
    yield partial(_check_accelerator, values)


def _check_accelerator(values: Mapping[str, Any]) -> None:
    count = values.get("train_accelerator_count", "0")
    if not count.isascii() or not count.isdigit():
        raise InvalidArgumentError(
            f"train_accelerator_count={count} is not a count", remedy="write a whole number, e.g. 1"
        )
    check_accelerator("train", values.get("train_accelerator_type", ""), int(count))


def _check_training_image(values: Mapping[str, Any]) -> None:
    """Rejects our training image for another accelerator than the requested one.

    Raises:
        InvalidArgumentError: naming the image to give.
    """
    image = values.get("train_image", "")
    for name in ("train_accelerator_type", "trial_accelerator_type"):
        kind = _IMAGE_KINDS.get(values.get(name, ""))
        ours = _OUR_TRAINING_IMAGE.search(image)
        if kind and ours and ours[1] != kind:
            needed = image.partition("@")[0].replace(ours[0], f"imgpipe-train-{kind}")
            raise InvalidArgumentError(
                f"{name}={values[name]}, but train_image={image} has the TensorFlow for {ours[1].upper()}s",
                remedy=f"set train_image to {needed}{', with its own digest' if '@' in image else ''}",
            )
