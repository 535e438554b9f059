"""The step publish: whether deploy follows the gate in it, in KFP's local runner."""

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
from imgpipe.pipelines.interface import make_component, make_pipeline, select_fields
from tests.pipelines.compiled import spec_of


@pytest.fixture(scope="module")
def pipeline_file(tmp_path_factory):
    """Gate and deploy as in image_classification, with an existing evaluation and model."""

    def graph(inputs):
        evaluation = dsl.importer(
            artifact_uri=inputs["evaluation"], artifact_class=dsl.Artifact, reimport=True
        )
        model = dsl.importer(artifact_uri=inputs["model"], artifact_class=dsl.Model, reimport=True)
        make_component(gate, deploy, name="publish", base_image="x")(
            evaluation=evaluation.output,
            exported_model=model.output,
            **select_fields(inputs, GateArguments, DeployArguments),
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
        [problem] = failed
        assert str(tmp_path / "no model") in problem
    else:
        assert ran == {"gate"}
        assert result.returncode == 0
        assert failed == []
        summary = next(event["result"] for event in events if event["event"] == "step_result")
        assert summary.startswith("blocked, not deployed: top-1 accuracy 0.9000")
    # The decision is there in both cases.
    [decision] = tmp_path.glob("artifacts/*/publish/decision/decision.json")
    assert json.loads(decision.read_text())["passed"] is deployed
    [reasons] = tmp_path.glob("artifacts/*/publish/reasons")
    assert "top-1 accuracy 0.9000, at least" in reasons.read_text()


def test_the_user_interface_shows_the_decision_and_its_reasons():
    outputs = spec_of("kubeflow")["components"]["comp-publish"]["outputDefinitions"]["artifacts"]
    kinds = {name: output["artifactType"]["schemaTitle"] for name, output in outputs.items()}
    assert (kinds["decision"], kinds["reasons"]) == ("system.Artifact", "system.Markdown")
