"""Jobs on this machine: background runs that are submitted, followed, cancelled and found again."""

import dataclasses
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from imgpipe.pipelines.run_folder import RunFolder, running_process
from imgpipe.pipelines.targets.local_jobs import LocalJobs
from tests.command_line import IMGPIPE
from tests.waiting import wait_until

# The run is still at work when the test stops it.
LONG = ["--model_type=resnet-18", "--image_size=32", "--weights=none", "--max_steps=100000"]


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for label in ("dark", "bright"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 80, (8, 8, 3), dtype=np.uint8) + (120 if label == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / label / f"{number}.png")
    yield tmp_path
    for lock_file in tmp_path.rglob(".imgpipe-run"):
        process = running_process(RunFolder(lock_file.parent))
        if process:
            os.kill(process, signal.SIGTERM)


def imgpipe(folder, *arguments):
    return subprocess.run(
        [IMGPIPE, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def state(folder, job="job_1"):
    return dataclasses.asdict(LocalJobs(folder / "imgpipe-runs").describe(job))


def submit(folder, *arguments, job="job_1"):
    return imgpipe(folder, "submit", job, "--", "--images=photos", "--train_batch_size=4", *arguments)


def test_a_run_outlives_its_client_and_is_followed_and_cancelled(folder):
    submitted = submit(folder, *LONG)
    assert submitted.returncode == 0, submitted.stderr
    assert state(folder)["state"] == "RUNNING"
    # The run is found and not started again.
    again = submit(folder, *LONG)
    assert "nothing was started" in again.stderr
    other = submit(folder, *LONG, "--seed=1")
    assert other.returncode == 64
    assert "used for another request" in other.stderr
    with subprocess.Popen(
        [IMGPIPE, "stream-logs", "job_1"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        lines = []
        # communicate() would miss what readline() has buffered.
        while not any(line.startswith("train: started") for line in lines):
            lines.append(follower.stdout.readline())
            assert lines[-1], follower.stderr.read()
        wait_until(lambda: state(folder)["details"]["steps"].get("train") == "RUNNING")
        jobs = LocalJobs(folder / "imgpipe-runs")
        jobs.cancel("job_1")
        # A second request while the run ends changes nothing.
        jobs.cancel("job_1")
        assert imgpipe(folder, "cancel", "job_1").returncode == 0
        wait_until(lambda: state(folder)["state"] not in ("RUNNING", "CANCELLING"))
        _, errors = follower.communicate(timeout=30)
    assert any(line.startswith("validate: done") for line in lines)
    assert follower.returncode == 76
    assert "job_1 is CANCELLED" in errors
    ended = json.loads(imgpipe(folder, "describe", "job_1", "--format", "json").stdout)
    assert ended == json.loads(json.dumps(state(folder)))
    assert ended["state"] == "CANCELLED"
    assert ended["details"]["steps"]["validate"] == "SUCCEEDED"
    assert ended["details"]["steps"]["train"] == "CANCELLED"
    # The run's own log says how it ended: its output is written after the folder is unlocked.
    (folder / "imgpipe-runs" / ".jobs" / "job_1.out").write_text("")
    assert state(folder)["state"] == "CANCELLED"
    assert [job["job_id"] for job in json.loads(imgpipe(folder, "list", "--format", "json").stdout)] == [
        "job_1"
    ]
    # A cancelled run can be started again with its name.
    assert "nothing was started" not in submit(folder, *LONG).stderr
    assert state(folder)["state"] == "RUNNING"


def test_a_failed_run_reports_its_error(folder):
    (folder / "photos" / "dark" / "0.png").write_bytes(b"not an image")
    assert submit(folder, *LONG).returncode == 0
    followed = imgpipe(folder, "stream-logs", "job_1")
    assert followed.returncode == 76
    assert "convert" in followed.stderr
    failed = state(folder)
    assert failed["state"] == "FAILED"
    assert failed["error"].startswith("convert:")


def test_a_killed_run_is_a_failed_job(folder):
    submit(folder, *LONG)
    process = running_process(RunFolder(folder / "imgpipe-runs" / "job_1"))
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: state(folder)["state"] == "FAILED")
    assert "it was killed" in state(folder)["error"]


def test_a_client_killed_at_any_moment_starts_at_most_one_run(folder):
    line = [IMGPIPE, "submit", "job_1", "--", "--images=photos", "--train_batch_size=4", *LONG]
    for moment in range(1, 7):
        client = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.2 * moment)
        client.kill()
        client.wait()
    assert imgpipe(folder, *line[1:]).returncode == 0
    assert state(folder)["state"] == "RUNNING"
    # The log is of one run.
    log = (folder / "imgpipe-runs" / "job_1" / "run.log").read_text()
    assert log.count('"convert: started"') <= 1


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["--max_steps=0"], 64, "max_steps=0"),
        (["--max_stepz=1"], 64, "--max_stepz"),
    ],
)
def test_an_invalid_argument_fails_the_submission(folder, arguments, status, problem):
    result = submit(folder, *arguments)
    assert result.returncode == status
    assert problem in result.stderr
    assert imgpipe(folder, "describe", "job_1").returncode == 66


