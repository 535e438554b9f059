"""The train step on Vertex AI: the real client against a server that runs the job as a process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.cloud import aiplatform_v1 as vertex

from imgpipe.components.common.arguments import from_values, parse_command_line
from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.custom_job.custom_job import custom_job_request, train_as_job, training_command_line
from imgpipe.components.platforms.vertex.jobs import parse_message, read_job
from imgpipe.components.train.__main__ import JobArguments
from imgpipe.components.train.arguments import TrainingArguments
from tests.servers.vertex import start_vertex_server
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
IMAGES = json.dumps({"cpu": "train-cpu@sha256:0", "gpu": "train-gpu@sha256:0", "tpu": "train-tpu@sha256:0"})
RUN = RunArguments(project="flowers-project", region="us-central1", images=IMAGES)
TINY = {"max_steps": 2, "train_batch_size": 4, "model_type": "resnet-18", "image_size": 32, "weights": "none"}
STATES = vertex.JobState


@pytest.fixture
def server(tmp_path):
    with start_vertex_server(tmp_path) as started:
        yield started


@pytest.fixture
def request_(server, tmp_path, coloured_dataset):
    return {
        "dataset": str(coloured_dataset(tmp_path / "dataset", shards=2)),
        "model": str(tmp_path / "train" / "model"),
        "resources": str(tmp_path / "train" / "gcp_resources"),
        "arguments": TINY,
        "job": {"vertex_endpoint": server.address, "train_restarts": 0},
        "images": IMAGES,
    }


def start(request):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_step.py")), json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Background processes of a shell ignore Ctrl-C, and so would the tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process, seconds=500):
    output, _ = process.communicate(timeout=seconds)
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return process.returncode, events


def failure_in_process(request):
    """Runs the step in this process and returns its error."""
    with pytest.raises(PipelineError) as caught:
        train_as_job(
            TrainingArguments(**request["arguments"]),
            CustomJobArguments(**request["job"]),
            RUN,
            Path(request["dataset"]),
            Path(request["model"]),
            Path(request["resources"]),
        )
    return caught.value


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_the_job_really_trains_and_its_best_evaluation_is_returned(server, request_, tmp_path):
    server.run_commands = True
    status, events = finish(start(request_))
    assert status == 0, events
    best = events[-1]["best"]
    assert 0 <= best["top_1_accuracy"] <= 1
    assert (tmp_path / "train" / "model" / "saved_model.pb").is_file()
    assert (tmp_path / "train" / "model" / "assets" / "labels.txt").read_text().split() == ["dark", "bright"]
    [job] = server.created("customJobs")
    assert job.state == STATES.JOB_STATE_SUCCEEDED
    [written] = json.loads((tmp_path / "train" / "gcp_resources").read_text())["resources"]
    assert written == {
        "resourceType": "CustomJob",
        "resourceUri": f"https://us-central1-aiplatform.googleapis.com/v1/{job.name}",
    }
    assert {"SUCCEEDED"} <= {event.get("state") for event in events}


@pytest.mark.parametrize("written", [True, False])
def test_a_killed_step_resumes_its_job(server, request_, written):
    """Also if it was killed after creating the job and before writing its name."""
    process = start(request_)
    wait_until(lambda: read_job(Path(request_["resources"])))
    process.kill()
    process.wait()
    [job] = server.created("customJobs")
    if not written:
        Path(request_["resources"]).unlink()
    server._cancel(job.name)
    status, _ = finish(start(request_))
    assert status == 75
    assert read_job(Path(request_["resources"])) == job.name
    assert len(server.created("customJobs")) == 1


PIPELINE_RUN = "projects/flowers-project/locations/us-central1/pipelineJobs/run-1"
RUN_STATES = vertex.PipelineState


@pytest.mark.parametrize(
    ("number", "state", "job_state", "event"),
    [
        (signal.SIGINT, "RUNNING", "CANCELLED", "job_cancelled"),
        (signal.SIGTERM, "CANCELLING", "CANCELLED", "job_cancelled"),
        (signal.SIGTERM, "RUNNING", "PENDING", "job_left_running"),
        (signal.SIGTERM, "", "PENDING", "job_left_running"),
    ],
    ids=["ctrl-c", "cancelled", "evicted", "unknown"],
)
def test_only_a_cancelled_step_cancels_its_job(server, request_, number, state, job_state, event):
    request_["run"] = PIPELINE_RUN
    if state:
        server.resources[PIPELINE_RUN] = vertex.PipelineJob(
            name=PIPELINE_RUN, state=RUN_STATES[f"PIPELINE_STATE_{state}"]
        )
    process = start(request_)
    wait_until(lambda: read_job(Path(request_["resources"])))
    time.sleep(0.3)
    process.send_signal(number)
    status, events = finish(process)
    assert status == 75
    [job] = server.created("customJobs")
    assert job.state == STATES[f"JOB_STATE_{job_state}"]
    [ended] = [found for found in events if found["event"] == event]
    if event == "job_left_running":
        assert f"imgpipe cancel {job.name} --target vertex" in ended["message"]
        # The step that starts again follows this job.
        server._cancel(job.name)
        assert finish(start(request_))[0] == 75
        assert len(server.created("customJobs")) == 1


EXITED = "The replica workerpool0-0 exited with a non-zero status of {}. To find out more check the logs."


@pytest.mark.parametrize(
    ("code", "message", "status", "text"),
    [
        (3, EXITED.format(65), 65, "exit status 65"),
        (3, EXITED.format(64), 64, "exit status 64"),
        (3, EXITED.format(76), 76, "exit status 76"),
        (3, EXITED.format(137), 70, "ran out of memory"),
        (3, EXITED.format(1), 70, "exit status 1"),
        (8, "Quota custom_model_training_nvidia_t4_gpus exceeded", 69, "more quota"),
        (8, "Resources are insufficient in region us-central1", 75, "short of that machine"),
        (14, "Machine was preempted", 75, "try again"),
        (13, "Internal error occurred", 75, "try again"),
        (7, "Permission denied on bucket", 69, "service account"),
        (5, "Image not found", 66, "check the project"),
        (4, "The job ran longer than its timeout", 64, "raise the timeout"),
    ],
)
def test_a_failed_job_fails_the_step_with_our_exit_code_and_a_remedy(
    server, request_, code, message, status, text
):
    server.final_state = (STATES.JOB_STATE_FAILED, {"code": code, "message": message})
    failure = failure_in_process(request_)
    assert failure.exit_code == status
    assert text in failure.problem + failure.remedy
    assert "customJobs/" in failure.where
    assert failure.retry_can_help == (status == 75)


@pytest.mark.parametrize(
    ("code", "message", "jobs"), [(14, "preempted", 3), (3, EXITED.format(75), 3), (3, EXITED.format(65), 1)]
)
def test_a_job_is_restarted_after_preemption_but_not_after_errors(server, request_, code, message, jobs):
    request_["job"]["train_restarts"] = 2
    server.final_state = (STATES.JOB_STATE_FAILED, {"code": code, "message": message})
    failure_in_process(request_)
    assert len(server.created("customJobs")) == jobs


def test_a_cancelled_job_is_not_restarted(server, request_):
    request_["job"]["train_restarts"] = 2
    server.final_state = (STATES.JOB_STATE_CANCELLED, {})
    assert "cancelled" in failure_in_process(request_).problem
    assert len(server.created("customJobs")) == 1


@pytest.mark.parametrize(("status", "expected"), [(400, 64), (403, 69), (404, 66), (429, 75)])
def test_a_rejected_request_fails_the_step_with_the_reason(server, request_, status, expected, monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.polling.RETRY_SECONDS", 0)
    # After a failure that does not say whether the job was created, it is searched for again.
    server.forced_responses = [(200, {}), (status, "because"), (200, {})]
    failure = failure_in_process(request_)
    assert failure.exit_code == expected
    assert "because" in failure.problem
    assert server.created("customJobs") == []


def test_the_request_has_all_settings(tmp_path):
    job = CustomJobArguments(
        train_machine_type="n1-standard-16",
        train_accelerator_type="NVIDIA_TESLA_V100",
        train_accelerator_count=2,
        train_replicas=3,
        train_boot_disk_gb=200,
        train_strategy="flex-start",
        train_timeout_seconds=3600,
        train_wait_seconds=7200,
        service_account="train@p.iam.gserviceaccount.com",
        network="projects/1/global/networks/n",
        encryption_key="projects/p/locations/l/keyRings/r/cryptoKeys/k",
        labels='{"team": "vision"}',
    )
    body = custom_job_request(job, RUN, ["--max_steps=5"], tmp_path / "model")
    machine = vertex.MachineSpec(
        machine_type="n1-standard-16",
        accelerator_type=vertex.AcceleratorType.NVIDIA_TESLA_V100,
        accelerator_count=2,
    )
    container = vertex.ContainerSpec(
        env=[{"name": "IMGPIPE_LOG_FORMAT", "value": "json"}],
        image_uri="train-gpu@sha256:0",
        command=["python", "-m", "imgpipe.components.train"],
        args=["--max_steps=5"],
    )
    disk = vertex.DiskSpec(boot_disk_size_gb=200)
    assert parse_message("CustomJob", body) == vertex.CustomJob(
        display_name="imgpipe-train",
        job_spec=vertex.CustomJobSpec(
            worker_pool_specs=[
                vertex.WorkerPoolSpec(
                    machine_spec=machine, replica_count=replicas, container_spec=container, disk_spec=disk
                )
                for replicas in (1, 2)
            ],
            scheduling=vertex.Scheduling(
                strategy=vertex.Scheduling.Strategy.FLEX_START,
                timeout={"seconds": 3600},
                max_wait_duration={"seconds": 7200},
            ),
            service_account="train@p.iam.gserviceaccount.com",
            network="projects/1/global/networks/n",
        ),
        encryption_spec=vertex.EncryptionSpec(kms_key_name="projects/p/locations/l/keyRings/r/cryptoKeys/k"),
        labels=body["labels"],
    )
    assert body["labels"]["team"] == "vision"


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ({}, "train-cpu"),
        ({"train_machine_type": "g2-standard-8"}, "train-gpu"),
        (
            {
                "train_machine_type": "cloud-tpu",
                "train_accelerator_type": "TPU_V3",
                "train_accelerator_count": 8,
            },
            "train-tpu",
        ),
        ({"train_machine_type": "ct5lp-hightpu-4t", "train_tpu_topology": "2x4"}, "train-tpu"),
    ],
)
def test_the_image_matches_the_accelerator(settings, image, tmp_path):
    job = CustomJobArguments(vertex_endpoint="http://127.0.0.1:1", **settings)
    [pool] = custom_job_request(job, RUN, [], tmp_path)["jobSpec"]["workerPoolSpecs"]
    assert pool["containerSpec"]["imageUri"] == f"{image}@sha256:0"
    # What TensorFlow needs to use a TPU v5e.
    names = [variable["name"] for variable in pool["containerSpec"]["env"]]
    assert ("NEXT_PLUGGABLE_DEVICE_USE_C_API" in names) == ("train_tpu_topology" in settings)


def test_worker_pools_override_the_other_settings(tmp_path):
    pools = '[{"machineSpec": {"machineType": "c2-standard-8"}, "replicaCount": 1}]'
    job = CustomJobArguments(train_worker_pools=pools, vertex_endpoint="http://127.0.0.1:1")
    [pool] = custom_job_request(job, RUN, [], tmp_path)["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"] == {"machineType": "c2-standard-8"}
    assert pool["containerSpec"]["imageUri"] == "train-cpu@sha256:0"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"train_accelerator_type": "NVIDIA_L4"}, "train_accelerator_count=0"),
        ({"train_accelerator_count": 1}, "train_accelerator_type=''"),
        ({"train_worker_pools": "{}"}, "JSON list"),
        ({"train_worker_pools": "["}, "not JSON"),
        ({"labels": "[]"}, "labels is"),
        ({"train_strategy": "cheap"}, "train_strategy='cheap'"),
        ({"train_restarts": 11}, "train_restarts=11"),
    ],
)
def test_an_invalid_setting_is_rejected(settings, text):
    with pytest.raises(InvalidArgumentError) as error:
        CustomJobArguments(**settings)
    assert text in error.value.problem


def test_credentials_are_never_sent_over_plain_http(tmp_path, request_):
    request_["job"]["vertex_endpoint"] = "http://vertex.example"
    assert "plain http" in failure_in_process(request_).problem


def test_the_training_accepts_the_jobs_command_line(tmp_path, coloured_dataset):
    folder = coloured_dataset(tmp_path / "dataset")
    given = TrainingArguments(**TINY, seed=7, deterministic=True, job_dir="gs://bucket/mine")
    args = training_command_line(given, folder, tmp_path / "train" / "model")
    values = parse_command_line(args, (JobArguments, TrainingArguments))
    job, arguments = from_values(JobArguments, values), from_values(TrainingArguments, values)
    job.write_dataset(tmp_path / "copy", multi_label=False)
    assert read_manifest(tmp_path / "copy").digest() == read_manifest(folder).digest()
    # The step's folder: the export step publishes to the user's job_dir.
    assert arguments == dataclasses.replace(given, job_dir=str(tmp_path / "train"))


def test_the_command_line_has_the_manifest_and_what_differs_from_the_defaults(tmp_path, coloured_dataset):
    folder = coloured_dataset(tmp_path / "dataset", train=12, shards=3)
    args = training_command_line(TrainingArguments(**TINY, seed=7), folder, tmp_path / "train" / "model")
    assert args[0] == f"--dataset={folder}/manifest.json"
    assert f"--job-dir={tmp_path}/train" in args
    # Only values that differ from the defaults, which are the same in the image.
    assert "--seed=7" in args
    assert not any(arg.startswith("--label_smoothing") for arg in args)
