"""imgpipe check: everything that can be known before a job is sent, and the command that mends it."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from imgpipe.components.common.errors import UnavailableError
from imgpipe.pipelines.checks import Google, check_data, check_images
from imgpipe.pipelines.cli import imgpipe
from tests.servers.google import start_google_server

AGENT = "serviceAccount:service-123@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"
RIGHTS = {
    f"aiplatform.{kind}.{verb}" for kind in ("customJobs", "pipelineJobs") for verb in ("create", "get")
}
WORDS = [
    "--training_data_path=gs://data/train-*",
    "--validation_data_path=gs://data/validation-*",
    "--job-dir=gs://output/run",
]


@pytest.fixture
def cloud(monkeypatch):
    """A project in which all is well."""
    with start_google_server() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
        monkeypatch.setattr("imgpipe.components.storage.cloud_storage.RETRY_SECONDS", 0.1)
        server.objects = {"data": {"train-00000-of-00001", "validation-00000-of-00001"}, "output": set()}
        server.bindings = {
            "data": {"roles/storage.objectViewer": [AGENT]},
            "output": {"roles/storage.objectUser": [AGENT]},
        }
        server.rights = RIGHTS
        server.images = {"team/imgpipe-train-cpu@sha256:0", "team/imgpipe-train-gpu@sha256:0"}
        yield server


@pytest.fixture
def check(cloud, tmp_path, monkeypatch):
    """``check(words, *options)`` returns the result and its findings by subject."""
    monkeypatch.chdir(tmp_path)
    registry = cloud.address.removeprefix("http://")
    lock = "".join(
        f"imgpipe-{role}: {registry}/team/imgpipe-{role}@sha256:0\n"
        for role in ("train-cpu", "train-gpu", "train-tpu")
    )
    (tmp_path / "images.lock").write_text(lock)

    def run(words=WORDS, *options):
        place = [
            *("--target", "vertex", "--project", "flowers", "--region", "us-central1"),
            *("--endpoint", cloud.address, "--images-lock", "images.lock"),
        ]
        result = CliRunner().invoke(
            imgpipe, ["check", "job_1", *place, *options, "--format", "json", "--", *words]
        )
        return result, json.loads(result.stdout)

    return run


def test_where_all_is_well_every_finding_says_so(check):
    result, found = check()
    assert result.exit_code == 0, found
    assert {one["status"] for one in found} == {"ok"}
    assert {one["subject"] for one in found} >= {"gs://data", "gs://output", "flowers", "machines"}
    assert "1 file" in next(one["message"] for one in found if one["subject"] == "--training_data_path")


def without_data(cloud):
    cloud.objects["data"] = {"flowers.tfrecord", "validation-00000-of-00001"}


def without_bucket(cloud):
    del cloud.objects["output"]


def far_away(cloud):
    cloud.locations["data"] = "EUROPE-WEST4"


def not_readable(cloud):
    cloud.bindings["data"] = {"roles/storage.objectViewer": ["user:somebody"]}


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
        (without_data, "error", 66, "holds: flowers.tfrecord", "correct the pattern"),
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
def test_what_is_wrong_is_named_with_the_command_that_fixes_it(
    check, cloud, change, status, exit_code, message, fix
):
    change(cloud)
    result, found = check()
    wrong = [one for one in found if message in one["message"]]
    assert [one["status"] for one in wrong] == [status], found
    assert fix in wrong[0]["fix"]
    assert result.exit_code == exit_code
    # What is wrong comes first.
    assert found[0]["status"] == status


@pytest.mark.parametrize(
    ("accounts", "status", "words"),
    [
        ({"train@flowers.iam.gserviceaccount.com": True}, "ok", ""),
        ({"train@flowers.iam.gserviceaccount.com": False}, "error", "roles/iam.serviceAccountUser"),
        ({}, "error", "gcloud iam service-accounts create train"),
    ],
)
def test_the_account_that_runs_the_job_must_be_there_and_yours_to_use(check, cloud, accounts, status, words):
    account = "train@flowers.iam.gserviceaccount.com"
    cloud.accounts = accounts
    for bucket in cloud.bindings.values():
        for members in bucket.values():
            members.append(f"serviceAccount:{account}")
    _, found = check(WORDS, "--service-account", account)
    [about] = [one for one in found if one["subject"] == account]
    assert about["status"] == status
    assert words in about["fix"]


def test_what_may_not_be_looked_at_is_a_warning(check, cloud):
    cloud.closed = ("/storage/v1/b/data/iam", "/v1/projects/flowers:test", "/v2/")
    result, found = check()
    assert result.exit_code == 0
    warnings = [one["subject"] for one in found if one["status"] == "warning"]
    assert {"gs://data", "flowers"} <= set(warnings)
    assert any("imgpipe-train-cpu" in subject for subject in warnings)


def test_an_image_without_a_registry_cannot_be_fetched(check, cloud):
    result, found = check(WORDS, "--master-image-uri", "imgpipe-train-cpu:1")
    assert result.exit_code == 64
    assert "--image-registry" in found[0]["fix"]


def test_submit_checks_first_and_sends_nothing_where_something_is_wrong(cloud, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_data(cloud)
    place = [
        "--target",
        "vertex",
        "--project",
        "flowers",
        "--region",
        "us-central1",
        "--endpoint",
        cloud.address,
    ]
    result = CliRunner().invoke(imgpipe, ["submit", "job_1", *place, "--", *WORDS])
    assert result.exit_code == 66
    assert "the name has no registry" in result.stderr
    assert "matches no file" in result.stderr
    assert "job id:" not in result.stderr
    # Each is told once.
    assert result.stderr.count("the name has no registry") == 1
    assert result.stderr.count("matches no file") == 1


def test_a_wrong_machine_is_refused_at_once_without_a_question_to_anybody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("trainingInput: {scaleTier: CUSTOM, masterType: n1-standard-3}")
    started = time.perf_counter()
    line = ["check", "--target", "vertex", "--config", "config.yaml", "--endpoint", "http://127.0.0.1:9"]
    result = CliRunner().invoke(imgpipe, [*line, "--", *WORDS])
    assert time.perf_counter() - started < 1
    assert result.exit_code == 64
    assert "use one of n1-standard-4" in result.stderr


def test_paths_of_this_machine_are_checked_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    missing = runner.invoke(imgpipe, ["check", "--format", "json", "--", "--images=photos"])
    assert missing.exit_code == 66
    (tmp_path / "photos").mkdir()
    there = runner.invoke(imgpipe, ["check", "--format", "json", "--", "--images=photos", "--job_dir=out"])
    assert there.exit_code == 0
    assert [one["status"] for one in json.loads(there.stdout)] == ["ok", "ok"]
    assert not (tmp_path / "out").exists()


@contextmanager
def silence():
    """Yields the address of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def answering(status, content):
    """Yields the address of a server that answers everything alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def respond(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond  # noqa: N815 - the base class wants these names

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def in_a_new_process(folder, *words, **variables):
    """A user's own command, on a machine of nobody: no credentials, no metadata server."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    nobody = {"HOME": str(folder), "CLOUDSDK_CONFIG": str(folder), "NO_GCE_CHECK": "true"}
    return subprocess.run(
        [str(Path(sys.executable).parent / "imgpipe"), *words],
        cwd=folder,
        env={**kept, **nobody, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


VERTEX = ["--target", "vertex", "--project", "flowers", "--region", "us-central1"]


@pytest.mark.parametrize("command", ["check", "submit"])
def test_without_credentials_it_ends_at_once_with_what_to_do(tmp_path, command):
    started = time.monotonic()
    result = in_a_new_process(tmp_path, command, "job_1", *VERTEX, "--", *WORDS)
    assert result.returncode == 69
    assert "gcloud auth application-default login" in result.stderr
    assert '{"severity"' not in result.stderr
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("status", "content", "code", "words"),
    [
        (
            400,
            b'{"error": "invalid_grant", "error_description": "revoked"}',
            69,
            "key.json' do not work: ",
        ),
        (None, b"", 75, "cannot reach Google Cloud"),
    ],
)
def test_credentials_are_tried_before_anything_else(tmp_path, status, content, code, words):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "flowers",
        "private_key": key.decode(),
        "client_email": "a@flowers.iam.gserviceaccount.com",
    }
    with answering(status or 200, content) as address:
        # Nobody listens at port 9.
        account["token_uri"] = f"{address if status else 'http://127.0.0.1:9'}/token"
        (tmp_path / "key.json").write_text(json.dumps(account))
        result = in_a_new_process(
            *(tmp_path, "check", "job_1", *VERTEX, "--", *WORDS),
            GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"),
        )
    assert result.returncode == code
    assert words in result.stderr


