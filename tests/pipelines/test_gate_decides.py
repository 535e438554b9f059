"""The pipeline's condition, dsl.If on the gate's output, in KFP's local runner."""

import json
import subprocess
import sys

import pytest
from kfp import compiler, dsl

from imgpipe.components.common.log import json_environment, parse_event
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.component import deploy
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.gate.component import gate
from imgpipe.pipelines.image_classification import image_classification
from imgpipe.pipelines.interface import make_component, make_pipeline, select_fields
from imgpipe.pipelines.targets.local import LOCAL


@pytest.fixture(scope="module")
def pipeline_file(tmp_path_factory):
    """Gate and deploy as in image_classification, with an existing evaluation and model."""

    def graph(inputs):
        evaluation = dsl.importer(
            artifact_uri=inputs["evaluation"], artifact_class=dsl.Artifact, reimport=True
        )
        model = dsl.importer(artifact_uri=inputs["model"], artifact_class=dsl.Model, reimport=True)
        gated = make_component(gate, base_image="x")(
            evaluation=evaluation.output, **select_fields(inputs, GateArguments)
        )
        with dsl.If(gated.outputs["Output"] == True):  # noqa: E712
            make_component(deploy, base_image="x")(
                model=model.output, **select_fields(inputs, DeployArguments)
            )

    from dataclasses import dataclass

    from imgpipe.components.common.arguments import argument, flat_fields

    @dataclass(frozen=True)
    class Locations:
        evaluation: str = argument("", "Location of the evaluation.")
        model: str = argument("", "Location of the model.")

    fields = flat_fields([Locations, GateArguments, DeployArguments])
    built = make_pipeline(graph, name="gate-and-deploy", description="A test.", fields=fields)
    path = tmp_path_factory.mktemp("pipeline") / "pipeline.yaml"
    compiler.Compiler().compile(built, str(path))
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    content = {"labels": ["a"], "top_1_accuracy": 0.9, "per_class": [{"recall": 0.9}], "comparison": None}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("min_accuracy", "deployed"), [(0.5, True), (0.95, False)])
def test_a_passing_model_is_deployed_and_a_blocked_one_ends_the_run_successfully(
    min_accuracy, deployed, pipeline_file, evaluation, tmp_path
):
    # There is no model: the error shows that deploy ran.
    request = {
        "pipeline": str(pipeline_file),
        "artifacts": str(tmp_path / "artifacts"),
        "parameters": {
            "evaluation": str(evaluation),
            "model": str(tmp_path / "no model"),
            "deploy_target": "local",
            "deploy_dir": str(tmp_path / "serving"),
            "min_accuracy": min_accuracy,
        },
    }
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe.pipelines.targets.local"],
        input=json.dumps(request),
        env=json_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    events = [event for event in map(parse_event, result.stdout.splitlines()) if event]
    ran = {event["step"] for event in events if event["event"] == "step_started"}
    failed = [event["problem"] for event in events if event["event"] == "step_failed"]
    if deployed:
        assert ran == {"gate", "deploy"}
        assert failed == [f"there is no SavedModel in {str(tmp_path / 'no model')!r}"]
    else:
        assert ran == {"gate"}
        assert result.returncode == 0
        assert failed == []
        summary = next(event["result"] for event in events if event["event"] == "step_result")
        assert summary.startswith("blocked, not deployed: top-1 accuracy 0.9000")


def test_the_pipeline_deploys_only_after_the_gate():
    tasks = image_classification(LOCAL).pipeline_spec.root.dag.tasks
    (condition,) = (task for name, task in tasks.items() if name.startswith("condition"))
    assert (
        "gate" in condition.trigger_policy.condition
        or "pipelinechannel--gate" in condition.trigger_policy.condition
    )
    assert "deploy" not in tasks
    assert set(tasks["gate"].dependent_tasks) == {"evaluate", "export"}
