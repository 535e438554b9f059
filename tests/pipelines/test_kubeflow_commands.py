"""The command line on Kubeflow: KFP's client against a server that runs steps as processes."""

import json
import re
import subprocess
import time
from datetime import UTC, datetime

import pytest
import yaml
from click.testing import CliRunner

from imgpipe import __version__
from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.katib_arguments import KatibArguments
from imgpipe.components.tune.search_space import read_request
from imgpipe.pipelines.cli import imgpipe
from tests.command_line import IMGPIPE
from tests.servers.configs import TPU_CONFIG, TUNING_CONFIG
from tests.servers.kubeflow import start_kubeflow_server
from tests.servers.kubeflow_workflow import Pod, WorkflowState

ARGUMENTS = ["--images=gs://bucket/flowers", "--max_steps=5"]


def submit(run, *options, arguments=ARGUMENTS):
    return run("submit", "job_1", "--no-check", *options, "--", *arguments)


def test_submit_sends_the_compiled_pipeline_with_the_arguments(run, server):
    result = submit(run, "--service-account", "trainer")
    assert result.exit_code == 0, result.output
    [sent] = server.runs.values()
    assert sent["display_name"] == "job_1"
    assert sent["service_account"] == "trainer"
    assert sent["runtime_config"]["parameters"]["images"] == "gs://bucket/flowers"
    assert sent["runtime_config"]["parameters"]["max_steps"] == 5
    assert "pipeline_spec" not in sent
    assert set(server.spec_of(sent)) == {"pipeline_spec", "platform_spec"}


