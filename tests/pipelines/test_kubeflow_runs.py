"""describe, list, stream-logs and cancel on Kubeflow: what a run's Workflow and its logs say."""

import base64
import gzip
import json

import pytest
from click.testing import CliRunner

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import LOG_FORMAT_VARIABLE, log_event, log_result
from imgpipe.components.common.step import log_error
from imgpipe.pipelines.cli import imgpipe
from tests.servers.kubeflow_workflow import Pod, WorkflowState

ORDER = ["prepare", "convert", "validate", "train", "evaluate", "publish"]
NOISE = "I1128 09:00:00.000000 17 launcher_v2.go:151] input\n[KFP Executor 2026-11-28 INFO]: --component\n"


@pytest.fixture
def run(run, monkeypatch):
    monkeypatch.delenv(LOG_FORMAT_VARIABLE, raising=False)
    result = run("submit", "job_1", "--no-check", "--", "--images=gs://bucket/flowers")
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def state(server, run):
    """``state(run_state, pods=...)`` sets what has happened in the run."""

    def set_state(run_state, **values):
        [run_id] = server.runs
        server.workflows[run_id] = WorkflowState(**values, finished=run_state in ("SUCCEEDED", "FAILED"))
        server.runs[run_id]["state"] = run_state
        return server.workflows[run_id]

    return set_state


@pytest.fixture
def printed(capsys):
    """Returns the log that a call prints, among the lines of the launcher."""

    def lines_of(*calls):
        capsys.readouterr()
        for call in calls:
            call()
        return NOISE + capsys.readouterr().out + "I1128 launcher_v2.go:151] publish success.\n"

    return lines_of


