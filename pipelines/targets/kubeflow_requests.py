"""What a run or a recurring run on Kubeflow is started with, and how it is recognized."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


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

    def differences(self, found: Any) -> str:
        """Returns the difference to an existing run or recurring run, e.g. ``service account``; "" if none.

        The pipeline is compared by its fingerprint, because the installation may change other parts of the
        text. An account or root that is not requested is ignored: the installation fills in its own.
        """
        config = found.runtime_config
        wanted = spec_fingerprint(self.pipeline_spec)
        existing = spec_fingerprint(found.pipeline_spec)
        compared = {
            # A run of an uploaded pipeline has no specification.
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
        # After an outage, missed runs are not made up for.
        "no_catchup": True,
    }
