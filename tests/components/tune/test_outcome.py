"""The results of a tuning run in a job_dir in Cloud Storage."""

import json

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.job_dir import check_local, check_shared_with_pods
from imgpipe.components.tune.katib_arguments import KATIB, KatibArguments, TrialPodArguments
from imgpipe.components.tune.katib_component import tune
from imgpipe.components.tune.outcome import upload_models, upload_results
from imgpipe.components.tune.trials import SUCCEEDED, Trial, write_trials
from imgpipe.components.tune.tune import TuningResult


def trial_in(folder, number):
    model = folder / "model" / f"trial_{number}"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_text(str(number))
    (model / "variables" / "v").write_text("v")
    final = {"step": 1, "top_1_accuracy": 0.5, "loss": 1.0}
    return Trial(number, {"seed": number}, SUCCEEDED, final=final, model=str(model))


def test_models_and_report_of_a_search_in_the_step_are_uploaded_to_its_job_dir(cloud, tmp_path):
    trials = (trial_in(tmp_path, 1), trial_in(tmp_path, 2))
    write_trials(tmp_path / "trials.json", trials, extra={})
    (tmp_path / "tuning.html").write_text("<html>")
    job_dir = parse_location("gs://photos/tuned")
    upload_models(TuningResult(trials[0], trials), job_dir)
    upload_results(tmp_path, job_dir)
    found = cloud.contents("tuned/")
    assert found["model/trial_2/saved_model.pb"] == b"2"
    assert found["model/trial_1/variables/v"] == b"v"
    assert found["tuning.html"] == b"<html>"
    paths = [
        trial["builtInAlgorithmOutput"]["modelPath"] for trial in json.loads(found["trials.json"])["trials"]
    ]
    assert paths == ["gs://photos/tuned/model/trial_1", "gs://photos/tuned/model/trial_2"]


@pytest.mark.parametrize("job_dir", ["", "tuned", "/mnt/tuned"])
def test_a_job_dir_that_katib_pods_cannot_access_is_rejected(job_dir):
    with pytest.raises(InvalidArgumentError, match="cannot access this folder") as caught:
        check_shared_with_pods(job_dir)
    assert "gs:// or s3:// folder" in caught.value.remedy
    check_shared_with_pods("gs://photos/tuned")


def test_katib_without_a_job_dir_is_rejected_before_anything_is_written(tmp_path):
    class Output:
        path = str(tmp_path / "never")

    with pytest.raises(InvalidArgumentError, match="tune_engine=katib"):
        tune(
            *[Output] * 5,
            TuneArguments(tune="seed=1,2"),
            TrainingArguments(),
            KatibArguments(tune_engine=KATIB),
            TrialPodArguments(),
        )
    assert not list(tmp_path.iterdir())


def test_a_local_search_rejects_a_job_dir_in_cloud_storage():
    with pytest.raises(InvalidArgumentError, match="writes to a local folder") as caught:
        check_local("gs://photos/tuned")
    assert "tune_engine=katib" in caught.value.remedy
    check_local("tuned")
