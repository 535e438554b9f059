"""The command line on Vertex AI: the real client against a server that runs jobs as processes."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as vertex

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.platforms import google_credentials
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.search_space import read_request
from imgpipe.pipelines.cli import imgpipe
from tests.command_line import IMGPIPE
from tests.servers.configs import ARGUMENTS, JOB_ID, TPU_CONFIG, TUNING_CONFIG
from tests.servers.vertex import start_vertex_server

STATES = vertex.JobState
JOB = ["--no-check", "--config", "config.yaml", "--", *ARGUMENTS]
PIPELINE = ["--no-check", "--as", "pipeline", "--pipeline-root", "gs://b/p", "--", "--images=gs://b/i"]


@pytest.fixture
def server(tmp_path):
    with start_vertex_server(tmp_path) as started:
        yield started


@pytest.fixture
def target(server):
    return [
        *("--target", "vertex", "--project", "flowers-project", "--region", "us-central1"),
        *("--endpoint", server.address),
    ]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """``run("describe", "x")`` runs a command in this process and returns its result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imgpipe.components.platforms.submission.SETTLE_SECONDS", 0)
    (tmp_path / "config.yaml").write_text(TPU_CONFIG)
    (tmp_path / "tuning.yaml").write_text(TUNING_CONFIG)

    def run_in_process(*args):
        return CliRunner().invoke(imgpipe, list(map(str, args)))

    return run_in_process


def submit(run, target, *options, config="config.yaml", args=ARGUMENTS):
    return run("submit", JOB_ID, *target, "--no-check", "--config", config, *options, "--", *args)


def test_the_documented_command_line_is_accepted_unchanged(run, target, server):
    line = [
        *("submit", JOB_ID, "--region=us-central1", "--config=config.yaml"),
        "--master-image-uri=cloud-ml-algos/image_classification:latest",
        *(*target, "--no-check", "--", *ARGUMENTS),
    ]
    result = run(*line)
    assert result.exit_code == 0, result.output
    [job] = server.created("customJobs")
    assert job.display_name == JOB_ID
    assert job.job_spec.worker_pool_specs[0].machine_spec.machine_type == "cloud-tpu"
    assert list(job.job_spec.worker_pool_specs[0].container_spec.args) == [*ARGUMENTS, "--weights=none"]


def test_a_dry_run_prints_the_request_that_is_sent_and_sends_nothing(run, target, server):
    dry = submit(run, target, "--dry-run", "--format", "json", config="tuning.yaml")
    assert dry.exit_code == 0, dry.output
    assert server.requests == []
    submit(run, target, config="tuning.yaml")
    [(_, path, _, body)] = [request for request in server.requests if request[0] == "POST"]
    assert path.endswith("/locations/us-central1/hyperparameterTuningJobs")
    shown = json.loads(dry.stdout)
    assert (shown.pop("kind"), shown.pop("region")) == ("HyperparameterTuningJob", "us-central1")
    message = vertex.HyperparameterTuningJob
    assert message.from_json(json.dumps(shown)) == message.from_json(body)


def test_as_a_pipeline_a_config_with_hyperparameters_is_the_tuning_pipeline(run, target, server):
    batch = "   - {parameterName: train_batch_size, type: DISCRETE, discreteValues: [16, 64]}\n"
    Path("tuning.yaml").write_text(Path("tuning.yaml").read_text() + batch)
    result = run(
        *("submit", JOB_ID, "--config", "tuning.yaml", *target, "--no-check", "--as", "pipeline", "--"),
        *("--images=gs://b/i", "--job-dir=gs://b/tuned", "--max_steps=5"),
    )
    assert result.exit_code == 0, result.output
    [job] = server.created("pipelineJobs")
    assert job.pipeline_spec["pipelineInfo"]["name"] == "image-classification-tune"
    values = job.runtime_config.parameter_values
    request = read_request(TuneArguments(hyperparameters=values["hyperparameters"]))
    assert (request.max_trials, request.max_parallel_trials) == (6, 3)
    assert values["train_machine_type"] == "cloud-tpu"
    # The largest one, which the validate step compares with the number of images.
    assert values["train_batch_size"] == 64


