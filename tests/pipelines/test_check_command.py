"""imgpipe check: problems that can be found before a job is sent, each with the command that fixes it."""

import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.storage.cloud_storage import CloudStorageLocation
from imgpipe.pipelines.checks import Google, check_data, check_images
from imgpipe.pipelines.cli import imgpipe
from tests.command_line import IMGPIPE
from tests.servers.google import start_google_server
from tests.servers.http_server import serve_json

AGENT = "serviceAccount:service-123@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"
RIGHTS = {
    f"aiplatform.{kind}.{verb}" for kind in ("customJobs", "pipelineJobs") for verb in ("create", "get")
}
VERTEX = ["--target", "vertex", "--project", "flowers", "--region", "us-central1"]
ARGUMENTS = [
    "--training_data_path=gs://data/train-*",
    "--validation_data_path=gs://data/validation-*",
    "--job-dir=gs://output/run",
]


@pytest.fixture
def cloud(monkeypatch):
    """A project without problems."""
    with start_google_server() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        monkeypatch.setattr("imgpipe.components.storage.remote_requests.RETRY_SECONDS", 0.1)
        server.objects = {"data": {"train-00000-of-00001", "validation-00000-of-00001"}, "output": set()}
        server.bindings = {
            "data": {"roles/storage.objectViewer": [AGENT]},
            "output": {"roles/storage.objectUser": [AGENT]},
        }
        server.rights = RIGHTS
        server.images = {f"team/imgpipe-train-{kind}-vertex@sha256:0" for kind in ("cpu", "gpu")}
        yield server


@pytest.fixture
def check(cloud, tmp_path, monkeypatch):
    """``check(arguments, *options)`` returns the result and its findings by subject."""
    monkeypatch.chdir(tmp_path)
    registry = cloud.address.removeprefix("http://")
    lock = "".join(
        f"imgpipe-{role}: {registry}/team/imgpipe-{role}@sha256:0\n"
        for role in ("train-cpu-vertex", "train-gpu-vertex", "train-tpu-vertex")
    )
    (tmp_path / "images.lock").write_text(lock)

    def run(arguments=ARGUMENTS, *options):
        target = [*VERTEX, "--endpoint", cloud.address, "--images-lock", "images.lock"]
        result = CliRunner().invoke(
            imgpipe, ["check", "job_1", *target, *options, "--format", "json", "--", *arguments]
        )
        return result, json.loads(result.stdout)

    return run


def test_without_problems_every_finding_is_ok(check):
    result, found = check()
    assert result.exit_code == 0, found
    assert {finding["status"] for finding in found} == {"ok"}
    assert {finding["subject"] for finding in found} >= {"gs://data", "gs://output", "flowers", "machines"}
    data = next(finding for finding in found if finding["subject"] == "--training_data_path")
    assert "1 file" in data["message"]


def without_data(cloud):
    cloud.objects["data"] = {"flowers.tfrecord", "validation-00000-of-00001"}


def without_bucket(cloud):
    del cloud.objects["output"]


def far_away(cloud):
    cloud.locations["data"] = "EUROPE-WEST4"


def not_readable(cloud):
    cloud.bindings["data"] = {"roles/storage.objectViewer": ["user:other@example.com"]}


def not_writable(cloud):
    cloud.bindings["output"] = {"roles/storage.objectViewer": [AGENT]}


def without_image(cloud):
    cloud.images = set()


def without_rights(cloud):
    cloud.rights = {"aiplatform.customJobs.get"}


def not_enabled(cloud):
    cloud.enabled = False


@pytest.mark.parametrize(
    ("change", "status", "exit_code", "message", "fix"),
    [
        (without_data, "error", 66, "contains: flowers.tfrecord", "correct the pattern"),
        (without_bucket, "error", 66, "does not exist", "buckets create gs://output --location=us-central1"),
        (far_away, "warning", 0, "europe-west4", "--region=europe-west4"),
        (not_readable, "warning", 0, "to read it", "gs://data --member=serviceAccount:service-123@"),
        (not_writable, "warning", 0, "to write to it", "--role=roles/storage.objectUser"),
        (without_image, "error", 66, "does not exist", "push it"),
        (
            without_rights,
            "error",
            69,
            "you lack aiplatform.customJobs.create",
            "--role=roles/aiplatform.user",
        ),
        (not_enabled, "error", 69, "not enabled", "aiplatform.googleapis.com --project=flowers"),
    ],
)
def test_a_problem_is_reported_with_the_command_that_fixes_it(
    check, cloud, change, status, exit_code, message, fix
):
    change(cloud)
    result, found = check()
    problems = [finding for finding in found if message in finding["message"]]
    assert [problem["status"] for problem in problems] == [status], found
    assert fix in problems[0]["fix"]
    assert result.exit_code == exit_code
    # Problems come first.
    assert found[0]["status"] == status


