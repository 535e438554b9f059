"""The deploy step as a KFP component."""

import json
from dataclasses import asdict
from pathlib import Path

from kfp.dsl import Artifact, Input, Model, Output

from imgpipe.components.deploy.arguments import DeployArguments


def deploy(
    exported_model: Input[Model],
    deployment: Output[Artifact],
    arguments: DeployArguments,
) -> None:
    """Deploys the model and waits until it answers; otherwise rolls back to the previous model.

    Args:
        exported_model: The checked SavedModel that the export component published.
        deployment: deployment.json: location, version and traffic share of the model.
        arguments: The deployment target and its settings.
    """
    from imgpipe.components.deploy.deploy import deploy as run_deployment

    deployed = asdict(run_deployment(Path(exported_model.path), arguments))
    path = Path(deployment.path) / "deployment.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(deployed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    deployment.metadata.update(deployed)