def test_ignored_fields_are_named_on_stderr(run, target):
    result = submit(run, target, "--dry-run", "--runtime-version", "2.11", config="tuning.yaml")
    for text in ("--runtime-version is ignored", "tpuTfVersion=1.14 is ignored", "not used"):
        assert text in result.stderr


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--master-accelerator", "count=two"], 64, "write type=NVIDIA_TESLA_T4,count=1"),
        (["--labels", "team"], 64, "KEY=VALUE"),
        (["--config", "missing.yaml"], 66, "missing.yaml"),
        (["--scale-tier", "CUSTOMS"], 64, "CUSTOM"),
        (["--as", "pipeline"], 64, "neither --pipeline-root nor --job-dir"),
        (["--images-lock", "missing.lock"], 66, "missing.lock"),
    ],
)
def test_an_invalid_option_is_rejected_and_nothing_is_sent(run, target, server, options, status, text):
    args = ["--images=gs://b/i"] if "pipeline" in options else ARGUMENTS
    result = run("submit", "job_1", *target, "--no-check", *options, "--", *args)
    assert result.exit_code == status
    assert text in result.stderr
    assert server.requests == []


def test_flags_override_the_file_as_in_gcloud(run, target, server):
    submit(
        run,
        target,
        *("--worker-accelerator", "type=tpu-v3,count=32", "--worker-image-uri", "mine/train@sha256:1"),
        *("--labels", "team=vision", "--service-account", "a@p.iam.gserviceaccount.com"),
        *("--network", "projects/1/global/networks/n"),
    )
    [job] = server.created("customJobs")
    [pool] = job.job_spec.worker_pool_specs
    assert pool.machine_spec.accelerator_type == vertex.AcceleratorType.TPU_V3
    assert pool.machine_spec.accelerator_count == 32
    assert pool.container_spec.image_uri == "mine/train@sha256:1"
    assert job.labels["team"] == "vision"
    assert job.job_spec.service_account == "a@p.iam.gserviceaccount.com"


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize(
    ("kind", "line", "other"),
    [
        ("customJobs", JOB, [*JOB, "--seed=1"]),
        ("pipelineJobs", PIPELINE, [*PIPELINE[:-1], "--images=gs://b/others"]),
    ],
    ids=["job", "pipeline"],
)
def test_a_repeated_command_creates_no_second_job(run, target, server, monkeypatch, lost, kind, line, other):
    monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.01)
    server.lost_responses = lost
    first = run("submit", JOB_ID, *target, *line)
    assert first.exit_code == 0, first.output
    again = run("submit", JOB_ID, *target, *line)
    assert again.exit_code == 0
    assert "nothing was started" in again.stderr
    assert len(server.created(kind)) == 1
    another = run("submit", JOB_ID, *target, *other)
    assert another.exit_code == 64
    assert "used for another request" in another.stderr


def test_a_job_id_identifies_one_job_of_any_kind(run, target, server):
    lines = {
        "customJobs": JOB,
        "hyperparameterTuningJobs": ["--no-check", "--config", "tuning.yaml", "--", *ARGUMENTS],
        "pipelineJobs": PIPELINE,
    }
    for first, line in lines.items():
        assert run("submit", JOB_ID, *target, *line).exit_code == 0
        for other in lines:
            again = run("submit", JOB_ID, *target, *lines[other])
            if other == first:
                assert "nothing was started" in again.stderr
            else:
                assert again.exit_code == 64
                assert "used for another request" in again.stderr
        assert [name.split("/")[-2] for name in server.resources] == [first]
        server.resources.clear()