@pytest.mark.parametrize(
    ("accounts", "status", "message"),
    [
        ({"train@flowers.iam.gserviceaccount.com": True}, "ok", ""),
        ({"train@flowers.iam.gserviceaccount.com": False}, "error", "roles/iam.serviceAccountUser"),
        ({}, "error", "gcloud iam service-accounts create train"),
    ],
)
def test_the_account_of_the_job_must_exist_and_be_usable_by_the_user(check, cloud, accounts, status, message):
    account = "train@flowers.iam.gserviceaccount.com"
    cloud.accounts = accounts
    for bucket in cloud.bindings.values():
        for members in bucket.values():
            members.append(f"serviceAccount:{account}")
    _, found = check(ARGUMENTS, "--service-account", account)
    [finding] = [finding for finding in found if finding["subject"] == account]
    assert finding["status"] == status
    assert message in finding["fix"]


def test_a_resource_that_cannot_be_read_is_a_warning(check, cloud):
    cloud.closed = ("/storage/v1/b/data/iam", "/v1/projects/flowers:test", "/v2/")
    result, found = check()
    assert result.exit_code == 0
    warnings = [finding["subject"] for finding in found if finding["status"] == "warning"]
    assert {"gs://data", "flowers"} <= set(warnings)
    assert any("imgpipe-train-cpu" in subject for subject in warnings)


def test_an_image_without_a_registry_cannot_be_fetched(check, cloud):
    result, found = check(ARGUMENTS, "--master-image-uri", "imgpipe-train-cpu:1")
    assert result.exit_code == 64
    assert "--image-registry" in found[0]["fix"]


def test_submit_sends_nothing_if_a_check_fails(cloud, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_data(cloud)
    line = ["submit", "job_1", *VERTEX, "--endpoint", cloud.address, "--", *ARGUMENTS]
    result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 66
    assert "the name has no registry" in result.stderr
    assert "matches no file" in result.stderr
    assert "job id:" not in result.stderr
    # Each problem is reported once.
    assert result.stderr.count("the name has no registry") == 1
    assert result.stderr.count("matches no file") == 1


def test_an_invalid_machine_is_rejected_without_a_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("trainingInput: {scaleTier: CUSTOM, masterType: n1-standard-3}")
    started = time.perf_counter()
    line = ["check", "--target", "vertex", "--config", "config.yaml", "--endpoint", "http://127.0.0.1:9"]
    result = CliRunner().invoke(imgpipe, [*line, "--", *ARGUMENTS])
    assert time.perf_counter() - started < 1
    assert result.exit_code == 64
    assert "use one of n1-standard-4" in result.stderr


def test_local_paths_are_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    missing = runner.invoke(imgpipe, ["check", "--format", "json", "--", "--images=photos"])
    assert missing.exit_code == 66
    (tmp_path / "photos").mkdir()
    existing = runner.invoke(imgpipe, ["check", "--format", "json", "--", "--images=photos", "--job_dir=out"])
    assert existing.exit_code == 0
    assert [finding["status"] for finding in json.loads(existing.stdout)] == ["ok", "ok"]
    assert not (tmp_path / "out").exists()


@contextmanager
def silent_server():
    """Yields the address of a server that accepts connections and never responds."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def in_a_new_process(folder, *arguments, **variables):
    """Runs a command without credentials and without a metadata server."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    anonymous = {"HOME": str(folder), "CLOUDSDK_CONFIG": str(folder), "NO_GCE_CHECK": "true"}
    return subprocess.run(
        [IMGPIPE, *arguments],
        cwd=folder,
        env={**kept, **anonymous, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["check", "submit"])
def test_missing_credentials_are_an_error_with_a_remedy(tmp_path, command):
    started = time.monotonic()
    result = in_a_new_process(tmp_path, command, "job_1", *VERTEX, "--", *ARGUMENTS)
    assert result.returncode == 69
    assert "gcloud auth application-default login" in result.stderr
    assert '{"severity"' not in result.stderr
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("status", "content", "code", "message"),
    [
        (
            400,
            {"error": "invalid_grant", "error_description": "revoked"},
            69,
            "key.json' do not work: ",
        ),
        (None, "", 75, "cannot reach Google Cloud"),
    ],
)
def test_credentials_are_tested_first(tmp_path, status, content, code, message):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "flowers",
        "private_key": key.decode(),
        "client_email": "a@flowers.iam.gserviceaccount.com",
    }
    with serve_json(lambda *_: (status or 200, content)) as address:
        # No server listens at port 9.
        account["token_uri"] = f"{address if status else 'http://127.0.0.1:9'}/token"
        (tmp_path / "key.json").write_text(json.dumps(account))
        result = in_a_new_process(
            *(tmp_path, "check", "job_1", *VERTEX, "--", *ARGUMENTS),
            GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"),
        )
    assert result.returncode == code
    assert message in result.stderr


