import json
import shutil
import subprocess
import sys

import httpx
import pytest
from kfp import dsl

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.component import deploy as deploy_component
from imgpipe.components.deploy.local import deploy_locally
from tests.waiting import wait_until


@pytest.fixture
def base(tmp_path):
    return tmp_path / "serving" / "colours"


def to(base, **values):
    return DeployArguments(deploy_target="local", deploy_dir=str(base), **values)


def content(base):
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_models_become_versions_and_deploying_the_same_again_changes_nothing(models, base):
    first = deploy_locally(models[0], to(base))
    assert (first.version, first.changed, first.name) == ("1", True, "colours")
    expected = content(models[0])
    # Servers do not read it, and it has images.
    del expected["verification.json"]
    assert content(base / "1") == expected
    once = content(base)
    again = deploy_locally(models[0], to(base))
    assert (again.version, again.changed) == ("1", False)
    assert again.model_digest == first.model_digest == model_digest(models[0])
    assert content(base) == once
    second = deploy_locally(models[1], to(base))
    assert (second.version, second.changed) == ("2", True)
    # An older model becomes a new version: the latest serves.
    third = deploy_locally(models[0], to(base))
    assert third.version == "3"
    assert sorted(path.name for path in base.iterdir()) == ["1", "2", "3"]


def test_a_model_that_was_damaged_after_the_export_is_not_deployed_and_leaves_no_files(
    models, base, tmp_path
):
    deploy_locally(models[0], to(base))
    before = content(base)
    damaged = tmp_path / "damaged"
    shutil.copytree(models[1], damaged)
    data = damaged / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckFailedError, match=r"variables\.data-00000-of-00001 was changed"):
        deploy_locally(damaged, to(base))
    assert content(base) == before
    assert [path.name for path in base.iterdir()] == ["1"]


def test_other_files_in_the_folder_are_not_touched(models, base):
    (base / "7").mkdir(parents=True)
    (base / "7" / "notes.txt").write_text("mine")
    (base / "readme").write_text("mine")
    assert deploy_locally(models[0], to(base)).version == "8"
    assert (base / "7" / "notes.txt").read_text() == "mine"


def test_a_missing_model_and_a_file_in_place_of_the_folder_are_named(models, base, tmp_path):
    with pytest.raises(MissingInputError, match=r"verification\.json"):
        deploy_locally(tmp_path, to(base))
    base.parent.mkdir(parents=True)
    base.write_text("a file")
    with pytest.raises(OutputError, match="cannot write to"):
        deploy_locally(models[0], to(base))


@pytest.fixture
def server(models, base):
    """``imgpipe serve``'s server on a folder with version 1."""
    deploy_locally(models[0], to(base))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "imgpipe.components.serve",
            f"--model={base}",
            "--port=0",
            "--poll_seconds=0.1",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    address = next(
        f"http://127.0.0.1:{event['port']}"
        for line in process.stdout
        if (event := parse_event(line)) and event["event"] == "serving"
    )
    yield address
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def test_the_server_must_serve_the_new_version(server, models, base):
    assert deploy_locally(models[1], to(base, serving_url=server)).version == "2"
    assert httpx.get(f"{server}/healthz").json()["version"] == 2
    # A server of another model never serves this one.
    arguments = to(base, serving_url=server, deploy_name="other", deploy_timeout_seconds=1)
    with pytest.raises(CheckFailedError, match="version 3 was rolled back"):
        deploy_locally(models[0], arguments)
    assert sorted(path.name for path in base.iterdir()) == ["1", "2"]
    # The server may have loaded version 3 and then returns to version 2.
    wait_until(lambda: httpx.get(f"{server}/healthz").json()["version"] == 2)


def test_an_unreachable_server_is_an_interruption(models, base):
    arguments = to(base, serving_url="http://127.0.0.1:9", deploy_timeout_seconds=1)
    with pytest.raises(InterruptedRunError, match="version 1 was rolled back") as caught:
        deploy_locally(models[0], arguments)
    assert caught.value.retry_can_help
    assert list(base.iterdir()) == []


def test_the_component_writes_the_deployment(models, base, tmp_path):
    deployment = dsl.Artifact(uri=str(tmp_path / "deployment"))
    model = dsl.Model(uri=str(models[0]))
    deploy_component(exported_model=model, deployment=deployment, arguments=to(base))
    written = json.loads((tmp_path / "deployment" / "deployment.json").read_text())
    assert written["location"] == str(base / "1")
    assert deployment.metadata == written


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deploy_target": "local"}, "requires deploy_dir"),
        ({"deploy_target": "local", "deploy_dir": "gs://b/x"}, "local path"),
        ({"deploy_target": "kserve", "deploy_dir": "serving/x"}, "is not in a bucket"),
        ({"deploy_target": "kserve", "deploy_dir": "gs://b/Flowers"}, "is not a valid name"),
        ({"deploy_target": "vertex", "deploy_dir": "gs://b/x"}, "requires serving_image, project, region"),
        ({"canary_percent": 0}, "canary_percent=0"),
    ],
)
def test_incompatible_arguments_are_rejected(values, message):
    with pytest.raises(InvalidArgumentError, match=message):
        DeployArguments(**values)
