"""Pushed images are locked by their digest in the registry."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from containers.docker import docker, inspect_image
from containers.push import check_reviewed, main
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.images import Images, read_images_lock
from tests.servers.registry import registry

ROOT = Path(__file__).parents[2]


@pytest.mark.containers
@pytest.mark.timeout(2400)
def test_a_pushed_image_is_locked_and_can_be_pulled_by_its_digest(images, tmp_path):
    lock_file = tmp_path / "images.lock"
    with registry() as server:
        repository = f"{server.address}/team/images"
        try:
            argv = ["data", "--registry", repository, "--lock", str(lock_file), "--any-revision"]
            assert main(argv) == 0
            lock = read_images_lock(lock_file.read_text(), where="images.lock")
            name, _, digest = lock["imgpipe-data"].partition("@")
            assert name == f"{repository}/imgpipe-data"
            _, manifest = server.manifests["team/images/imgpipe-data", digest]
            assert "sha256:" + hashlib.sha256(manifest).hexdigest() == digest
            assert Images(lock=lock).of_step("convert") == f"{name}@{digest}"
            version = images["data"].rpartition(":")[2]
            assert ("team/images/imgpipe-data", version) in server.manifests
            docker("rmi", f"{name}:{version}")
            docker("pull", "--quiet", lock["imgpipe-data"])
            assert docker("run", "--rm", "--network=none", lock["imgpipe-data"], "id", "-u") == "65534\n"
        finally:
            tags = docker("images", "--quiet", "--no-trunc", f"{repository}/imgpipe-data").split()
            if tags:
                image = inspect_image(tags[0])
                names = [*image["RepoTags"], *image["RepoDigests"]]
                docker("rmi", *(name for name in names if name.startswith(repository)))


@pytest.mark.parametrize("registry_name", ["https://registry.example/images", "registry.example/Images", "/"])
def test_an_invalid_registry_is_rejected_before_any_push(registry_name, tmp_path, capsys):
    lock = tmp_path / "images.lock"
    assert main(["--registry", registry_name, "--lock", str(lock)]) == 64
    assert "is not a valid registry" in capsys.readouterr().err
    assert not lock.exists()


COMMIT, OTHER = "1" * 40, "2" * 40


@pytest.mark.parametrize(
    ("commit", "built", "bases", "problem"),
    [
        (COMMIT, (COMMIT, COMMIT), ("sha256:a", "sha256:a"), ""),
        ("", (COMMIT, COMMIT), ("sha256:a", "sha256:a"), "not a Git repository"),
        (f"{COMMIT}-dirty", (COMMIT, COMMIT), ("sha256:a", "sha256:a"), "differ from the commit"),
        (COMMIT, (COMMIT, OTHER), ("sha256:a", "sha256:a"), f"is built from {OTHER}"),
        (COMMIT, (f"{COMMIT}-dirty", COMMIT), ("sha256:a", "sha256:a"), f"is built from {COMMIT}-dirty"),
        (COMMIT, (COMMIT, ""), ("sha256:a", "sha256:a"), "is built from no commit"),
        (COMMIT, (COMMIT, COMMIT), ("sha256:a", "sha256:b"), "launcher on sha256:b"),
    ],
)
def test_images_must_be_of_one_commit_and_on_one_base(commit, built, bases, problem, tmp_path, monkeypatch):
    labels = {
        Images().of_role(role): {
            "org.opencontainers.image.revision": revision,
            "org.opencontainers.image.base.digest": base,
        }
        for role, revision, base in zip(("data", "launcher"), built, bases, strict=True)
    }
    engine = tmp_path / "docker"
    # Replaces `docker image inspect NAME`.
    engine.write_text(
        f"#!{sys.executable}\nimport json, sys\nlabels = {labels!r}\n"
        "print(json.dumps([{'Config': {'Labels': labels[sys.argv[3]]}}]))"
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if not problem:
        check_reviewed(["data", "launcher"], commit)
        return
    with pytest.raises(InvalidArgumentError, match=problem):
        check_reviewed(["data", "launcher"], commit)


def test_pipelines_compile_with_a_lock_of_all_images(tmp_path):
    from imgpipe.pipelines.images import ROLES

    lock = tmp_path / "images.lock"
    digest = "0" * 64
    lock.write_text(
        "".join(f"imgpipe-{role}: registry.example/r/imgpipe-{role}@sha256:{digest}\n" for role in ROLES)
    )
    code = (
        "import sys; from pathlib import Path; from compile import write_files;"
        "from imgpipe.pipelines.images import Images, read_images_lock;"
        "text = Path(sys.argv[1]).read_text();"
        "write_files(Path(sys.argv[2]), Images('', read_images_lock(text, where='')))"
    )
    subprocess.run([sys.executable, "-c", code, str(lock), str(tmp_path)], cwd=ROOT, check=True)
    text = "".join(file.read_text() for file in tmp_path.rglob("*.yaml"))
    assert "imgpipe-data:0" not in text
    assert f"imgpipe-data@sha256:{digest}" in text
