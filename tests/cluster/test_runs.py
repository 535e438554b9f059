"""Runs from the uploaded file, from `imgpipe submit` and on a schedule, and what the commands say of them."""

import json
import re
import subprocess

import pytest

from imgpipe.components.platforms.kubeflow.records import read_artifact, read_workflow
from imgpipe.pipelines.targets.kubeflow_runs import read_steps
from tests.cluster.installation import RUN_SECONDS, step_of, wait_for
from tests.command_line import IMGPIPE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * RUN_SECONDS)]

# As typed into the form.
_SMALL = {"model_type": "resnet-18", "weights": "none", "image_size": 32, "max_steps": 2}
_STEPS = ["prepare", "convert", "validate", "train", "evaluate", "publish"]
# Prepare runs data_version; publish runs export, the gate and, if it passes, deploy.
_COMPONENTS = ["data_version", "convert", "validate", "train", "evaluate", "export", "gate"]


def _form(installation):
    return {"images": f"{installation.folder}/digits", **_SMALL}


def test_a_run_from_submit_trains_evaluates_and_exports(installation, finished):
    [run] = installation.runs_named(finished)
    assert run.state == "SUCCEEDED"


def test_the_committed_file_runs_when_it_is_uploaded(installation, start, job):
    start(**_form(installation))
    assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)


def test_a_submitted_run_belongs_to_a_pipeline_and_its_version(installation, finished):
    [run] = installation.runs_named(finished)
    reference = run.pipeline_version_reference
    assert reference
    assert reference.pipeline_version_id
    pipeline = installation.kfp.get_pipeline(reference.pipeline_id)
    assert pipeline.display_name == "image-classification-all-arguments"


def test_describe_names_our_steps_in_the_pipelines_order_and_nothing_else(installation, finished):
    steps = installation.describe(finished)["details"]["steps"]
    assert list(steps) == _STEPS
    assert {steps[step]["state"] for step in steps} == {"done"}
    assert all(steps[step]["result"] for step in _STEPS)


def test_stream_logs_prints_what_the_steps_say_without_kubeflows_lines(installation, finished):
    result = installation.imgpipe("stream-logs", finished)
    assert result.returncode == 0, result.stderr
    for component in _COMPONENTS:
        assert re.search(rf"^[\d-]+ [\d:]+ {component}: result: ", result.stdout, re.MULTILINE), result.stdout
    # A line of the launcher, of Argo's executor and of KFP's.
    noise = re.compile(r"^(I\d{4} |time=|\[KFP Executor)", re.MULTILINE)
    assert not noise.search(result.stdout), result.stdout
    assert noise.search(installation.imgpipe("stream-logs", finished, "--all").stdout)


def test_logs_remain_after_the_pods_are_deleted(installation, finished):

    [run] = installation.runs_named(finished)
    core = installation.core
    core.delete_collection_namespaced_pod(
        installation.namespace, label_selector=f"pipeline/runid={run.run_id}", grace_period_seconds=0
    )
    wait_for(lambda: not installation.pods(run.run_id), 60, "the pods are deleted")
    assert "top-1 accuracy" in installation.imgpipe("stream-logs", finished).stdout


def test_list_shows_the_run(installation, finished):
    rows = json.loads(installation.imgpipe("list", "--format", "json").stdout)
    [row] = [row for row in rows if row["job_id"] == finished]
    assert (row["state"], bool(row["created"]), bool(row["ended"])) == ("SUCCEEDED", True, True)


def test_the_same_submission_again_finds_the_run(installation, finished):
    again = installation.imgpipe(
        *installation.submit_command(finished, [], "--input", f"data_version={finished}")
    )
    assert again.returncode == 0, again.stderr
    assert "already exists" in again.stderr
    assert len(installation.runs_named(finished)) == 1


def test_a_cancelled_run_ends_and_is_listed_as_cancelled(installation, job):
    run_id = installation.submit(job)
    wait_for(lambda: installation.workflow(run_id).get("status", {}).get("nodes"), 120, "the run starts")
    first = installation.imgpipe("cancel", job)
    # While the first one works.
    second = installation.imgpipe("cancel", job)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert installation.wait_until_ended(job, 180) == "CANCELLED"
    rows = json.loads(installation.imgpipe("list", "--format", "json").stdout)
    assert [row["state"] for row in rows if row["job_id"] == job] == ["CANCELLED"]


def test_retry_runs_only_what_failed(installation, start, job):
    # No model is that fast: the step publish fails.
    run_id = start(**_form(installation), max_latency_ms=0.001)
    assert installation.wait_until_ended(job) == "FAILED"
    before = {pod.metadata.uid for pod in installation.pods(run_id)}
    installation.kfp._run_api.run_service_retry_run(run_id)
    wait_for(lambda: installation.describe(job)["state"] in ("RUNNING", "PENDING"), 60, "it runs again")
    assert installation.wait_until_ended(job) == "FAILED"
    again = [pod for pod in installation.pods(run_id) if pod.metadata.uid not in before]
    assert [step_of(pod) for pod in again] == ["publish"]


def test_a_model_that_the_gate_blocks_is_not_deployed_and_the_run_succeeds(installation, start, job):
    # The deploy component, which is not started, has an output: the launcher allows a step not to write one
    # (kubeflow/pipelines 2.17, uploadOutputArtifacts in backend/src/v2/component/launcher_v2.go).
    folder = f"{installation.folder}/serving/{job.replace('_', '-')}"
    deployment = {"deploy_target": "kserve", "deploy_dir": folder}
    run_id = start(**_form(installation), **deployment, min_accuracy=1)
    assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)
    shown = installation.describe(job)["details"]["steps"]["publish"]
    assert shown["state"] == "done"
    assert "gate: blocked, not deployed" in shown["result"]
    run = installation.kfp.get_run(run_id)
    steps = read_steps(installation.kfp, run, read_workflow(installation.kfp, run_id))
    artifacts = next(step.log_uri for step in steps if step.name == "publish").rpartition("/")[0]
    # What the web interface shows as an output of the step.
    reasons = read_artifact(installation.kfp, f"{artifacts}/reasons", "")
    assert "at least 1" in reasons, reasons


def test_five_submissions_of_one_id_at_the_same_moment_are_one_run(installation, job, monkeypatch):
    monkeypatch.setenv("IMGPIPE_TARGET", "kubeflow")
    command = [IMGPIPE, *installation.submit_command(job, [])]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(5)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, outputs

    def going_on():
        return [run for run in installation.runs_named(job) if run.state in ("PENDING", "RUNNING")]

    wait_for(lambda: len(going_on()) == 1, 60, "one run remains")
    assert installation.imgpipe("cancel", job).returncode == 0
    wait_for(lambda: not going_on(), 120, "it is cancelled")


def test_a_schedule_starts_runs_and_names_the_next_and_the_last(installation, job):
    arguments = installation.submit_command(job, [])[2:]
    try:
        created = installation.imgpipe("schedule", "create", job, "--cron", "* * * * *", *arguments)
        assert created.returncode == 0, created.stderr

        def last_run():
            rows = json.loads(installation.imgpipe("schedule", "list", "--format", "json").stdout)
            row = next(row for row in rows if row["name"] == job)
            assert row["cron"] == "* * * * *"
            assert row["next_run"]
            return row["last_job"]

        last = wait_for(last_run, 150, "the schedule starts a run")
    finally:
        installation.imgpipe("schedule", "delete", job)
    assert installation.describe(last)["state"] in ("PENDING", "RUNNING")
    assert installation.imgpipe("cancel", last).returncode == 0
