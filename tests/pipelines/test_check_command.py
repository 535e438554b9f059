"""imgpipe check: everything that can be known before a job is sent, and the command that mends it."""

import json
import time

import pytest
from click.testing import CliRunner

from pipelines.cli import imgpipe
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
        monkeypatch.setattr("components.common.cloud_storage.RETRY_SECONDS", 0.1)
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
    ("change", "status", "exit_code", "message", "mend"),
    [
        (without_data, "error", 66, "holds: flowers.tfrecord", "correct the pattern"),
        (without_bucket, "error", 66, "no such bucket", "buckets create gs://output --location=us-central1"),
        (far_away, "warning", 0, "europe-west4", "--region=europe-west4"),
        (not_readable, "warning", 0, "have it read", "gs://data --member=serviceAccount:service-123@"),
        (not_writable, "warning", 0, "have it written", "--role=roles/storage.objectUser"),
        (without_image, "error", 66, "no such image", "push it"),
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
def test_what_is_wrong_is_named_with_the_command_that_mends_it(
    check, cloud, change, status, exit_code, message, mend
):
    change(cloud)
    result, found = check()
    wrong = [one for one in found if message in one["message"]]
    assert [one["status"] for one in wrong] == [status], found
    assert mend in wrong[0]["mend"]
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
    assert words in about["mend"]


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
    assert "--image-registry" in found[0]["mend"]


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
