"""Pretrained weights in an image."""

import shutil

import pytest

from containers.build import DOCKERFILE, ROOT, WEIGHTS_LABEL, build_flags
from containers.docker import build, docker, inspect_image

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]

LIST = ("run", "--rm", "--network=none", "--user=65534")


@pytest.fixture
def weights():
    """A folder of weight files in the build context."""
    folder = ROOT / "containers" / "weights" / "test"
    folder.mkdir()
    (folder / "network_notop.h5").write_bytes(b"weights")
    (folder / "notes.txt").write_text("no weights")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("given", [True, False])
def test_only_the_given_weights_are_in_the_image(images, base, weights, given):
    image = "imgpipe-test-weights:1"
    folder = weights.relative_to(ROOT).as_posix() if given else ""
    try:
        # The stage from which the training images copy their weights.
        build(ROOT, DOCKERFILE, "weights", image, build_flags("train-cpu", base, folder))
        found = docker(*LIST, image, "sh", "-c", "cd /opt/keras/models && find . -type f -exec cat {} +")
        names = docker(*LIST, image, "ls", "/opt/keras/models").split()
        label = (inspect_image(image)["Config"]["Labels"] or {}).get(WEIGHTS_LABEL)
    finally:
        docker("rmi", "--force", image)
    assert names == (["network_notop.h5"] if given else [])
    assert found == ("weights" if given else "")
    assert label == ("network_notop.h5" if given else None)
