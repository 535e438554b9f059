"""The deploy step as a KFP component."""

import json
from pathlib import Path

from kfp.dsl import Artifact, Input, Model, Output

from imgpipe.components.deploy.arguments import DeployArguments


def deploy(
    model: Input[Model],
    deployment: Output[Artifact],
    arguments: DeployArguments,
) -> None:
    """Deploys the model and waits until it answers; what served before comes back if it does not.

    Args:
        model: The checked SavedModel that the export step published.
        deployment: deployment.json: where the model is served, as which version, with how much traffic.
        arguments: The target and its settings.
    """
    from imgpipe.components.deploy.deploy import deploy as run_deployment

    made = run_deployment(Path(model.path), arguments)
    path = Path(deployment.path) / "deployment.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    deployment.metadata.update(made.to_json())