@pytest.mark.parametrize("content", [None, "{", "[]", '{"type": "service_account"}'])
def test_a_variable_that_names_no_credentials_is_told_with_the_reason(tmp_path, content):
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    result = in_a_new_process(
        tmp_path, "check", "job_1", *VERTEX, "--", *WORDS, GOOGLE_APPLICATION_CREDENTIALS=str(file)
    )
    assert result.returncode == 69
    assert f"GOOGLE_APPLICATION_CREDENTIALS={str(file)!r} gives no credentials: " in result.stderr
    assert "or unset it" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["describe", "job_1"], ["list"], ["cancel", "job_1"]])
def test_a_region_that_is_none_is_refused_before_a_token_goes_to_what_it_would_be_the_address_of(command):
    line = [*command, "--target", "vertex", "--project", "flowers", "--region", "evil.example?"]
    result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 64
    assert "--region='evil.example?' is not a region" in result.stderr


def test_a_kubeflow_that_is_silent_is_told_within_seconds(monkeypatch):
    monkeypatch.setattr("imgpipe.pipelines.targets.kubeflow_client._CONNECT_TIMEOUT_SECONDS", 1)
    with silence() as address:
        started = time.monotonic()
        line = ["check", "--target", "kubeflow", "--host", address, "--", "--images=gs://b/i"]
        result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 75
    assert "kubectl port-forward" in result.stderr
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(404, 66, "is not Kubeflow Pipelines"), (401, 69, "--token"), (502, 75, "try again")],
)
def test_what_answers_at_the_address_and_is_no_kubeflow_is_told_at_once(status, code, words):
    with answering(status, b"<html>") as address:
        line = ["check", "--target", "kubeflow", "--host", address, "--", "--images=gs://b/i"]
        result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cluster_may_have_the_credentials_that_are_not_here():
    values = {"images": "gs://b/i", "train_csv": "/mnt/train.csv"}
    missing = UnavailableError("there are no credentials", remedy="gcloud auth application-default login")
    found = list(check_data(values, on_this_machine=False, no_cloud=missing))
    assert [one.status for one in found] == ["warning", "warning"]
    assert "no credentials" in found[0].message
    assert "gcloud auth application-default login" in found[0].fix


def test_a_storage_that_is_silent_is_waited_for_once(monkeypatch):
    monkeypatch.setattr("imgpipe.pipelines.checks._SECONDS", 0.3)
    values = {
        "training_data_path": "gs://b/t-*",
        "validation_data_path": "gs://b/v-*",
        "labels_file": "gs://b/l",
    }
    with silence() as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        started = time.monotonic()
        found = list(check_data(values, on_this_machine=False))
    assert time.monotonic() - started < 5
    assert [one.status for one in found] == ["warning"] * 3
    assert all("Cloud Storage does not respond" in one.message for one in found)


def test_localhost_is_a_registry_as_it_is_in_a_name_that_submit_takes():
    def session():
        raise AssertionError("Google's credentials were asked for")

    [found] = check_images(Google(session), ["localhost/team/imgpipe-data:1"], registry_needed=True)
    assert "its registry cannot be reached" in found.message


def test_a_registry_that_is_not_googles_gets_no_credentials():
    def session():
        raise AssertionError("Google's credentials were asked for")

    with answering(401, b"") as address:
        image = f"{address.removeprefix('http://')}/team/imgpipe-data:1"
        [found] = check_images(Google(session), [image], registry_needed=True)
    assert found.status == "warning"