def test_job_ids_with_other_characters_are_different_pipeline_runs(run, target, server):
    for job_id in ("a_b", "a-b", "a--b"):
        result = run("submit", job_id, *target, *PIPELINE)
        assert result.exit_code == 0, result.output
        assert "nothing was started" not in result.stderr
    names = [job.name.split("/")[-1] for job in server.created("pipelineJobs")]
    assert len(set(names)) == 3
    assert "a-b" in names


def test_a_run_of_a_schedule_is_not_a_submission_of_its_job_id(run, target, server):
    run("submit", "nightly", *target, *PIPELINE)
    [started] = server.created("pipelineJobs")
    scheduled = vertex.PipelineJob(started)
    scheduled.name = f"{started.name}-1"
    scheduled.schedule_name = "projects/1/locations/us-central1/schedules/1"
    server.resources = {scheduled.name: scheduled}
    again = run("submit", "nightly", *target, *PIPELINE)
    assert again.exit_code == 0, again.output
    assert "nothing was started" not in again.stderr
    assert len(server.created("pipelineJobs")) == 2


@pytest.mark.parametrize("form", ["job", "pipeline"])
def test_describe_list_and_cancel_use_the_submitted_job_id(run, target, server, form):
    if form == "job":
        submit(run, target)
    else:
        run("submit", JOB_ID, *target, *PIPELINE)
    described = run("describe", JOB_ID, *target, "--format", "json")
    job = json.loads(described.stdout)
    assert (job["job_id"], job["target"], job["state"]) == (JOB_ID, "vertex", "PENDING")
    assert yaml.safe_load(run("describe", JOB_ID, *target, "--format", "yaml").stdout) == job
    assert "PENDING" in run("describe", JOB_ID, *target).stdout
    assert run("describe", job["name"], *target, "--format", "json").stdout == described.stdout
    [listed] = json.loads(run("list", *target, "--format", "json").stdout)
    assert listed == job
    assert JOB_ID in run("list", *target).stdout
    cancelled = run("cancel", JOB_ID, *target)
    assert (cancelled.exit_code, cancelled.stdout) == (0, f"{JOB_ID}: CANCELLED\n")
    again = run("cancel", JOB_ID, *target)
    assert again.exit_code == 0
    assert f"{JOB_ID} has already ended; nothing was cancelled" in again.stderr


def test_a_missing_job_is_an_error(run, target):
    for command in ("describe", "cancel", "stream-logs"):
        result = run(command, "missing", *target)
        assert result.exit_code == 66
        assert "there is no job 'missing'" in result.stderr


def test_stream_logs_follows_a_job_and_reports_how_it_ended(run, target, server, monkeypatch):
    monkeypatch.setattr("imgpipe.pipelines.targets.vertex_jobs._LOG_PAUSE_SECONDS", 0.05)
    server.run_commands = True
    code = (
        "import time\nfor n in range(4): print('step', n, flush=True); time.sleep(0.2)\nraise SystemExit(65)"
    )
    (run_config := yaml.safe_load(TPU_CONFIG))["trainingInput"]["workerConfig"]["containerCommand"] = [
        "python",
        "-c",
        code,
    ]
    Path("failing.yaml").write_text(yaml.safe_dump(run_config))
    submitted = submit(run, target, "--stream-logs", "--format", "json", config="failing.yaml")
    assert submitted.exit_code == 76
    # stdout has the job as JSON, then the error.
    described, end = json.JSONDecoder().raw_decode(submitted.stdout)
    assert described["job_id"] == JOB_ID
    assert json.loads(submitted.stdout[end:])["exit_code"] == 76
    assert "step 3" in submitted.stderr
    result = run("stream-logs", JOB_ID, *target)
    assert result.stdout.splitlines() == [f"step {n}" for n in range(4)]
    assert result.exit_code == 76
    assert "non-zero status of 65" in result.stderr
    # Also after the job has ended.
    assert run("stream-logs", JOB_ID, *target, "--no-follow").stdout == result.stdout


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [(403, 69, "roles/aiplatform.user"), (400, 64, "--dry-run"), (404, 66, "project")],
)
def test_a_rejected_request_says_what_to_do(run, target, server, status, code, text):
    # Three lists, one for each kind of job, precede the creation.
    server.forced_responses = [(200, {}), (200, {}), (200, {}), (status, "the reason")]
    result = submit(run, target)
    assert result.exit_code == code
    assert "the reason" in result.stderr
    assert text in result.stderr


