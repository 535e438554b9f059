"""The build of the images, without a Docker engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from containers import build
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.images import ROLES, locked_role

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "containers" / "requirements"


def pins_of(file):
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", file.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("role", [*sorted(set(map(locked_role, ROLES))), "build", "kfp"])
def test_a_roles_lock_has_hashes_and_the_tested_versions(role):
    text = (LOCKS / "roles" / f"{role}.txt").read_text()
    pins, tested = pins_of(LOCKS / "roles" / f"{role}.txt"), pins_of(LOCKS / "develop-cpu.txt")
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
    assert {name: pin for name, pin in pins.items() if name in tested and tested[name] != pin} == {}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_stage_and_a_lock(role):
    assert f" AS {role}\n" in build.DOCKERFILE.read_text()
    assert (LOCKS / "roles" / f"{locked_role(role)}.in").is_file()
    assert (LOCKS / "roles" / f"{locked_role(role)}.unused").is_file()


def test_training_images_are_root_on_vertex_ai_only():
    stages = re.split(r"^FROM ", build.DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    users = {
        stage.split(" AS ")[1].split()[0]: re.findall(r"^USER (\S+)", stage, flags=re.MULTILINE)
        for stage in stages
    }
    for role in ROLES:
        # The images of GPUs and TPUs have the user of the one they are based on.
        expected = "0:0" if role.endswith("-vertex") else "65534:65534"
        assert (users[role] or users["train-cpu"]) == [expected], role


def test_tensorflow_is_not_in_the_locks_of_data_and_launcher():
    for role in ("data", "launcher"):
        assert not [name for name in pins_of(LOCKS / "roles" / f"{role}.txt") if "tensorflow" in name]


def test_the_base_is_pinned_by_digest():
    assert re.fullmatch(r"python:3\.11[\w.-]*@sha256:[0-9a-f]{64}", build.default_base())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://code.example/team/imgpipe.git", "https://code.example/team/imgpipe.git"),
        ("git@code.example:team/imgpipe.git", "git@code.example:team/imgpipe.git"),
        ("https://name:secret@code.example/imgpipe.git", ""),
        ("/home/user/imgpipe", ""),
    ],
)
def test_a_public_repository_address_is_a_label(address, shown, tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", address], check=True)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert build.source() == shown


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit."""

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "step.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e@example.com", "commit", "-q", "-m", "First")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("components/step.py", True),
        ("components/new.py", True),
        ("notes.txt", False),
        ("containers/images.lock", False),
    ],
)
def test_a_revision_is_dirty_if_the_images_differ_from_the_commit(checkout, file, dirty):
    assert re.fullmatch("[0-9a-f]{40}", build.revision())
    (checkout / file).parent.mkdir(exist_ok=True)
    (checkout / file).write_text("changed")
    assert build.revision().endswith("-dirty") == dirty


@pytest.mark.parametrize("pulled", [True, False])
def test_the_base_digest_label_is_the_pulled_digest_or_the_id(pulled, tmp_path, monkeypatch):
    engine = tmp_path / "docker"
    known = {"Id": "sha256:id", "RepoDigests": ["python@sha256:pulled"] if pulled else []}
    engine.write_text(f"#!{sys.executable}\nimport json\nprint(json.dumps([{known!r}]))")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    flags = build.build_flags("data", "python:3.11", "")
    digest = "sha256:pulled" if pulled else "sha256:id"
    assert f"--label=org.opencontainers.image.base.digest={digest}" in flags


def test_a_missing_base_is_pulled_before_the_build(tmp_path, monkeypatch):
    engine, calls = tmp_path / "docker", tmp_path / "calls"
    # A Docker engine without images and without a network.
    engine.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "sys.exit(sys.argv[1] == 'pull')"
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert build.main(["data", "--base", "base:1"]) == 69
    assert calls.read_text().splitlines() == ["image ls --quiet base:1", "pull --quiet base:1"]


def test_weights_must_be_in_the_build_context(tmp_path):
    (tmp_path / "some.h5").write_bytes(b"weights")
    with pytest.raises(InvalidArgumentError, match="is not a folder in containers/"):
        build.checked_weights(str(tmp_path))
    with pytest.raises(InvalidArgumentError, match=r"with \.h5 files"):
        build.checked_weights(str(ROOT / "containers" / "requirements"))


def test_an_unknown_image_is_rejected(capsys):
    assert build.main(["train-abacus"]) == 64
    assert "unknown image 'train-abacus'" in capsys.readouterr().err
