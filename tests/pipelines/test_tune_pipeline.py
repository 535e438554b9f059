"""The pipeline image-classification-tune and its command, without running trials."""

import pytest
import yaml

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.tune.arguments import TuneArguments
from tests.command_line import run_command
from tests.pipelines.compiled import spec_of

NAMES = ("image_classification_tune", "image_classification")


@pytest.mark.parametrize("target", ["local", "kubeflow", "vertex"])
def test_tune_replaces_train_and_nothing_else_differs(target):
    tuned, plain = (spec_of(target, name)["root"]["dag"]["tasks"] for name in NAMES)
    assert {name.replace("tune", "train") for name in tuned} == set(plain)
    for name, task in plain.items():
        if "dependentTasks" not in task:
            # The first step checks the pipeline's inputs, which differ.
            checked = tuned[name]["inputs"]["parameters"]
            tuned[name]["inputs"]["parameters"] = {key: checked[key] for key in task["inputs"]["parameters"]}
        if name != "train":
            assert yaml.safe_dump(tuned[name]).replace("tune", "train") == yaml.safe_dump(task)


@pytest.mark.parametrize("target", ["local", "kubeflow", "vertex"])
def test_the_tune_step_has_the_machine_and_image_of_train(target):
    tuned, plain = (
        spec_of(target, name)["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        for name, step in zip(NAMES, ("tune", "train"), strict=True)
    )
    assert (tuned["image"], tuned.get("resources")) == (plain["image"], plain.get("resources"))
    component = spec_of(target, NAMES[0])["components"]["comp-tune"]
    assert set(flat_fields([TuneArguments])) <= set(component["inputDefinitions"]["parameters"])
    kinds = {
        name: artifact["artifactType"]["schemaTitle"]
        for name, artifact in component["outputDefinitions"]["artifacts"].items()
    }
    assert kinds == {
        "model": "system.Model",
        "metrics": "system.Metrics",
        "report": "system.HTML",
        "trials": "system.Artifact",
    }


# Nothing is left to search.
ALL_GIVEN = [
    *("--initial-learning-rate", "0.1", "--weight-decay", "0"),
    *("--augmentation", "none", "--model-type", "resnet-18"),
]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ALL_GIVEN,
            [
                "there is nothing to tune",
                "--tune initial_learning_rate=log:0.001:0.2, or --hyperparameters",
                "--config FILE",
            ],
        ),
        (["--tune", "learning_rate=log:1:2"], ["no training argument 'learning_rate'"]),
        (["--tune", "label_smoothing=0:1"], ["params: --label-smoothing 1.0: must be"]),
        (["--tune", "warmup_steps=0:90", "--max-steps", "50"], ["a trial may have --warmup-steps 90"]),
        (["--recipe", "nope"], ["--recipe 'nope': must be"]),
        (["--config", "missing.yaml"], ["cannot read 'missing.yaml'"]),
        (["--hyperparameters", "{params: 3}"], ["hyperparameters.params=3: must be a list"]),
        (["--tune", "seed=1,2", "--max-trials", "-1"], ["--max-trials -1"]),
    ],
)
def test_an_invalid_search_is_rejected_before_anything_is_written(arguments, messages, tmp_path):
    result = run_command("tune", *arguments, cwd=tmp_path)
    assert result.returncode in (64, 66)
    for message in messages:
        assert message in result.stderr
    assert not list(tmp_path.iterdir())