def test_schedules_are_created_listed_paused_resumed_and_deleted(run, target, server):
    pipeline = [*PIPELINE, "--max_steps=5"]
    created = run("schedule", "create", "nightly", "--cron", "0 3 * * *", *target, *pipeline)
    assert created.exit_code == 0, created.output
    [schedule] = server.created("schedules")
    assert schedule.cron == "0 3 * * *"
    assert (schedule.max_concurrent_run_count, schedule.allow_queueing) == (1, True)
    pipeline_job = schedule.create_pipeline_job_request.pipeline_job
    assert pipeline_job.runtime_config.parameter_values["max_steps"] == 5
    again = run("schedule", "create", "nightly", "--cron", "0 3 * * *", *target, *pipeline)
    assert (again.exit_code, len(server.created("schedules"))) == (0, 1)
    assert "the schedule already exists" in again.stderr
    for cron, steps, text in (("0 4 * * *", 5, "another time"), ("0 3 * * *", 6, "another pipeline")):
        args = [*pipeline[:-1], f"--max_steps={steps}"]
        other = run("schedule", "create", "nightly", "--cron", cron, *target, *args)
        assert other.exit_code == 64
        assert text in other.stderr
    [listed] = json.loads(run("schedule", "list", *target, "--format", "json").stdout)
    assert (listed["name"], listed["state"], listed["cron"]) == ("nightly", "ACTIVE", "0 3 * * *")
    for verb, state in (("pause", "PAUSED"), ("resume", "ACTIVE")):
        assert run("schedule", verb, "nightly", *target).exit_code == 0
        assert json.loads(run("schedule", "list", *target, "--format", "json").stdout)[0]["state"] == state
    assert run("schedule", "delete", "nightly", *target).exit_code == 0
    assert server.created("schedules") == []
    assert run("schedule", "pause", "nightly", *target).exit_code == 66


@pytest.mark.parametrize(
    ("name", "cron", "options", "status", "text"),
    [
        ("x", "0 3 * *", [], 64, "minute hour day"),
        ("x", "0 3 31 2 *", [], 64, "never occurs"),
        ("x y", "0 3 * * *", [], 64, "the schedule's name 'x y' is not allowed"),
        ("x", "0 3 * * *", ["--as", "job"], 2, "'job' is not 'pipeline'"),
        ("x", "0 3 * * *", ["--max_steps=5"], 2, "training argument: give it after `--`"),
    ],
)
def test_an_invalid_schedule_is_rejected(run, target, server, name, cron, options, status, text):
    root = ["--pipeline-root", "gs://b/p"]
    result = run(
        *("schedule", "create", name, "--cron", cron, *target, *root, *options, "--", "--images=gs://b/i")
    )
    assert result.exit_code == status
    assert text in result.stderr
    assert server.requests == []


def test_the_dry_run_of_a_schedule_prints_the_request_and_sends_nothing(run, target, server):
    line = [
        *("schedule", "create", "nightly", "--cron", "0 3 * * *", *target, "--pipeline-root", "gs://b/p"),
        *("--no-check", "--format", "json"),
    ]
    dry = run(*line, "--dry-run", "--", "--images=gs://b/i")
    assert dry.exit_code == 0, dry.output
    assert server.requests == []
    shown = json.loads(dry.stdout)
    assert shown.pop("kind") == "Schedule"
    assert run(*line, "--", "--images=gs://b/i").exit_code == 0
    [(_, _, _, body)] = [request for request in server.requests if request[0] == "POST"]
    sent = json.loads(vertex.Schedule.to_json(vertex.Schedule.from_json(body)))
    pipeline = sent["createPipelineJobRequest"]["pipelineJob"]
    assert pipeline["pipelineSpec"]["pipelineInfo"]["name"] == "image-classification"
    # The output has the pipeline's name instead of its spec.
    shown["createPipelineJobRequest"]["pipelineJob"]["pipelineSpec"] = pipeline["pipelineSpec"]
    message = vertex.Schedule
    assert message.from_json(json.dumps(shown)) == message.from_json(body)