@pytest.mark.parametrize("content", [None, "{", "[]", '{"type": "service_account"}'])
def test_an_invalid_credentials_file_is_reported_with_the_reason(tmp_path, content):
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    result = in_a_new_process(
        tmp_path, "check", "job_1", *VERTEX, "--", *ARGUMENTS, GOOGLE_APPLICATION_CREDENTIALS=str(file)
    )
    assert result.returncode == 69
    assert f"GOOGLE_APPLICATION_CREDENTIALS={str(file)!r} gives no credentials: " in result.stderr
    assert "or unset it" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["describe", "job_1"], ["list"], ["cancel", "job_1"]])
def test_an_invalid_region_is_rejected_before_a_token_is_sent_to_its_address(command):
    line = [*command, "--target", "vertex", "--project", "flowers", "--region", "evil.example?"]
    result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 64
    assert "--region='evil.example?' is not a region" in result.stderr


def test_a_kubeflow_that_does_not_respond_is_reported_within_seconds(monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.kubeflow.client._HEALTH_TIMEOUT_SECONDS", 1)
    with silent_server() as address:
        started = time.monotonic()
        line = ["check", "--target", "kubeflow", "--host", address, "--", "--images=gs://b/i"]
        result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 75
    assert "kubectl port-forward" in result.stderr
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(404, 66, "is not Kubeflow Pipelines"), (401, 69, "--token"), (502, 75, "try again")],
)
def test_an_address_that_is_not_kubeflow_is_reported(status, code, message):
    with serve_json(lambda *_: (status, "<html>")) as address:
        line = ["check", "--target", "kubeflow", "--host", address, "--", "--images=gs://b/i"]
        result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_credentials_are_only_a_warning_if_a_cluster_reads_the_data(monkeypatch):
    values = {"images": "gs://b/i", "train_csv": "/mnt/train.csv"}
    missing = UnavailableError("there are no credentials", remedy="gcloud auth application-default login")
    monkeypatch.setattr(CloudStorageLocation, "missing_credentials", staticmethod(lambda: missing))
    found = list(check_data(values, on_this_machine=False))
    assert [finding.status for finding in found] == ["warning", "warning"]
    assert "no credentials" in found[0].message
    assert "gcloud auth application-default login" in found[0].fix


def test_a_storage_that_does_not_respond_is_waited_for_once(monkeypatch):
    monkeypatch.setattr("imgpipe.pipelines.checks._SECONDS", 0.3)
    values = {
        "training_data_path": "gs://b/t-*",
        "validation_data_path": "gs://b/v-*",
        "labels_file": "gs://b/l",
    }
    with silent_server() as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        started = time.monotonic()
        found = list(check_data(values, on_this_machine=False))
    assert time.monotonic() - started < 5
    assert [finding.status for finding in found] == ["warning"] * 3
    assert all("Cloud Storage does not respond" in finding.message for finding in found)


def test_localhost_is_a_registry():
    def session():
        raise AssertionError("Google's credentials were requested")

    [found] = check_images(Google(session), ["localhost/team/imgpipe-data:1"], registry_needed=True)
    assert "its registry cannot be reached" in found.message


def test_only_googles_registries_get_credentials():
    def session():
        raise AssertionError("Google's credentials were requested")

    with serve_json(lambda *_: (401, "")) as address:
        image = f"{address.removeprefix('http://')}/team/imgpipe-data:1"
        [found] = check_images(Google(session), [image], registry_needed=True)
    assert found.status == "warning"
