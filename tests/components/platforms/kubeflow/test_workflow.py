"""The steps of a run, as its Workflow has them."""

import yaml

from imgpipe.components.platforms.kubeflow.workflow import steps_of
from imgpipe.pipelines.compiled_pipelines import COMPILED, TRAIN

_REFUSED = 'pods "flowers-impl-1" is forbidden: refused by a policy'


def _node(path, phase, kind="Retry", message=""):
    started = "02:31" if path.startswith("root(1)") else "02:29"
    name = f"flowers(0).{path}"
    return {"name": name, "type": kind, "phase": phase, "message": message, "startedAt": started}


def test_a_pod_refused_at_admission_is_the_failed_step_although_the_pipeline_was_tried_again():
    # As Argo 4.0.5 with KFP 2.17 leaves it: the second attempt of the pipeline fails in another driver.
    nodes = [
        _node("root(0).convert", "Succeeded"),
        _node("root(0).train", "Error", message="No more retries left"),
        _node("root(0).train(0).executor(0)", "Error", "Pod", _REFUSED),
        _node("root(1).convert-driver", "Failed", message="main: Error (exit code 1)"),
        _node("root(1).convert", "Omitted"),
        _node("root(1).train", "Omitted"),
        _node("root(1).evaluate", "Omitted"),
    ]
    workflow = {"status": {"finishedAt": "2026", "nodes": {str(i): node for i, node in enumerate(nodes)}}}
    file = COMPILED / "kubeflow" / f"{TRAIN}_all_arguments.yaml"
    spec = next(iter(yaml.safe_load_all(file.read_text(encoding="utf-8"))))
    steps = {step.name: step for step in steps_of(workflow, spec)}
    assert (steps["train"].state, steps["train"].message) == ("failed", _REFUSED)
    assert (steps["convert"].state, steps["evaluate"].state) == ("done", "not run")