def test_a_used_job_dir_fails_the_submission_with_the_error_of_the_run(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    result = submit(folder, "--job_dir=mine")
    assert result.returncode == 73
    assert "not an empty folder" in result.stderr
    assert "use a new or empty folder" in result.stderr


def test_a_config_of_ai_platform_runs_here_and_its_machine_is_reported_as_ignored(folder):
    (folder / "config.yaml").write_text("trainingInput: {scaleTier: BASIC_TPU, region: us-central1}\n")
    arguments = ["--images=photos", *LONG, "--train_batch_size=4", "--job-dir=elsewhere/run"]
    result = imgpipe(folder, "submit", "job_1", "--config", "config.yaml", "--", *arguments)
    assert result.returncode == 0, result.stderr
    assert "cloud-tpu with 8 TPU_V2 is ignored: the pipeline runs on this machine" in result.stderr
    assert "region is ignored" in result.stderr
    assert state(folder)["name"] == str(folder / "elsewhere" / "run")


@pytest.mark.proof
def test_a_config_with_hyperparameters_tunes_here(folder):
    (folder / "config.yaml").write_text(
        "trainingInput: {scaleTier: BASIC, hyperparameters: {maxTrials: 2, enableTrialEarlyStopping: true, "
        "params: [{parameterName: initial_learning_rate, type: DOUBLE, minValue: 0.001, maxValue: 0.2, "
        "scaleType: UNIT_LOG_SCALE}]}}"
    )
    arguments = ["--images=photos", *LONG[:-1], "--max_steps=4", "--train_steps_per_eval=2"]
    arguments += ["--train_batch_size=4", "--job-dir=tuned"]
    result = imgpipe(folder, "submit", "job_1", "--config", "config.yaml", "--", *arguments)
    assert result.returncode == 0, result.stderr
    wait_until(lambda: state(folder)["state"] != "RUNNING", 240)
    assert state(folder)["state"] == "SUCCEEDED", state(folder)
    trials = json.loads((folder / "tuned" / "trials.json").read_text())
    assert trials["completedTrialCount"] == "2"
    assert (folder / "tuned" / "model" / "saved_model.pb").is_file()


def test_a_run_of_imgpipe_run_is_also_a_job(folder):
    run = RunFolder(folder / "imgpipe-runs" / "20261123-101010")
    run.model.mkdir(parents=True)
    event = {"severity": "INFO", "event": "step_started", "message": "convert: started", "step": "convert"}
    of_kfp = '{"dataPath": "executor_output.json"}\n'
    run.log.write_text(json.dumps({**event, "time": "2026-11-23T10:10:10Z"}) + "\n" + of_kfp)
    [job] = LocalJobs(folder / "imgpipe-runs").list_jobs(5)
    assert (job.job_id, job.state, job.created) == ("20261123-101010", "SUCCEEDED", "2026-11-23T10:10:10Z")
    assert imgpipe(folder, "stream-logs", "20261123-101010").stdout == "convert: started\n"
    everything = imgpipe(folder, "stream-logs", "20261123-101010", "--all").stdout
    assert everything == "convert: started\n" + of_kfp


def test_there_are_no_local_schedules(folder):
    result = imgpipe(folder, "schedule", "list")
    assert result.returncode == 64
    assert "cron or systemd" in result.stderr


def test_an_unknown_job_is_reported(folder):
    result = imgpipe(folder, "describe", "missing", "--format", "json")
    assert result.returncode == 66
    assert json.loads(result.stdout)["exit_code"] == 66
