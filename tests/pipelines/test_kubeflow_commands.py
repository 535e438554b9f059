"""imgpipe on Kubeflow: the command line, KFP's own client, and a server that speaks its protocol."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.katib_arguments import KatibArguments
from imgpipe.components.tune.search_space import read_request
from imgpipe.pipelines.cli import imgpipe
from tests.servers.configs import TPU_CONFIG, TUNING_CONFIG
from tests.servers.kubeflow import kubeconfig, start_kubeflow_server

IMGPIPE = str(Path(sys.executable).parent / "imgpipe")
WORDS = ["--images=gs://bucket/flowers", "--max_steps=5"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    with start_kubeflow_server(tmp_path / "cluster") as started:
        # kubernetes reads the variable when it is imported.
        monkeypatch.setattr(
            "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig(tmp_path, started)
        )
        yield started


@pytest.fixture
def run(server, monkeypatch, tmp_path):
    """``run("describe", "x")`` runs a command here against the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imgpipe.pipelines.targets.kubeflow_logs._POLL_SECONDS", 0.1)

    def run_here(*words):
        place = ["--target", "kubeflow", "--host", server.address]
        words = list(map(str, words))
        at = words.index("--") if "--" in words else len(words)
        return CliRunner().invoke(imgpipe, [*words[:at], *place, *words[at:]])

    return run_here


def submit(run, *options, words=WORDS):
    return run("submit", "job_1", "--no-check", *options, "--", *words)