def described(run):
    result = run("describe", "job_1", "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_describe_shows_the_steps_in_the_pipelines_order_with_their_results(run, state, printed):
    done = printed(lambda: log_result("convert", "1,000 images in 4 shards"))
    error = InvalidDataError("the image is damaged", where="a.csv, line 2", remedy="replace it")
    failed = printed(lambda: log_event("x", "validate: reads"), lambda: log_error("validate", error))
    pods = {
        "convert": [Pod(log=done, seconds=12)],
        "validate": [Pod("Failed", "Error (exit code 1)", failed)],
    }
    state("FAILED", pods=pods, cached=("prepare",), omitted=("train",))
    job = described(run)
    steps = job["details"]["steps"]
    names = list(steps)
    assert names == ORDER
    assert steps["prepare"]["state"] == "done"
    assert "earlier run" in steps["prepare"]["cached"]
    assert steps["convert"] == {"state": "done", "duration": "12 s", "result": "1,000 images in 4 shards"}
    text = "problem: the image is damaged\nwhere: a.csv, line 2\nwhat to do: replace it"
    assert (steps["validate"]["state"], steps["validate"]["error"]) == ("failed", text)
    assert {steps[name]["state"] for name in names[3:]} == {"not run"}
    assert job["error"] == "validate: the image is damaged"
    shown = run("describe", "job_1").stdout
    for noise in ("driver", "executor", "(0)", "None", "PENDING"):
        assert noise not in shown


def test_a_step_of_several_components_shows_the_result_of_each(run, state, printed):
    log = printed(
        lambda: log_result("export", "the evaluation matches"),
        lambda: log_event("step_started", "gate: started"),
        lambda: log_result("gate", "blocked, not deployed"),
    )
    assert described(run)["details"].get("steps", {}) == {}
    pods = {**{name: [Pod()] for name in ORDER}, "publish": [Pod(log=log)]}
    state("SUCCEEDED", pods=pods)
    steps = described(run)["details"]["steps"]
    assert steps["publish"]["result"] == "export: the evaluation matches\ngate: blocked, not deployed"


UNSCHEDULABLE = "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."
REASONS = [
    'ImagePullBackOff: Back-off pulling image "imgpipe-data:0.1"',
    UNSCHEDULABLE,
    'CreateContainerConfigError: secret "x" not found',
]


@pytest.mark.parametrize("reason", REASONS, ids=["image", "resources", "secret"])
def test_a_pod_that_cannot_start_is_reported_with_its_reason(run, server, state, reason):
    state("RUNNING", pods={"convert": [Pod("Pending", reason)]})
    assert described(run)["details"]["steps"]["convert"] == {"state": "waiting", "reason": reason}
    # Also without access to the cluster.
    server.forbidden = ("pods",)
    assert described(run)["details"]["steps"]["convert"]["reason"] == reason
    followed = run("stream-logs", "job_1", "--no-follow")
    assert f"convert: waiting: {reason}" in followed.stdout


def test_a_reason_that_only_the_events_of_the_pod_have_is_reported(run, state):
    # Argo's node says only PodInitializing [seen with Argo 4.0.5].
    last = 'MountVolume.SetUp failed for volume "s": secret "x" not found'
    pod = Pod("Pending", "PodInitializing", warnings=("an earlier warning", last))
    state("RUNNING", pods={"convert": [pod]})
    assert described(run)["details"]["steps"]["convert"] == {"state": "waiting", "reason": last}
    assert f"convert: waiting: {last}" in run("stream-logs", "job_1", "--no-follow").stdout


EXCEEDED = "Step exceeded its deadline"
DEADLINE = "the run was ended by its deadline, 168 h after its start (activeDeadlineSeconds)"


@pytest.mark.parametrize("events", [True, False], ids=["events", "no-events"])
def test_a_pod_that_had_not_started_at_the_deadline_is_reported_with_its_last_event(run, state, events):
    # Argo replaces the reason by EXCEEDED, and deletes the pod.
    warnings = ("an earlier warning", UNSCHEDULABLE) if events else ()
    pods = {"convert": [Pod("Failed", EXCEEDED, warnings=warnings)]}
    state("FAILED", pods=pods, deadline=7 * 24 * 3600)
    job = described(run)
    what = "had not started" if events else "has left no log, and had probably not started"
    assert job["error"] == f"convert: {DEADLINE}: the pod of convert {what}"
    _, reason, remedy = job["details"]["steps"]["convert"]["error"].splitlines()
    if events:
        assert reason == f"reason: {UNSCHEDULABLE}"
        assert remedy == "what to do: correct the reason, and start the run again"
    else:
        assert reason == "reason: not known anymore"
        assert "while a step waits" in remedy


def test_a_step_that_ran_until_the_deadline_is_not_reported_as_waiting(run, state, printed):
    log = printed(lambda: log_event("x", "train: step 100"))
    state("FAILED", pods={"train": [Pod("Failed", EXCEEDED, log)]}, deadline=7 * 24 * 3600)
    job = described(run)
    assert job["error"] == f"train: {DEADLINE}"
    assert "training continues" in job["details"]["steps"]["train"]["error"]


def test_a_run_that_fails_before_its_deadline_has_its_own_error(run, state):
    state("FAILED", pods={"convert": [Pod("Failed", "OOMKilled (exit code 137)")]})
    assert described(run)["error"] == "convert: OOMKilled (exit code 137)"


def test_a_refused_pod_is_reported_with_its_reason(run, state):
    reason = 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'
    state("FAILED", pods={"convert": [Pod("Error", reason)]})
    job = described(run)
    assert job["details"]["steps"]["convert"]["error"] == reason
    assert reason in job["error"]


def test_a_log_that_ends_before_the_reason_leaves_that_of_kubernetes(run, state):
    log = "11-29 10:00:00 train: failed\n"
    state("FAILED", pods={"train": [Pod("Failed", "OOMKilled (exit code 137)", log)]})
    job = described(run)
    assert job["details"]["steps"]["train"]["error"] == "OOMKilled (exit code 137)"
    assert job["error"] == "train: OOMKilled (exit code 137)"


def test_a_failed_step_without_a_log_says_how_to_look(run, server, state):
    state("FAILED", pods={"train": [Pod("Failed", "Error (exit code 1)")]})
    server.pods_exist = server.has_interface = False
    assert "not readable from here" in described(run)["details"]["logs"]


def test_a_pod_that_is_about_to_start_has_no_reason(run, state):
    state("RUNNING", pods={"convert": [Pod("Pending", "ContainerCreating")]})
    assert described(run)["details"]["steps"]["convert"] == {"state": "waiting"}


def test_a_large_workflow_is_compressed(run, server, state, monkeypatch):
    state("FAILED", pods={"convert": [Pod("Error", "no node")]})
    plain = WorkflowState.manifest

    def compressed(self, run_id):
        workflow = plain(self, run_id)
        nodes = json.dumps(workflow["status"].pop("nodes")).encode()
        workflow["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
        return workflow

    whole = described(run)
    monkeypatch.setattr(WorkflowState, "manifest", compressed)
    server.workflows[next(iter(server.workflows))].tasks = lambda _: []
    assert described(run) == whole


def test_without_a_workflow_describe_says_how_to_look(run, server, state):
    state("FAILED", pods={"convert": [Pod()], "validate": [Pod("Pending")]})
    server._run_of_version_1 = lambda _: (404, "not found")
    details = described(run)["details"]
    assert details["steps"] == {"convert": {"state": "done"}, "validate": {"state": "not run"}}
    [run_id] = server.runs
    assert f"kubectl get pods -n kubeflow -l pipeline/runid={run_id}" in details["logs"]


def test_stream_logs_prints_our_lines_only_unless_all_are_wanted(run, state, printed):
    long = printed(lambda: log_event("x", "train: " + "words and words " * 20), lambda: print("library"))
    state(
        "SUCCEEDED",
        pods={
            "convert": [Pod(log=printed(lambda: log_event("x", "convert: reads")))],
            "train": [Pod(log=long)],
        },
    )
    lines = run("stream-logs", "job_1").stdout.splitlines()
    own = [line for line in long.splitlines() if "words" in line]
    assert lines[0].endswith(" convert: reads")
    assert lines[1:] == own
    everything = run("stream-logs", "job_1", "--all").stdout
    assert "launcher_v2.go" in everything
    assert "library" in everything


def test_a_step_that_starts_again_says_so(run, state, printed):
    first = printed(lambda: log_event("x", "train: step 100: saved"))
    second = printed(lambda: log_event("x", "train: resumes at step 100"))
    pods = {"train": [Pod("Error", "pod deleted", first), Pod(log=second)]}
    state("SUCCEEDED", pods=pods)
    lines = run("stream-logs", "job_1").stdout.splitlines()
    assert [line.partition("train: ")[2] for line in lines] == [
        "step 100: saved",
        "starts again: pod deleted",
        "resumes at step 100",
    ]
    assert described(run)["details"]["steps"]["train"]["attempts"] == 2


@pytest.mark.parametrize("why", ["deleted", "forbidden", "no log access", "no kubeconfig"])
def test_without_pods_the_logs_are_those_that_the_steps_have_left(
    run, server, state, printed, monkeypatch, why
):
    log = printed(lambda: log_event("x", "train: step 5"), lambda: log_result("train", "accuracy 0.9"))
    state("SUCCEEDED", pods={"train": [Pod(log=log)]})
    if why == "deleted":
        server.pods_exist = False
    elif why == "no kubeconfig":
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
    else:
        server.forbidden = ("pods",) if why == "forbidden" else ("pods/log",)
    followed = run("stream-logs", "job_1")
    assert followed.exit_code == 0, followed.output
    assert "train: step 5" in followed.stdout
    assert described(run)["details"]["steps"]["train"]["result"] == "accuracy 0.9"
    # At the address of the API itself there are no artifacts.
    server.has_interface = False
    followed = run("stream-logs", "job_1")
    assert followed.exit_code == 69
    expected = {"forbidden": "cannot list", "no log access": "cannot list", "no kubeconfig": "no cluster"}
    remedy = "as --host" if why == "deleted" else "set KUBECONFIG"
    assert remedy in followed.stderr
    assert expected.get(why, "there is no log of train") in followed.stderr
    assert "not readable from here" in described(run)["details"]["logs"]


def test_a_run_that_the_user_cancelled_is_cancelled_although_kfp_says_failed(run, server, state):
    state("RUNNING", pods={"train": [Pod("Running")]})
    assert run("cancel", "job_1").stdout == "job_1: CANCELLED\n"
    [sent] = server.runs.values()
    assert sent["state"] == "FAILED"
    assert [job["state"] for job in json.loads(run("list", "--format", "json").stdout)] == ["CANCELLED"]
    log = "11-29 10:00:00 train: failed\n    problem: train was terminated by SIGTERM\n"
    pods = {"train": [Pod("Failed", "retry exceeded workflow deadline", log)]}
    state("FAILED", pods=pods, cancelled=True)
    job = described(run)
    assert (job["state"], job["error"]) == ("CANCELLED", "")
    assert job["details"]["steps"]["train"] == {"state": "cancelled", "duration": "10 s"}
    state("FAILED", pods={"train": [Pod("Failed")]})
    assert [job["state"] for job in json.loads(run("list", "--format", "json").stdout)] == ["FAILED"]


def test_a_second_cancel_while_the_first_works_is_no_error(run, server, state):
    # While its pods end, KFP says RUNNING again.
    state("RUNNING", pods={"train": [Pod("Running")]}, cancelled=True)
    assert described(run)["state"] == "CANCELLING"
    state("CANCELING", pods={"train": [Pod("Running")]})
    result = run("cancel", "job_1")
    assert result.exit_code == 0, result.output
    assert "is already being cancelled" in result.stderr
    assert result.stdout == "job_1: CANCELLING\n"


def test_a_run_with_the_notify_step_shows_it_last(run, server):
    result = run("submit", "job_2", "--no-check", "--notify-step", "--", "--images=gs://bucket/flowers")
    assert result.exit_code == 0, result.output
    [run_id] = [key for key, sent in server.runs.items() if sent["display_name"] == "job_2"]
    failed = {"convert": [Pod("Failed", "OOMKilled (exit code 137)")], "notify": [Pod()]}
    parents = {"convert": "exit-handler-1", "notify": "exit-handler-1.onExit"}
    server.workflows[run_id] = WorkflowState(pods=failed, parents=parents, finished=True)
    server.runs[run_id]["state"] = "FAILED"
    job = json.loads(run("describe", "job_2", "--format", "json").stdout)
    steps = job["details"]["steps"]
    assert list(steps)[-1] == "notify"
    assert (steps["convert"]["state"], steps["train"]["state"], steps["notify"]["state"]) == (
        "failed",
        "not run",
        "done",
    )
    assert job["error"] == "convert: OOMKilled (exit code 137)"
    # Another command finds the run; without the step, it is another pipeline.
    again = run("submit", "job_2", "--no-check", "--", "--images=gs://bucket/flowers")
    assert again.exit_code == 64


def test_only_a_run_on_kubeflow_has_the_notify_step():
    line = ["submit", "job_1", "--dry-run", "--notify-step", "--", "--images=flowers"]
    result = CliRunner().invoke(imgpipe, line)
    assert "--notify-step is ignored: only a run on Kubeflow has a webhook" in result.stderr


def test_a_volume_is_mounted_and_paths_on_none_are_refused(run, server):
    line = ["submit", "job_2", "--no-check", "--volume", "photos:/data", "--volume", "models:/models/"]
    result = run(*line, "--", "--images=/data/flowers", "--job-dir=/models/job")
    assert result.exit_code == 0, result.output
    [sent] = [sent for sent in server.runs.values() if sent["display_name"] == "job_2"]
    platform = server.spec_of(sent)["platform_spec"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = [(mount["constant"], mount["mountPath"]) for mount in executors["exec-train"]["pvcMount"]]
    assert mounts == [("photos", "/data"), ("models", "/models")]
    for images in ("/datasets/flowers", "/data/../flowers"):
        result = run(*line, "--", f"--images={images}")
        assert result.exit_code == 64
        assert f"images={images} is on none of the volumes: /data, /models" in result.output
    line += ["--", "--images=/data/flowers", "--deploy_target=kserve"]
    result = run(*line, "--deploy_dir=pvc://serving/flowers")
    assert result.exit_code == 64
    assert "deploy_dir=pvc://serving/flowers: the steps do not mount the volume serving" in result.output
    result = run("submit", "job_3", *line[2:], "--deploy_dir=pvc://models/serving/flowers")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("volume", "problem"),
    [
        ("photos", "is not a PersistentVolumeClaim and a folder"),
        ("photos:data", "is not a PersistentVolumeClaim and a folder"),
        ("photos:/", "is not a PersistentVolumeClaim and a folder"),
        ("photos:/data/../etc", "is not a PersistentVolumeClaim and a folder"),
        ("photos:/data:ro", "is not a PersistentVolumeClaim and a folder"),
        ("My_Photos:/data", "is not a PersistentVolumeClaim and a folder"),
        ("photos:/opt/imgpipe", "would hide the folder /opt of the image"),
    ],
)
def test_a_wrong_volume_is_refused_before_anything_is_sent(run, server, volume, problem):
    result = run("submit", "job_2", "--no-check", "--volume", volume, "--", "--images=gs://bucket/flowers")
    assert result.exit_code == 64
    assert problem in result.output
    assert "job_2" not in [sent["display_name"] for sent in server.runs.values()]


def test_two_volumes_at_one_folder_are_refused(run, server):
    volumes = ["--volume", "photos:/data", "--volume", "others:/data/"]
    result = run("submit", "job_2", "--no-check", *volumes, "--", "--images=/data/flowers")
    assert result.exit_code == 64
    assert "--volume gives /data twice" in result.output
