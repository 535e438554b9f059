"""Builds the images once; without a Docker engine, the tests are skipped with a warning."""

import os
import warnings

import pytest

from containers.build import default_base, revision
from containers.build import main as build_images
from containers.docker import engine_answers, inspect_image, is_present
from imgpipe.pipelines.images import Images
from tests.components.conftest import linear_model

__all__ = ["linear_model"]

TESTED = ("data", "launcher", "serve-tools", "train-cpu")


@pytest.fixture(scope="session")
def base():
    """The base image: IMAGES_BASE, where the Dockerfile's cannot be pulled."""
    return os.environ.get("IMAGES_BASE") or default_base()


@pytest.fixture(scope="session")
def built_revision():
    """The commit of the images, read once because the checkout may change during the tests."""
    return revision()


@pytest.fixture(scope="session")
def images(base, built_revision, tmp_path_factory):
    """Image names by role; the images are built from the checked-out files."""
    if not engine_answers():
        warnings.warn("No Docker engine responds: the images are not tested", stacklevel=1)
        pytest.skip("no Docker engine responds")
    names = {role: Images().of_role(role) for role in TESTED}
    if not built_revision.endswith("-dirty") and all(
        is_built_from(name, built_revision, base) for name in names.values()
    ):
        return names
    sboms = tmp_path_factory.mktemp("sbom")
    assert build_images([*TESTED, "--base", base, "--sbom", str(sboms)]) == 0
    return names


def is_built_from(image, built_revision, base):
    """Returns whether an image exists and was built from this commit and base."""
    if not is_present(image):
        return False
    labels = inspect_image(image)["Config"]["Labels"]
    expected = {"revision": built_revision, "base.name": base.partition("@")[0]}
    return all(labels.get(f"org.opencontainers.image.{name}") == value for name, value in expected.items())