def test_the_run_that_kubeflow_gets_is_the_compiled_pipeline_with_the_arguments(run, server):
    result = submit(run, "--service-account", "trainer")
    assert result.exit_code == 0, result.output
    [sent] = server.runs.values()
    assert sent["display_name"] == "job_1"
    assert sent["service_account"] == "trainer"
    assert sent["runtime_config"]["parameters"]["images"] == "gs://bucket/flowers"
    assert sent["runtime_config"]["parameters"]["max_steps"] == 5
    assert set(sent["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}


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
    words = [*WORDS, "--initial_learning_rate=0.1", "--job-dir=gs://bucket/tuned"]
    result = submit(run, "--config", "config.yaml", "--service-account", "trainer", words=words)
    assert result.exit_code == 0, result.output
    assert "initial_learning_rate=0.1 is ignored" in result.stderr
    [sent] = server.runs.values()
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "image-classification-tune"
    given = sent["runtime_config"]["parameters"]
    assert given["tune_engine"] == "katib"
    assert given["trial_service_account"] == "trainer"
    # The machine of the file is each trial's; the step only looks on.
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


def test_what_only_this_target_takes_reaches_the_run_the_schedule_and_the_pod(run, server, monkeypatch):
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
    words = ["schedule", "create", "nightly", "--cron", "0 3 * * *", "--no-check", *inputs, "--", *WORDS]
    assert run(*words).exit_code == 0
    [recurring] = server.recurring_runs.values()
    assert recurring["runtime_config"]["parameters"] == sent


def test_without_a_job_dir_that_pods_share_the_trials_run_in_the_tune_step(run, server, tmp_path):
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


def test_without_a_config_the_training_gets_a_small_machine(run, server):
    submit(run)
    [run_id] = server.runs
    assert "accelerator" not in server.pods(run_id)["train"]


def test_an_account_of_google_cloud_is_named_as_ignored(run, server):
    result = submit(run, "--service-account", "trainer@p.iam.gserviceaccount.com", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "--service-account=trainer@p.iam.gserviceaccount.com is ignored" in result.stderr
    assert yaml.safe_load(result.stdout)["serviceAccount"] == ""


def test_the_same_line_again_starts_no_second_run(run, server):
    submit(run)
    assert "nothing was started" in submit(run).stderr
    assert len(server.runs) == 1
    other = submit(run, words=[*WORDS, "--seed=1"])
    assert other.exit_code == 64
    assert "used for another request" in other.stderr


RETRAIN = [
    *("--deploy_target=kserve", "--deploy_dir=gs://bucket/serving/flowers", "--namespace=team"),
    *("--images=gs://bucket/flowers", "--max_steps=5"),
]


@pytest.mark.parametrize(
    ("options", "words", "different"),
    [
        (["--retrain"], RETRAIN, "another pipeline"),
        (["--image-registry", "registry.example/team"], WORDS, "another set of images"),
        (["--service-account", "trainer"], WORDS, "another service account"),
        (["--pipeline-root", "gs://bucket/runs"], WORDS, "another pipeline root"),
    ],
    ids=["pipeline", "images", "account", "root"],
)
def test_another_request_under_the_same_job_id_is_refused(run, server, options, words, different):
    assert submit(run, words=words).exit_code == 0
    other = submit(run, *options, words=words)
    assert other.exit_code == 64
    assert "used for another request" in other.stderr
    assert different in other.stderr
    server.runs.clear()
    assert submit(run, *options, words=words).exit_code == 0
    assert "nothing was started" in submit(run, *options, words=words).stderr


def test_what_the_installation_fills_in_is_not_another_request(run, server):
    submit(run)
    [sent] = server.runs.values()
    sent["service_account"] = "pipeline-runner"
    sent["runtime_config"]["pipeline_root"] = "minio://mlpipeline/v2/artifacts"
    assert "nothing was started" in submit(run).stderr
    # As of a pipeline that was uploaded.
    sent["pipeline_spec"] = None
    assert "nothing was started" in submit(run).stderr


def test_describe_list_and_cancel_use_the_job_id_that_was_given(run, server):
    assert json.loads(run("list", "--format", "json").stdout) == []
    submit(run)
    job = json.loads(run("describe", "job_1", "--format", "json").stdout)
    assert (job["job_id"], job["target"], job["state"]) == ("job_1", "kubeflow", "PENDING")
    assert json.loads(run("describe", job["name"], "--format", "json").stdout) == job
    assert json.loads(run("list", "--format", "json").stdout) == [job]
    assert run("cancel", "job_1").stdout == "job_1: CANCELLED\n"
    assert run("cancel", "job_1").exit_code == 0
    assert run("describe", "nobody").exit_code == 66


def test_schedules_are_made_listed_paused_resumed_and_deleted(run, server):
    made = run("schedule", "create", "nightly", "--cron", "0 3 * * 1", "--no-check", "--", *WORDS)
    assert made.exit_code == 0, made.output
    [recurring] = server.recurring_runs.values()
    # Kubeflow's has seconds first; no run is made up for, and no two are at work.
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == 1
    assert recurring["runtime_config"]["parameters"]["max_steps"] == 5
    [listed] = json.loads(run("schedule", "list", "--format", "json").stdout)
    assert (listed["name"], listed["state"], listed["cron"]) == ("nightly", "ACTIVE", "0 3 * * 1")
    for verb, state in (("pause", "PAUSED"), ("resume", "ACTIVE")):
        assert run("schedule", verb, "nightly").exit_code == 0
        assert json.loads(run("schedule", "list", "--format", "json").stdout)[0]["state"] == state
    assert run("schedule", "delete", "nightly").exit_code == 0
    assert server.recurring_runs == {}


def test_the_same_schedule_again_is_found_and_another_of_its_name_refused(run, server):
    made = run(*SCHEDULE)
    assert made.exit_code == 0, made.output
    again = run(*SCHEDULE)
    assert again.exit_code == 0, again.output
    assert again.stdout == made.stdout
    assert "nothing was created" in again.stderr
    for words, different in (
        ([*SCHEDULE, "--seed=1"], "set of parameters"),
        ([word.replace("0 3", "0 4") for word in SCHEDULE], "time"),
        ([*SCHEDULE[:3], "--service-account=trainer", *SCHEDULE[3:]], "service account"),
    ):
        other = run(*words)
        assert other.exit_code == 64
        assert f"there is already a schedule 'nightly' with another {different}" in other.stderr
    assert len(server.recurring_runs) == 1


def test_of_two_schedules_of_one_name_none_is_taken_in_silence(run, server):
    run(*SCHEDULE)
    [first] = server.recurring_runs.values()
    # As two clients at once leave it.
    server.recurring_runs["other"] = {**first, "recurring_run_id": "other"}
    for words in (*(["schedule", verb, "nightly"] for verb in ("pause", "resume", "delete")), SCHEDULE):
        result = run(*words)
        assert result.exit_code == 64
        assert first["recurring_run_id"] in result.stderr
        assert "other" in result.stderr
    assert {one["status"] for one in server.recurring_runs.values()} == {"ENABLED"}
    assert run("schedule", "delete", "other").exit_code == 0
    assert list(server.recurring_runs.values()) == [first]
    assert run("schedule", "pause", "nightly").exit_code == 0


@pytest.mark.parametrize(
    ("status", "code", "words"), [(401, 69, "--token"), (400, 64, "because"), (503, 75, "try again")]
)
def test_a_refusal_says_what_to_do(run, server, status, code, words):
    server.refusals = [(200, {"multi_user": False}), (status, "because")]
    result = run("describe", "job_1")
    assert result.exit_code == code
    assert words in result.stderr


SCHEDULE = ["schedule", "create", "nightly", "--cron", "0 3 * * 1", "--no-check", "--", *WORDS]


@pytest.mark.parametrize("open_paths", [(), ("/apis/v2beta1/healthz",)], ids=["all", "but_healthz"])
@pytest.mark.parametrize("login", ["redirect", "page"])
def test_a_page_to_log_in_is_no_answer(run, server, login, open_paths):
    server.login, server.open_paths = login, open_paths
    server.known = {"Authorization": "Bearer secret"}
    for words in (["submit", "job_1", "--no-check", "--", *WORDS], SCHEDULE, ["cancel", "job_1"]):
        result = run(*words)
        assert result.exit_code == 69, result.output
        assert "a login is required" in result.stderr
        assert "--token" in result.stderr
        assert "state=secret" not in result.stderr
    assert server.runs == server.recurring_runs == {}
    assert submit(run, "--token", "secret").exit_code == 0
    assert len(server.runs) == 1


def test_the_installation_is_asked_as_kfps_client_asks(run, server, tmp_path, monkeypatch):
    """The token goes to no proxy that other programs use, and the cookie of KFP's own file is sent."""
    server.login, server.known = "page", {"Cookie": "session=1", "Authorization": "Bearer secret"}
    context = {"namespace": "", "client_authentication_cookie": "session=1"}
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password other\n")
    (tmp_path / "context.json").write_text(json.dumps(context))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with start_kubeflow_server(tmp_path / "proxy") as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.address)
        result = submit(run, "--token", "secret")
        assert result.exit_code == 0, result.output
        assert {one["Authorization"] for one in server.headers} == {"Bearer secret"}
        server.headers.clear()
        monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
        assert run("describe", "job_1").exit_code == 0
        assert {one["Cookie"] for one in server.headers} == {"session=1"}
        assert proxy.headers == []


def test_what_does_not_answer_is_given_up_soon(monkeypatch):
    monkeypatch.setattr("imgpipe.pipelines.targets.kubeflow_client._CONNECT_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        result = CliRunner().invoke(imgpipe, ["describe", "x", "--target", "kubeflow", "--host", host])
    assert result.exit_code == 75
    assert time.monotonic() - started < 15


def test_an_installation_that_cannot_be_reached_is_told():
    result = CliRunner().invoke(
        imgpipe, ["describe", "x", "--target", "kubeflow", "--host", "http://127.0.0.1:9"]
    )
    assert result.exit_code == 75
    assert "kubectl port-forward" in result.stderr


def test_the_address_must_be_given():
    result = CliRunner().invoke(imgpipe, ["list", "--target", "kubeflow"])
    assert result.exit_code == 64
    assert "--host is missing" in result.stderr


def test_a_dry_run_prints_the_parameters_and_asks_nobody(run, server, tmp_path):
    (tmp_path / "config.yaml").write_text(TPU_CONFIG)
    result = submit(run, "--config", "config.yaml", "--dry-run", "--format", "json")
    shown = json.loads(result.stdout)
    assert shown["parameters"]["train_accelerator_type"] == "google.com/tpu"
    assert "is not available on GKE" in result.stderr
    assert server.requests == []


def test_the_dry_run_of_a_schedule_prints_when_and_with_what_it_runs(run, server):
    line = ["schedule", "create", "nightly", "--cron", "0 3 * * 1", "--pipeline-root", "gs://b/p"]
    result = run(*line, "--dry-run", "--format", "json", "--", *WORDS)
    assert result.exit_code == 0, result.output
    assert server.requests == []
    shown = json.loads(result.stdout)
    assert (shown["kind"], shown["name"], shown["cron_expression"]) == (
        "recurring run",
        "nightly",
        "0 0 3 * * 1",
    )
    assert run(*line, "--no-check", "--", *WORDS).exit_code == 0
    [sent] = server.recurring_runs.values()
    assert sent["trigger"]["cron_schedule"]["cron"] == shown["cron_expression"]
    assert sent["runtime_config"]["pipeline_root"] == shown["pipelineRoot"] == "gs://b/p"
    assert sent["runtime_config"]["parameters"]["images"] == shown["parameters"]["images"]


def test_the_yamls_own_steps_run_and_their_logs_are_followed(run, server, tmp_path):
    """As far as it goes without a cluster: every step of the YAML, on pictures of which one is damaged."""
    (tmp_path / "photos" / "daisy").mkdir(parents=True)
    (tmp_path / "photos" / "daisy" / "1.jpg").write_bytes(b"no picture")
    server.run_commands = True
    assert submit(run, words=[f"--images={tmp_path / 'photos'}"]).exit_code == 0
    followed = run("stream-logs", "job_1")
    assert followed.exit_code == 76
    assert "data_version: done" in followed.stdout
    assert "convert" in followed.stdout
    assert json.loads(run("describe", "job_1", "--format", "json").stdout)["state"] == "FAILED"


def test_every_line_is_followed_once_though_the_cluster_fails_for_a_moment_and_begins_a_new_file(run, server):
    submit(run)
    [run_id] = server.runs
    server.logs[run_id] = []
    server.log_answers = [(200, "a\nb\nc\n"), (500, ""), (200, "a\nb\nc\nd\n"), (200, "x\n")]
    followed = run("stream-logs", "job_1")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout.split() == ["a", "b", "c", "d", "x"]


@pytest.mark.parametrize("content", ["[", "clusters: []"])
def test_a_kubeconfig_that_gives_no_cluster_is_told(run, server, tmp_path, monkeypatch, content):
    submit(run)
    (tmp_path / "broken").write_text(content)
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "broken")
    )
    result = run("stream-logs", "job_1")
    assert result.exit_code == 69, result.output
    assert "set KUBECONFIG" in result.stderr


def test_a_cluster_that_does_not_answer_is_told(run, server, tmp_path, monkeypatch):
    submit(run)
    config = (tmp_path / "silent", kubeconfig(tmp_path, server))
    # Nobody listens at port 9.
    config[0].write_text(Path(config[1]).read_text().replace(server.address, "http://127.0.0.1:9"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config[0]))
    result = run("stream-logs", "job_1")
    assert result.exit_code == 75, result.output
    assert "did not respond" in result.stderr


def test_a_client_killed_at_any_moment_has_started_one_run_at_most(server, tmp_path):
    line = [
        IMGPIPE,
        "submit",
        "job_1",
        "--target",
        "kubeflow",
        "--host",
        server.address,
        "--no-check",
        "--",
        *WORDS,
    ]
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
    words = [
        *(f"--train_csv={tmp_path}/digits/digits.csv", "--model_type=resnet-18", "--image_size=32"),
        *("--weights=none", "--max_steps=200", "--train_batch_size=64", "--initial_learning_rate=0.05"),
        *("--warmup_steps=20", "--weight_decay=0.0005"),
    ]
    assert submit(run, words=words).exit_code == 0
    [run_id] = server.runs
    server.wait_for(run_id, 1000)
    lines = run("stream-logs", "job_1").stdout
    assert server.runs[run_id]["state"] == "SUCCEEDED", lines
    accuracy = float(re.search(r"evaluate: top-1 accuracy ([0-9.]+)", lines).group(1))
    print(f"digits from the Kubeflow YAML: top-1 accuracy {accuracy}")
    assert accuracy >= 0.97


def test_with_a_registry_the_run_names_whole_images(run, server):
    assert submit(run, "--image-registry", "registry.example/team").exit_code == 0
    [run_id] = server.runs
    images = {pod["image"] for pod in server.pods(run_id).values()}
    assert all(image.startswith("registry.example/team/imgpipe-") for image in images)
