"""The images, built once; without a Docker engine these tests are skipped, and say so."""

import os
import warnings

import pytest

from containers.build import default_base, revision
from containers.build import main as build_images
from containers.docker import engine_answers, inspected, present
from imgpipe.pipelines.images import Images
from tests.components.conftest import linear_model

__all__ = ["linear_model"]

TESTED = ("data", "launcher", "serve-tools", "train-cpu")


@pytest.fixture(scope="session")
def base():
    """The base image: IMAGES_BASE, where that of the Dockerfile cannot be had."""
    return os.environ.get("IMAGES_BASE") or default_base()


@pytest.fixture(scope="session")
def built_revision():
    """The commit from which the images are built: another may follow while they are tested."""
    return revision()


@pytest.fixture(scope="session")
def images(base, built_revision, tmp_path_factory):
    """The images' names by role, built from the files here."""
    if not engine_answers():
        warnings.warn("NO DOCKER ENGINE ANSWERS: THE IMAGES ARE NOT TESTED", stacklevel=1)
        pytest.skip("no Docker engine answers")
    named = {role: Images().of_role(role) for role in TESTED}
    if not built_revision.endswith("-dirty") and all(
        is_of(name, built_revision, base) for name in named.values()
    ):
        return named
    sboms = tmp_path_factory.mktemp("sbom")
    assert build_images([*TESTED, "--base", base, "--sbom", str(sboms)]) == 0
    return named


def is_of(name, built_revision, base):
    """Whether an image is there and was built from a commit as it stands, on a base."""
    if not present(name):
        return False
    labels = inspected(name)["Config"]["Labels"]
    expected = {"revision": built_revision, "base.name": base.partition("@")[0]}
    return all(labels.get(f"org.opencontainers.image.{name}") == value for name, value in expected.items())
