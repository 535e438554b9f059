"""What is pushed is locked by the digest under which the registry keeps it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from containers.docker import docker
from containers.push import main
from pipelines.images import Images, read_images_lock
from tests.servers.registry import registry

ROOT = Path(__file__).parents[2]


@pytest.mark.containers
@pytest.mark.timeout(2400)
def test_a_pushed_image_is_locked_and_is_pulled_again_by_its_digest(images, tmp_path):
    lock_file = tmp_path / "images.lock"
    with registry() as kept:
        repository = f"{kept.address}/team/images"
        try:
            assert main(["data", "--registry", repository, "--lock", str(lock_file)]) == 0
            lock = read_images_lock(lock_file.read_text(), where="images.lock")
            name, _, digest = lock["imgpipe-data"].partition("@")
            assert name == f"{repository}/imgpipe-data"
            _, manifest = kept.manifests["team/images/imgpipe-data", digest]
            assert "sha256:" + hashlib.sha256(manifest).hexdigest() == digest
            assert Images(lock=lock).of_step("convert") == f"{name}@{digest}"
            version = images["data"].rpartition(":")[2]
            assert ("team/images/imgpipe-data", version) in kept.manifests
            docker("rmi", f"{name}:{version}")
            docker("pull", "--quiet", lock["imgpipe-data"])
            assert docker("run", "--rm", "--network=none", lock["imgpipe-data"], "id", "-u") == "65534\n"
        finally:
            tags = docker("images", "--quiet", "--no-trunc", f"{repository}/imgpipe-data").split()
            if tags:
                names = docker(
                    "image",
                    "inspect",
                    tags[0],
                    "--format",
                    '{{join .RepoTags " "}} {{join .RepoDigests " "}}',
                )
                docker("rmi", *(one for one in names.split() if one.startswith(repository)))


@pytest.mark.parametrize("registry_name", ["https://registry.example/images", "registry.example/Images", "/"])
def test_a_name_that_is_no_registry_is_refused_before_anything_is_pushed(registry_name, tmp_path, capsys):
    lock = tmp_path / "images.lock"
    assert main(["--registry", registry_name, "--lock", str(lock)]) == 64
    assert "is no name of a registry" in capsys.readouterr().err
    assert not lock.exists()


def test_a_lock_of_all_images_compiles_and_names_no_tag(tmp_path):
    from pipelines.images import ROLES

    lock = tmp_path / "images.lock"
    digest = "0" * 64
    lock.write_text(
        "".join(f"imgpipe-{role}: registry.example/r/imgpipe-{role}@sha256:{digest}\n" for role in ROLES)
    )
    code = (
        "import sys; from pathlib import Path; from compile import write_files;"
        "from pipelines.images import Images, read_images_lock;"
        "text = Path(sys.argv[1]).read_text();"
        "write_files(Path(sys.argv[2]), Images('', read_images_lock(text, where='')))"
    )
    subprocess.run([sys.executable, "-c", code, str(lock), str(tmp_path)], cwd=ROOT, check=True)
    text = "".join(file.read_text() for file in tmp_path.rglob("*.yaml"))
    assert "imgpipe-data:0" not in text
    assert f"imgpipe-data@sha256:{digest}" in text
