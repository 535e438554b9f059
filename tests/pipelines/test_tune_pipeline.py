"""The pipeline image-classification-tune and its command, up to where trials begin."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.pipelines.parameters import TUNE_PIPELINE_ARGUMENTS

ROOT = Path(__file__).parents[2]
IMGPIPE = str(Path(sys.executable).parent / "imgpipe")


def spec_of(target, name="image_classification_tune"):
    text = (ROOT / "pipelines" / "compiled" / target / f"{name}.yaml").read_text()
    return next(iter(yaml.safe_load_all(text)))


def imgpipe(*arguments, cwd):
    return subprocess.run([IMGPIPE, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", ["local", "kubeflow", "vertex"])
def test_tune_stands_in_the_place_of_train_and_nothing_else_differs(target):
    tuned, plain = (spec_of(target, name)["root"]["dag"]["tasks"] for name in TWO)
    assert {name.replace("tune", "train") for name in tuned} == set(plain)
    for name, task in plain.items():
        if name != "train":
            assert yaml.safe_dump(tuned[name]).replace("tune", "train") == yaml.safe_dump(task)


TWO = ("image_classification_tune", "image_classification")


@pytest.mark.parametrize("target", ["local", "kubeflow", "vertex"])
def test_the_tune_step_has_the_machine_and_image_of_the_training(target):
    tuned, plain = (
        spec_of(target, name)["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        for name, step in zip(TWO, ("tune", "train"), strict=True)
    )
    assert (tuned["image"], tuned.get("resources")) == (plain["image"], plain.get("resources"))
    component = spec_of(target)["components"]["comp-tune"]
    assert set(flat_fields([TuneArguments])) <= set(component["inputDefinitions"]["parameters"])
    kinds = {
        name: one["artifactType"]["schemaTitle"]
        for name, one in component["outputDefinitions"]["artifacts"].items()
    }
    assert kinds == {
        "model": "system.Model",
        "metrics": "system.Metrics",
        "report": "system.HTML",
        "trials": "system.Artifact",
    }


def test_help_has_every_input_of_the_pipeline(tmp_path):
    result = imgpipe("tune", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for name in flat_fields(TUNE_PIPELINE_ARGUMENTS):
        assert "--" + name.replace("_", "-") in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["there is nothing to tune", "initial_learning_rate=log"]),
        (["--tune", "learning_rate=log:1:2"], ["no training argument 'learning_rate'"]),
        (["--tune", "label_smoothing=0:1"], ["a trial may have label_smoothing=1"]),
        (["--tune", "warmup_steps=0:90", "--max-steps", "50"], ["a trial may have warmup_steps=90"]),
        (["--config", "missing.yaml"], ["cannot read 'missing.yaml'"]),
        (["--hyperparameters", "{params: 3}"], ["hyperparameters.params=3: must be a list"]),
        (["--tune", "seed=1,2", "--max-trials", "-1"], ["max_trials=-1"]),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(arguments, words, tmp_path):
    result = imgpipe("tune", *arguments, cwd=tmp_path)
    assert result.returncode in (64, 66)
    for word in words:
        assert word in result.stderr
    assert not list(tmp_path.iterdir())
