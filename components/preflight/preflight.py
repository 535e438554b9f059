"""Checks a whole run in the first seconds of its first step."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgpipe.components.common.log import log_event
from imgpipe.components.common.shared_arguments import KSERVE_TARGET
from imgpipe.components.common.webhook import check_webhook
from imgpipe.components.platforms.kubernetes.storage_secret import (
    STORAGE_KEY_FOLDER,
    STORAGE_KEY_VARIABLE,
    storage_secret_error,
)
from imgpipe.components.preflight.arguments import check_arguments
from imgpipe.components.preflight.form import SETTINGS, expand_settings, settings_named
from imgpipe.components.preflight.inputs import check_inputs, check_outputs
from imgpipe.components.preflight.pipeline_inputs import TUNE
from imgpipe.components.tune.katib_arguments import KATIB

if TYPE_CHECKING:
    from imgpipe.components.platforms.kubernetes.client import Cluster

ClusterOf = Callable[[str, str], "Cluster"]


def check_run(pipeline: str, target: str, values: Mapping[str, Any], *, step: str) -> Mapping[str, Any]:
    """Checks everything that later steps need, as the account and in the kind of pod that they use.

    Args:
        pipeline: See ``check_arguments``.
        target: See ``check_arguments``.
        values: All inputs of the pipeline, or the fields of its form; and the inputs of this step.
        step: Its name, for the log.

    Returns:
        The values; those of a form with its settings by name.

    Raises:
        PipelineError: naming what is wrong, missing or not allowed, and what fixes it.
    """
    form: AbstractContextManager[None] = nullcontext()
    if SETTINGS in values:
        form = settings_named(pipeline, values[SETTINGS])
        values = expand_settings(pipeline, values, json.loads(values["training_images"]))
    with form:
        check_arguments(pipeline, target, values)
        check_webhook()
        if target == "kubeflow":
            check_storage_secret(str(values["storage_secret"]), Path(STORAGE_KEY_FOLDER))
            check_cluster_access(pipeline, values, _own_cluster)
        check_inputs(values)
        check_outputs(values)
    log_event(
        "checked", f"{step}: all arguments are valid; the input exists, the output folders can be written"
    )
    return values


def check_storage_secret(secret: str, folder: Path) -> None:
    """Checks the Secret with credentials for object stores where it is mounted.

    Args:
        secret: Its name.
        folder: Where Kubernetes mounts its entries: the folder is empty if there is no such Secret.

    Raises:
        MissingInputError: if a Secret was named that does not exist.
        InvalidArgumentError: if it lacks an entry, or the entry ``path`` does not name the key file.
    """
    if not folder.is_dir():
        # Not in a pod.
        return
    # Kubernetes' own links begin with two dots.
    entries = [file.name for file in folder.iterdir() if not file.name.startswith("..")]
    error = storage_secret_error(
        secret, entries, os.environ.get(STORAGE_KEY_VARIABLE, ""), folder=str(folder)
    )
    if error is not None:
        raise error


def check_cluster_access(
    pipeline: str, values: Mapping[str, Any], cluster: ClusterOf, *, account: str = ""
) -> None:
    """Checks that an account may create what the run will create in Kubernetes.

    Args:
        pipeline: See ``check_arguments``.
        values: All inputs of the pipeline.
        cluster: ``cluster(purpose, namespace)`` connects to a namespace; empty = the run's.
        account: Its user name; empty = the account of this pod.

    Raises:
        UnavailableError: if it may not, with the manifest that allows it.
        InterruptedRunError: if the API server cannot be reached.
    """
    deploys = values.get("deploy_target") == KSERVE_TARGET
    tunes = pipeline == TUNE and values.get("tune_engine") == KATIB
    if not deploys and not tunes:
        return
    # Imported here: it takes a second, and few runs need it.
    from imgpipe.components.platforms.kubernetes import access

    if deploys:
        namespace = cluster("deploy to", str(values.get("namespace", "")))
        access.check_access(namespace, access.KSERVE_NEEDS, f"deploy_target={KSERVE_TARGET}", account)
    if tunes:
        namespace = cluster("tune in", str(values.get("katib_namespace", "")))
        access.check_access(namespace, access.KATIB_NEEDS, f"tune_engine={KATIB}", account)
        own = cluster("tune in", "")
        access.check_access(own, access.CANCELLATION_NEEDS, f"tune_engine={KATIB}", account)


def _own_cluster(purpose: str, namespace: str) -> "Cluster":
    from imgpipe.components.platforms.kubernetes.client import connect

    return connect(purpose, namespace)
