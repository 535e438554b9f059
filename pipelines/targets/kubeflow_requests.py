"""What a run or a recurring run on Kubeflow is started with, and how it is recognized."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from imgpipe.components.platforms.kubeflow.client import KubeflowClient
from imgpipe.components.platforms.kubeflow.pipeline_versions import find_or_upload
from imgpipe.pipelines.images import release_name


@dataclass(frozen=True)
class RunRequest:
    """The request for a run or a recurring run.

    Attributes:
        parameters: Pipeline parameters; the others have their defaults.
        pipeline_file: The compiled pipeline.
        service_account: Service account of the pods; empty = the installation's default.
        pipeline_root: Location of the artifacts; empty = the installation's default.
    """

    parameters: Mapping[str, Any]
    pipeline_file: Path
    service_account: str = ""
    pipeline_root: str = ""

    @cached_property
    def pipeline_spec(self) -> dict[str, Any]:
        """The compiled pipeline as the API expects it."""
        with self.pipeline_file.open(encoding="utf-8") as stream:
            spec, platform = yaml.safe_load_all(stream)
        return {"pipeline_spec": spec, "platform_spec": platform}

    def fields(self, client: KubeflowClient) -> dict[str, Any]:
        """Returns the fields that a new run and a new recurring run share.

        The pipeline is the uploaded version with our version and the file's digest as its name. An account
        that may not upload pipelines sends the whole specification.
        """
        import kfp_server_api

        experiment = client.create_experiment()
        ids = self.upload(client)
        pipeline: dict[str, Any] = {"pipeline_spec": self.pipeline_spec}
        if ids is not None:
            reference = kfp_server_api.V2beta1PipelineVersionReference(
                pipeline_id=ids[0], pipeline_version_id=ids[1]
            )
            pipeline = {"pipeline_version_reference": reference}
        return {
            **pipeline,
            "experiment_id": experiment,
            "runtime_config": kfp_server_api.V2beta1RuntimeConfig(
                parameters=dict(self.parameters), pipeline_root=self.pipeline_root or None
            ),
            "service_account": self.service_account or None,
        }

    def upload(self, client: KubeflowClient) -> tuple[str, str] | None:
        """Uploads the pipeline once, with its description: the browser does not show the file's own.

        Returns:
            The ids of the pipeline and of its version, whose name is our version and the file's digest; None
            if the account may not create pipelines.
        """
        info = self.pipeline_spec["pipeline_spec"]["pipelineInfo"]
        digest = hashlib.sha256(self.pipeline_file.read_bytes()).hexdigest()
        return find_or_upload(
            client,
            info["name"],
            f"{release_name()}-{digest[:12]}",
            self.pipeline_file,
            description=info.get("description", ""),
        )

    def differences(self, found: Any, spec: Mapping[str, Any]) -> str:
        """Returns the difference to an existing run or recurring run, e.g. ``service account``; "" if none.

        ``spec`` is the specification of its pipeline; {} = unknown, because its version has been deleted.

        The pipeline is compared by its fingerprint, because the installation may change other parts of the
        text. An account or root that is not requested is ignored: the installation fills in its own.
        """
        config = found.runtime_config
        wanted = spec_fingerprint(self.pipeline_spec)
        existing = spec_fingerprint(spec)
        compared = {
            **{name: (existing[name], value) for name, value in wanted.items() if existing},
            "set of parameters": (dict((config and config.parameters) or {}), dict(self.parameters)),
        }
        if self.service_account:
            compared["service account"] = (found.service_account, self.service_account)
        if self.pipeline_root:
            compared["pipeline root"] = (config and config.pipeline_root, self.pipeline_root)
        return " and ".join(name for name, (existing, value) in compared.items() if existing != value)


def spec_fingerprint(document: Any) -> dict[str, Any]:
    """Returns a pipeline's name, images and defaults; {} if the document is not a pipeline specification."""
    if not isinstance(document, Mapping):
        return {}
    spec = document.get("pipeline_spec", document)
    if "pipelineInfo" not in spec:
        return {}
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    inputs = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {
        "pipeline": spec["pipelineInfo"].get("name"),
        "set of images": {
            name: executor.get("container", {}).get("image") for name, executor in executors.items()
        },
        "set of defaults": {name: declared.get("defaultValue") for name, declared in inputs.items()},
    }


def recurrence(cron: str) -> dict[str, Any]:
    """Returns the fields of a recurring run that determine its times; ``cron`` has five fields."""
    return {
        # Kubeflow's first field is the second.
        "cron_expression": f"0 {cron}",
        "max_concurrency": 1,
        # After an outage, missed runs are skipped.
        "no_catchup": True,
    }