def test_a_schedule_uses_the_files_region_and_warns_about_a_shared_job_dir(run, target, server):
    Path("region.yaml").write_text("trainingInput: {region: us-central1}")
    index = target.index("--region")
    result = run(
        *("schedule", "create", "nightly", "--cron", "0 3 * * *", *target[:index], *target[index + 2 :]),
        *("--no-check", "--config", "region.yaml", "--", "--images=gs://b/i", "--job-dir=gs://b/run"),
    )
    assert result.exit_code == 0, result.output
    assert "job_dir=gs://b/run is the same for every run" in result.stderr
    assert len(server.created("schedules")) == 1


def test_the_help_of_schedule_create_has_no_job_id(run):
    text = run("schedule", "create", "--help").stdout
    assert "JOB_ID" not in text.split("Options:")[0]
    assert "--target [kubeflow|vertex]" in text
    assert "--runs" not in text


def test_migrate_prints_the_request_for_a_config(run):
    result = run("migrate", "tuning.yaml")
    assert result.exit_code == 0
    shown = yaml.safe_load(result.stdout)
    assert shown["kind"] == "HyperparameterTuningJob"
    assert shown["maxTrialCount"] == 6
    assert "us-central1 is a placeholder" in result.stderr
    kubeflow = yaml.safe_load(run("migrate", "config.yaml", "--target", "kubeflow").stdout)
    assert kubeflow["parameters"]["train_accelerator_type"] == "google.com/tpu"
    Path("named.yaml").write_text("jobId: flowers_1\ntrainingInput: {scaleTier: BASIC}")
    assert yaml.safe_load(run("migrate", "named.yaml").stdout)["displayName"] == "flowers_1"


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 64, "wrong.yaml' is empty"),
        (b"# nothing yet\ntrainingInput:\n", 64, "below `trainingInput:`"),
        ("trainingInput: {region: Zürich}".encode("latin-1"), 65, "save the file with the encoding UTF-8"),
        (b"trainingInput: {scaleTier: CUSTOM}", 64, "where: wrong.yaml"),
        (
            b"trainingInput: {scaleTier: CUSTOM, masterType: n1-standard-3}",
            64,
            "masterType=n1-standard-3 in ",
        ),
        (b"scaleTier: BASIC", 64, "write scaleTier below trainingInput"),
        (b"trainingInput: {jobId: x}", 64, "write jobId beside trainingInput"),
        (b"trainingInput: {imageUri: x}", 64, "write imageUri below masterConfig or workerConfig"),
        (b"trainingInput: {maxTrials: 2}", 64, "write maxTrials below hyperparameters"),
    ],
)
def test_migrate_names_the_file_and_what_to_do(run, content, status, text):
    Path("wrong.yaml").write_bytes(content)
    result = run("migrate", "wrong.yaml")
    assert result.exit_code == status
    assert text in result.stderr
    assert "wrong.yaml" in result.stderr