def test_a_run_and_a_schedule_belong_to_a_pipeline_that_is_uploaded_once(run, server):
    assert submit(run).exit_code == 0
    assert run("submit", "job_2", "--no-check", "--", *ARGUMENTS, "--seed=1").exit_code == 0
    assert run(*SCHEDULE).exit_code == 0
    [pipeline] = server.pipelines.values()
    assert pipeline["name"] == "image-classification-all-arguments"
    assert "trains" in pipeline["description"].lower()
    [version] = server.versions.values()
    # The page of the pipeline would show it twice.
    assert version["description"] == ""
    assert re.fullmatch(rf"{re.escape(__version__)}-[0-9a-f]{{12}}", version["name"])
    expected = {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    for sent in (*server.runs.values(), *server.recurring_runs.values()):
        assert sent["pipeline_version_reference"] == expected
    other = run(
        "submit", "job_3", "--no-check", "--image-registry", "registry.example/team", "--", *ARGUMENTS
    )
    assert other.exit_code == 0
    assert len(server.versions) == 2
    assert len(server.pipelines) == 1


def test_an_account_that_may_not_upload_pipelines_sends_the_whole_pipeline(run, server):
    server.forbidden = ("pipelines",)
    assert submit(run).exit_code == 0
    [sent] = server.runs.values()
    assert set(sent["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}
    assert "nothing was started" in submit(run).stderr


CPU = {"image": "train-cpu", "cpu": "3", "memory": "11G", "node_selector": {}, "tolerations": []}


@pytest.mark.parametrize(
    ("config", "pod"),
    [
        ("trainingInput: {scaleTier: BASIC}", CPU),
        (
            "trainingInput: {scaleTier: CUSTOM, masterType: standard_v100}",
            {
                "image": "train-gpu",
                "cpu": "6",
                "memory": "22G",
                "accelerator": {"nvidia.com/gpu": 1},
                "node_selector": {},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        ),
        (
            "trainingInput: {scaleTier: CUSTOM, masterType: ct5lp-hightpu-8t}",
            {
                "image": "train-tpu",
                "cpu": "4",
                "memory": "8G",
                "accelerator": {"google.com/tpu": 8},
                "node_selector": {
                    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                    "cloud.google.com/gke-tpu-topology": "2x4",
                },
                "tolerations": [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        ),
    ],
    ids=["cpu", "gpu", "tpu"],
)
def test_one_yaml_places_the_training_on_cpu_gpu_and_tpu(run, server, tmp_path, config, pod):
    (tmp_path / "config.yaml").write_text(config)
    assert submit(run, "--config", "config.yaml").exit_code == 0
    [run_id] = server.runs
    pods = server.pods(run_id)
    image = pods["train"].pop("image")
    assert re.fullmatch(rf"imgpipe-{pod['image']}:[\d.]+", image)
    assert pods["train"] == {name: value for name, value in pod.items() if name != "image"}
    assert pods["evaluate"]["image"].startswith("imgpipe-serve-tools:")


def test_a_config_with_hyperparameters_becomes_the_tuning_pipeline_with_katibs_trials(run, server, tmp_path):
    (tmp_path / "config.yaml").write_text(TUNING_CONFIG)
    arguments = [*ARGUMENTS, "--initial_learning_rate=0.1", "--job-dir=gs://bucket/tuned"]
    result = submit(run, "--config", "config.yaml", "--service-account", "trainer", arguments=arguments)
    assert result.exit_code == 0, result.output
    assert "initial_learning_rate=0.1 is ignored" in result.stderr
    [sent] = server.runs.values()
    info = server.spec_of(sent)["pipeline_spec"]["pipelineInfo"]
    assert info["name"] == "image-classification-tune-all-arguments"
    given = sent["runtime_config"]["parameters"]
    assert given["tune_engine"] == "katib"
    assert given["trial_service_account"] == "trainer"
    # The machine in the config is that of each trial; the tune step only polls.
    assert given["trial_accelerator_type"] == "google.com/tpu"
    assert given["trial_accelerator_count"] == 4
    assert json.loads(given["trial_node_selector"])["cloud.google.com/gke-tpu-topology"] == "2x2"
    assert "imgpipe-train-tpu" in given["train_image"]
    assert "train_accelerator_type" not in given
    KatibArguments(**{name: given[name] for name in flat_fields([KatibArguments]) if name in given})
    request = read_request(TuneArguments(hyperparameters=given["hyperparameters"]))
    assert (request.max_trials, request.max_parallel_trials, request.early_stopping) == (6, 3, True)
    [parameter] = request.parameters
    assert (parameter.name, parameter.scale) == ("initial_learning_rate", "UNIT_LOG_SCALE")


def test_inputs_of_this_target_reach_the_run_the_schedule_and_the_pod(run, server, monkeypatch):
    inputs = ["--input", "train_memory=32Gi", "--input", 'train_node_selector={"pool": "training"}']
    inputs += ["--input", 'train_tolerations=[{"key": "own", "operator": "Exists"}]']
    inputs += ["--input", "storage-secret=bucket-key", "--input", "data_version=2026-w47"]
    result = submit(run, *inputs)
    assert result.exit_code == 0, result.output
    [run_id] = server.runs
    sent = server.runs[run_id]["runtime_config"]["parameters"]
    assert (sent["storage_secret"], sent["data_version"]) == ("bucket-key", "2026-w47")
    assert server.pods(run_id)["train"] | {"image": ""} == {
        "image": "",
        "cpu": "3",
        "memory": "32Gi",
        "node_selector": {"pool": "training"},
        "tolerations": [{"key": "own", "operator": "Exists"}],
    }
    assert "nothing was started" in submit(run, *inputs).stderr
    assert submit(run, *inputs, "--input", "train_cpu=8").exit_code == 64
    arguments = [
        "schedule",
        "create",
        "nightly",
        "--cron",
        "0 3 * * *",
        "--no-check",
        *inputs,
        "--",
        *ARGUMENTS,
    ]
    assert run(*arguments).exit_code == 0
    [recurring] = server.recurring_runs.values()
    assert recurring["runtime_config"]["parameters"] == sent


def test_without_a_shared_job_dir_trials_run_in_the_tune_step(run, server, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "trainingInput: {scaleTier: CUSTOM, masterType: standard_v100, hyperparameters: {maxTrials: 2, "
        "params: [{parameterName: seed, type: INTEGER, minValue: 1, maxValue: 9}]}}"
    )
    result = submit(run, "--config", "config.yaml")
    assert result.exit_code == 0, result.output
    assert "the trials run in the tune step's pod" in result.stderr
    [run_id] = server.runs
    assert server.pods(run_id)["tune"]["accelerator"] == {"nvidia.com/gpu": 1}
    assert "tune_engine" not in server.runs[run_id]["runtime_config"]["parameters"]


def test_a_google_service_account_is_reported_as_ignored(run, server):
    result = submit(run, "--service-account", "trainer@p.iam.gserviceaccount.com", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "--service-account=trainer@p.iam.gserviceaccount.com is ignored" in result.stderr
    assert yaml.safe_load(result.stdout)["serviceAccount"] == ""


def test_a_repeated_command_creates_no_second_run(run, server):
    submit(run)
    assert "nothing was started" in submit(run).stderr
    assert len(server.runs) == 1
    other = submit(run, arguments=[*ARGUMENTS, "--seed=1"])
    assert other.exit_code == 64
    assert "used for another request" in other.stderr


RETRAIN = [
    *("--deploy_target=kserve", "--deploy_dir=gs://bucket/serving/flowers", "--namespace=team"),
    *("--images=gs://bucket/flowers", "--max_steps=5"),
]


@pytest.mark.parametrize(
    ("options", "arguments", "different"),
    [
        (["--retrain"], RETRAIN, "another pipeline"),
        (["--image-registry", "registry.example/team"], ARGUMENTS, "another set of images"),
        (["--service-account", "trainer"], ARGUMENTS, "another service account"),
        (["--pipeline-root", "gs://bucket/runs"], ARGUMENTS, "another pipeline root"),
    ],
    ids=["pipeline", "images", "account", "root"],
)
def test_another_request_with_the_same_job_id_is_rejected(run, server, options, arguments, different):
    assert submit(run, arguments=arguments).exit_code == 0
    other = submit(run, *options, arguments=arguments)
    assert other.exit_code == 64
    assert "used for another request" in other.stderr
    assert different in other.stderr
    server.runs.clear()
    assert submit(run, *options, arguments=arguments).exit_code == 0
    assert "nothing was started" in submit(run, *options, arguments=arguments).stderr


def test_defaults_of_the_installation_are_not_another_request(run, server):
    submit(run)
    [sent] = server.runs.values()
    sent["service_account"] = "pipeline-runner"
    sent["runtime_config"]["pipeline_root"] = "minio://mlpipeline/v2/artifacts"
    assert "nothing was started" in submit(run).stderr
    # The user has deleted the version.
    server.versions.clear()
    assert "nothing was started" in submit(run).stderr


def test_a_run_of_the_browser_s_form_is_found_by_its_name(run, server):
    assert submit(run).exit_code == 0
    [started] = server.runs.values()
    server.experiments["default"] = {"experiment_id": "default", "display_name": "Default"}
    started["experiment_id"] = "default"
    assert json.loads(run("describe", "job_1", "--format", "json").stdout)["name"] == started["run_id"]
    assert run("cancel", "job_1").stdout == "job_1: CANCELLED\n"


def test_describe_list_and_cancel_use_the_submitted_job_id(run, server):
    assert json.loads(run("list", "--format", "json").stdout) == []
    submit(run)
    job = json.loads(run("describe", "job_1", "--format", "json").stdout)
    assert (job["job_id"], job["target"], job["state"]) == ("job_1", "kubeflow", "PENDING")
    assert json.loads(run("describe", job["name"], "--format", "json").stdout) == job
    assert json.loads(run("list", "--format", "json").stdout) == [job]
    assert run("cancel", "job_1").stdout == "job_1: CANCELLED\n"
    assert run("cancel", "job_1").exit_code == 0
    assert run("describe", "missing").exit_code == 66


def test_a_run_that_is_cancelled_leaves_no_experiment(run, server):
    # The step that follows it is killed less than a second after SIGTERM.
    submit(run)
    [run_id] = server.runs
    server.experiments_of_katib = {run_id: "imgpipe-tune-1", "another run": "imgpipe-tune-2"}
    assert run("cancel", "job_1").exit_code == 0
    assert server.experiments_of_katib == {"another run": "imgpipe-tune-2"}


def test_schedules_are_created_listed_paused_resumed_and_deleted(run, server):
    created = run("schedule", "create", "nightly", "--cron", "0 3 * * 1", "--no-check", "--", *ARGUMENTS)
    assert created.exit_code == 0, created.output
    [recurring] = server.recurring_runs.values()
    # Kubeflow's expression starts with seconds. Missed runs are skipped, and runs do not overlap.
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == 1
    assert recurring["runtime_config"]["parameters"]["max_steps"] == 5
    [listed] = json.loads(run("schedule", "list", "--format", "json").stdout)
    assert (listed["name"], listed["state"], listed["cron"]) == ("nightly", "ACTIVE", "0 3 * * 1")
    next_run = datetime.fromisoformat(listed["next_run"])
    assert (next_run.isoweekday(), next_run.hour, next_run.minute) == (1, 3, 0)
    assert next_run > datetime.now(UTC)
    assert listed["last_job"] == ""
    [resource] = server.recurring_runs
    experiment = recurring["experiment_id"]
    for number in (1, 2):
        started = {"run_id": f"r{number}", "display_name": f"nightly-{number}", "experiment_id": experiment}
        server.runs[f"r{number}"] = {**started, "recurring_run_id": resource, "state": "SUCCEEDED"}
    assert json.loads(run("schedule", "list", "--format", "json").stdout)[0]["last_job"] == "nightly-2"
    for verb, state in (("pause", "PAUSED"), ("resume", "ACTIVE")):
        assert run("schedule", verb, "nightly").exit_code == 0
        assert json.loads(run("schedule", "list", "--format", "json").stdout)[0]["state"] == state
    server.runs["r2"]["state"] = "RUNNING"
    server.workflows["r2"] = WorkflowState()
    assert run("schedule", "delete", "nightly").exit_code == 0
    assert server.recurring_runs == {}
    # The run that is running continues.
    assert "r2" in server.workflows


@pytest.mark.parametrize(
    ("trigger", "zone"),
    [
        ("2126-11-25T03:00:00Z", "UTC"),
        ("2126-11-24T18:00:00Z", "CRON_SCHEDULE_TIMEZONE"),
        ("", "UTC (assumed)"),
    ],
)
def test_the_next_run_of_a_schedule_is_shown_with_its_time_zone(run, server, trigger, zone):
    assert run(*SCHEDULE).exit_code == 0
    [resource] = server.recurring_runs
    server.triggers = {resource: trigger, "another": "2026-01-01T00:00:00Z"}
    if not trigger:
        server.forbidden = ("scheduledworkflows",)
    listed = run("schedule", "list")
    assert "NEXT RUN (UTC)" in listed.stdout
    assert ("set KUBECONFIG" in listed.stderr) == (not trigger)
    [shown] = json.loads(run("schedule", "list", "--format", "json").stdout)
    assert shown["time_zone"] == zone
    if trigger:
        assert shown["next_run"] == trigger
    assert run("schedule", "pause", "nightly").exit_code == 0
    [shown] = json.loads(run("schedule", "list", "--format", "json").stdout)
    assert shown["next_run"] == ""


def test_a_repeated_schedule_is_found_and_another_with_its_name_rejected(run, server):
    created = run(*SCHEDULE)
    assert created.exit_code == 0, created.output
    again = run(*SCHEDULE)
    assert again.exit_code == 0, again.output
    assert again.stdout == created.stdout
    assert "nothing was created" in again.stderr
    for arguments, different in (
        ([*SCHEDULE, "--seed=1"], "set of parameters"),
        ([word.replace("0 3", "0 4") for word in SCHEDULE], "time"),
        ([*SCHEDULE[:3], "--service-account=trainer", *SCHEDULE[3:]], "service account"),
    ):
        other = run(*arguments)
        assert other.exit_code == 64
        assert f"there is already a schedule 'nightly' with another {different}" in other.stderr
    assert len(server.recurring_runs) == 1


def test_a_name_of_two_schedules_is_rejected(run, server):
    run(*SCHEDULE)
    [first] = server.recurring_runs.values()
    # As after two concurrent clients.
    server.recurring_runs["other"] = {**first, "recurring_run_id": "other"}
    for arguments in (["schedule", verb, "nightly"] for verb in ("pause", "resume", "delete")):
        result = run(*arguments)
        assert result.exit_code == 64
        assert first["recurring_run_id"] in result.stderr
        assert "other" in result.stderr
    assert {recurring["status"] for recurring in server.recurring_runs.values()} == {"ENABLED"}
    assert run("schedule", "delete", "other").exit_code == 0
    assert list(server.recurring_runs.values()) == [first]
    server.recurring_runs["other"] = {**first, "recurring_run_id": "other", "created_at": LATER}
    assert "nothing was created" in run(*SCHEDULE).stderr
    assert list(server.recurring_runs.values()) == [first]
    assert run("schedule", "pause", "nightly").exit_code == 0


@pytest.mark.parametrize(
    ("status", "code", "message"), [(401, 69, "--token"), (400, 64, "because"), (503, 75, "try again")]
)
def test_a_rejected_request_says_what_to_do(run, server, status, code, message):
    server.forced_responses = [(200, {"multi_user": False}), (status, "because")]
    result = run("describe", "job_1")
    assert result.exit_code == code
    assert message in result.stderr


LATER = "2126-11-29T00:00:00Z"
SCHEDULE = ["schedule", "create", "nightly", "--cron", "0 3 * * 1", "--no-check", "--", *ARGUMENTS]


@pytest.mark.parametrize("open_paths", [(), ("/apis/v2beta1/healthz",)], ids=["all", "but_healthz"])
@pytest.mark.parametrize("login", ["redirect", "page"])
def test_a_login_page_is_not_a_response(run, server, login, open_paths):
    server.login, server.open_paths = login, open_paths
    server.credentials = {"Authorization": "Bearer secret"}
    for arguments in (["submit", "job_1", "--no-check", "--", *ARGUMENTS], SCHEDULE, ["cancel", "job_1"]):
        result = run(*arguments)
        assert result.exit_code == 69, result.output
        assert "a login is required" in result.stderr
        assert "--token" in result.stderr
        assert "state=secret" not in result.stderr
    assert server.runs == server.recurring_runs == {}
    assert submit(run, "--token", "secret").exit_code == 0
    assert len(server.runs) == 1


def test_requests_are_authorized_as_by_kfps_client(run, server, tmp_path, monkeypatch):
    """The token is not sent to a proxy, and the cookie in KFP's own file is used."""
    server.login, server.credentials = "page", {"Cookie": "session=1", "Authorization": "Bearer secret"}
    context = {"namespace": "", "client_authentication_cookie": "session=1"}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password other\n")
    (tmp_path / "context.json").write_text(json.dumps(context))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with start_kubeflow_server(tmp_path / "proxy") as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.address)
        result = submit(run, "--token", "secret")
        assert result.exit_code == 0, result.output
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
        server.headers.clear()
        monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
        assert run("describe", "job_1").exit_code == 0
        assert {headers["Cookie"] for headers in server.headers} == {"session=1"}
        assert proxy.headers == []


def test_an_unreachable_installation_is_reported():
    result = CliRunner().invoke(
        imgpipe, ["describe", "x", "--target", "kubeflow", "--host", "http://127.0.0.1:9"]
    )
    assert result.exit_code == 75
    assert "kubectl port-forward" in result.stderr


def test_the_host_is_required():
    result = CliRunner().invoke(imgpipe, ["list", "--target", "kubeflow"])
    assert result.exit_code == 64
    assert "--host is missing" in result.stderr


def test_a_dry_run_prints_the_parameters_and_sends_nothing(run, server, tmp_path):
    (tmp_path / "config.yaml").write_text(TPU_CONFIG)
    result = submit(run, "--config", "config.yaml", "--dry-run", "--format", "json")
    shown = json.loads(result.stdout)
    assert shown["parameters"]["train_accelerator_type"] == "google.com/tpu"
    assert "is not available on GKE" in result.stderr
    assert server.requests == []


def test_the_dry_run_of_a_schedule_prints_its_time_and_parameters(run, server):
    line = ["schedule", "create", "nightly", "--cron", "0 3 * * 1", "--pipeline-root", "gs://b/p"]
    result = run(*line, "--dry-run", "--format", "json", "--", *ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert server.requests == []
    shown = json.loads(result.stdout)
    assert (shown["kind"], shown["name"], shown["cron_expression"]) == (
        "recurring run",
        "nightly",
        "0 0 3 * * 1",
    )
    assert run(*line, "--no-check", "--", *ARGUMENTS).exit_code == 0
    [sent] = server.recurring_runs.values()
    assert sent["trigger"]["cron_schedule"]["cron"] == shown["cron_expression"]
    assert sent["runtime_config"]["pipeline_root"] == shown["pipelineRoot"] == "gs://b/p"
    assert sent["runtime_config"]["parameters"]["images"] == shown["parameters"]["images"]


def test_the_compiled_steps_run_and_their_logs_are_followed(run, server, tmp_path):
    """Without a cluster: the steps of the compiled YAML, until a damaged image fails the second request."""
    (tmp_path / "photos" / "daisy").mkdir(parents=True)
    (tmp_path / "photos" / "daisy" / "1.jpg").write_bytes(b"not an image")
    server.run_commands = True
    assert submit(run, arguments=[f"--images={tmp_path / 'photos'}"]).exit_code == 0
    followed = run("stream-logs", "job_1")
    assert followed.exit_code == 76
    assert "prepare: done" in followed.stdout
    assert "convert" in followed.stdout
    assert json.loads(run("describe", "job_1", "--format", "json").stdout)["state"] == "FAILED"


def test_each_log_line_is_shown_once_despite_a_failed_request_and_a_log_rotation(run, server):
    submit(run)
    [run_id] = server.runs
    server.workflows[run_id] = WorkflowState({"train": [Pod("Running")]})
    server.log_responses = [(200, "a\nb\nc\n"), (500, ""), (200, "a\nb\nc\nd\n"), (200, "x\n")]
    followed = run("stream-logs", "job_1", "--all")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.split() == ["a", "b", "c", "d", "x"]


def test_the_end_of_a_log_is_read_again_if_its_node_did_not_respond(run, server, monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.05)
    submit(run)
    [run_id] = server.runs
    pod = Pod(log="a\nb\n")
    server.workflows[run_id] = WorkflowState({"train": [pod]}, finished=True)
    server.runs[run_id]["state"] = "SUCCEEDED"
    server.log_responses = [(500, ""), (503, ""), (200, "a\nb\n")]
    followed = run("stream-logs", "job_1", "--all")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.split() == ["a", "b"]
    # The connection of each request is tried again before.
    server.log_responses = [(500, "")] * 200
    assert run("stream-logs", "job_1", "--all").exit_code == 0
    server.has_interface = False
    assert run("stream-logs", "job_1", "--all").exit_code == 75


def test_pods_that_cannot_be_listed_now_are_listed_again(run, server, monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.05)
    submit(run)
    [run_id] = server.runs
    server.workflows[run_id] = WorkflowState({"train": [Pod("Running")]})
    server.log_responses = [(200, "a\n"), (200, "a\nb\n")]
    answer, failures = server._kubernetes, [503]
    server._kubernetes = lambda path, query: (
        (failures.pop(), "") if failures and path.endswith("/pods") else answer(path, query)
    )
    followed = run("stream-logs", "job_1", "--all")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.split() == ["a", "b"]


@pytest.mark.parametrize("content", ["[", "clusters: []"])
def test_a_kubeconfig_without_a_cluster_is_reported(run, server, tmp_path, monkeypatch, content):
    submit(run)
    [run_id] = server.runs
    server.workflows[run_id] = WorkflowState({"train": [Pod("Running")]})
    (tmp_path / "broken").write_text(content)
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "broken")
    )
    result = run("stream-logs", "job_1")
    assert result.exit_code == 69, result.output
    assert "set KUBECONFIG" in result.stderr


def test_a_cluster_that_cannot_be_reached_is_reported(run, server, tmp_path):
    submit(run)
    # No server listens at port 9.
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace(server.address, "http://127.0.0.1:9"))
    result = run("stream-logs", "job_1")
    assert result.exit_code == 75, result.output
    assert "did not respond" in result.stderr


def test_a_client_killed_at_any_moment_starts_at_most_one_run(server, tmp_path):
    target = ["--target", "kubeflow", "--host", server.address]
    line = [IMGPIPE, "submit", "job_1", *target, "--no-check", "--", *ARGUMENTS]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = time.monotonic()
    subprocess.run([*line[:2], "warm_up", *line[3:]], check=True, **quiet)
    seconds = time.monotonic() - started
    for moment in range(5):
        client = subprocess.Popen(line, **quiet)
        time.sleep(seconds * (0.5 + 0.1 * moment))
        client.kill()
        client.wait()
    assert subprocess.run(line, check=False, **quiet).returncode == 0
    assert sorted(run["display_name"] for run in server.runs.values()) == ["job_1", "warm_up"]


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_whole_pipeline_runs_from_the_kubeflow_yaml(run, server, tmp_path):
    from imgpipe.pipelines.sample_data import write_digits

    write_digits(tmp_path / "digits")
    server.run_commands = True
    arguments = [
        *(f"--train_csv={tmp_path}/digits/digits.csv", "--model_type=resnet-18", "--image_size=32"),
        *("--weights=none", "--max_steps=200", "--train_batch_size=64", "--initial_learning_rate=0.05"),
        *("--warmup_steps=20", "--weight_decay=0.0005"),
    ]
    assert submit(run, arguments=arguments).exit_code == 0
    [run_id] = server.runs
    server.wait_for(run_id, 1000)
    lines = run("stream-logs", "job_1").stdout
    assert server.runs[run_id]["state"] == "SUCCEEDED", lines
    accuracy = float(re.search(r"evaluate: result: top-1 accuracy ([0-9.]+)", lines).group(1))
    print(f"digits from the Kubeflow YAML: top-1 accuracy {accuracy}")
    assert accuracy >= 0.97
    steps = json.loads(run("describe", "job_1", "--format", "json").stdout)["details"]["steps"]
    assert list(steps) == ["prepare", "convert", "validate", "train", "evaluate", "publish"]
    assert {step["state"] for step in steps.values()} == {"done"}
    assert "gate: passed 2 checks; not deployed" in steps["publish"]["result"]


def test_check_reads_the_storage_secret_and_asks_what_the_pods_account_may_do(run, server):
    server.denied = ("create inferenceservices.serving.kserve.io",)
    server.secrets = {"bucket-key": {"credentials.json": "{}"}}
    deployed = [*ARGUMENTS, "--deploy_target=kserve", "--deploy_dir=gs://bucket/serving/flowers"]
    options = ["--input", "storage_secret=bucket-key", "--format", "json"]
    found = {
        finding["subject"]: finding
        for finding in json.loads(run("check", *options, "--", *deployed).stdout)
        if finding["status"] == "error"
    }
    assert "its entries are credentials.json" in found["storage_secret"]["message"]
    account = found["system:serviceaccount:kubeflow:pipeline-runner"]
    assert "may not create inferenceservices.serving.kserve.io in namespace 'kubeflow'" in account["message"]
    assert yaml.safe_load(account["fix"].partition("\n")[2])["items"][0]["kind"] == "Role"
    # `submit` runs the same checks.
    result = run("submit", "job_1", *options, "--", *deployed)
    assert result.exit_code in (64, 69)
    assert not server.runs


def test_check_asks_for_the_users_account_even_if_the_secret_may_not_be_read(run, server):
    server.multi_user = "team"
    server.denied = ("create inferenceservices.serving.kserve.io",)
    answer = server._kubernetes
    server._kubernetes = lambda path, query: (
        (403, "forbidden") if "/secrets/" in path else answer(path, query)
    )
    deployed = [*ARGUMENTS, "--deploy_target=kserve", "--deploy_dir=gs://bucket/serving/flowers"]
    result = run("check", "--namespace", "team", "--format", "json", "--", *deployed)
    found = {finding["subject"]: finding for finding in json.loads(result.stdout)}
    assert found["storage_secret"]["status"] == "warning"
    assert found["system:serviceaccount:team:default-editor"]["status"] == "error"


def test_check_reports_a_cluster_without_kserve(run, server):
    server.denied = ("/apis/serving.kserve.io/v1beta1",)
    deployed = [*ARGUMENTS, "--deploy_target=kserve", "--deploy_dir=gs://bucket/serving/flowers"]
    result = run("check", "--format", "json", "--", *deployed)
    [error] = [finding for finding in json.loads(result.stdout) if finding["status"] == "error"]
    assert "the cluster has no API serving.kserve.io/v1beta1" in error["message"]
    assert result.exit_code == 69


def test_check_without_a_readable_cluster_says_what_was_not_checked(run, server, monkeypatch, tmp_path):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    found = json.loads(run("check", "--format", "json", "--", *ARGUMENTS).stdout)
    [secret] = [finding for finding in found if finding["subject"] == "storage_secret"]
    assert secret["status"] == "warning"
    assert "it cannot be checked: there is no cluster" in secret["message"]