def test_a_client_killed_at_any_moment_creates_at_most_one_job(target, server, tmp_path):
    (tmp_path / "config.yaml").write_text(TPU_CONFIG)
    line = [IMGPIPE, "submit", JOB_ID, *target, "--no-check", "--config", "config.yaml", "--", *ARGUMENTS]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = time.monotonic()
    subprocess.run([*line[:2], "warm_up", *line[3:]], check=True, **quiet)
    seconds = time.monotonic() - started
    for moment in range(5):
        process = subprocess.Popen(line, **quiet)
        time.sleep(seconds * (0.4 + 0.12 * moment))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert sum(job.display_name == JOB_ID for job in server.created("customJobs")) <= 1
    assert subprocess.run(line, check=False, **quiet).returncode == 0
    assert sum(job.display_name == JOB_ID for job in server.created("customJobs")) == 1


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_whole_pipeline_runs_on_vertex_ai_and_trains_in_a_job(run, target, server, tmp_path):
    from imgpipe.pipelines.sample_data import write_digits

    write_digits(tmp_path / "bucket" / "digits")
    server.run_commands = True
    args = [
        *("--train_csv=gs://bucket/digits/digits.csv", "--model_type=resnet-18", "--image_size=32"),
        *("--weights=none", "--max_steps=200", "--train_batch_size=64", "--initial_learning_rate=0.05"),
        *("--warmup_steps=20", "--weight_decay=0.0005"),
    ]
    root = ["--as", "pipeline", "--pipeline-root", "gs://bucket/pipelines"]
    result = run("submit", JOB_ID, *target, "--no-check", *root, "--", *args)
    assert result.exit_code == 0, result.output
    [pipeline] = server.created("pipelineJobs")
    server.wait_for(pipeline.name, 1000)
    lines = run("stream-logs", JOB_ID, *target).stdout
    assert json.loads(run("describe", JOB_ID, *target, "--format", "json").stdout)["state"] == "SUCCEEDED", (
        lines
    )
    [training] = server.created("customJobs")
    assert training.state == STATES.JOB_STATE_SUCCEEDED
    # The run's logs include those of its training job.
    assert training.labels["imgpipe-run"] == pipeline.name.split("/")[-1]
    assert any("train: published to" in line for line in lines.splitlines())
    accuracy = float(re.search(r"evaluate: top-1 accuracy ([0-9.]+)", lines).group(1))
    print(f"digits on target vertex: top-1 accuracy {accuracy}")
    assert accuracy >= 0.97
    [model] = (tmp_path / "bucket" / "pipelines").rglob("exported_model/saved_model.pb")
    assert os.path.getsize(model) > 0


def test_gcloud_flags_are_understood_or_named(run, target, server, monkeypatch):
    submitted = submit(run, target, "--account", "me@example.com")
    assert "--account=me@example.com is ignored" in submitted.stderr
    described = run("describe", JOB_ID, "--summarize", *target)
    assert described.exit_code == 0
    assert "--summarize is ignored" in described.stderr
    listed = run("list", "--filter", "state=FAILED", *target)
    assert listed.exit_code == 64
    assert "--filter='state=FAILED' is an expression of gcloud" in listed.stderr
    logs = run("stream-logs", JOB_ID, "--no-follow", "--polling-interval", "60", *target)
    assert "--polling-interval is ignored" in logs.stderr
    seen = []

    def credentials():
        seen.append(google_credentials._impersonated_account.get())
        raise UnavailableError("none")

    monkeypatch.setattr("imgpipe.components.platforms.vertex.client.default_credentials", credentials)
    robot = "robot@flowers.iam.gserviceaccount.com"
    run("list", "--impersonate-service-account", robot, *target[:-2])
    assert seen == [robot]
    assert google_credentials._impersonated_account.get() == ""


def test_impersonated_credentials_are_those_of_the_account(monkeypatch):
    own = AnonymousCredentials()
    monkeypatch.setattr("google.auth.default", lambda **_: (own, "flowers"))
    with google_credentials.impersonating("robot@flowers.iam.gserviceaccount.com"):
        credentials, project = google_credentials.default_credentials()
    assert credentials.service_account_email == "robot@flowers.iam.gserviceaccount.com"
    assert project == "flowers"
    assert google_credentials.default_credentials() == (own, "flowers")
