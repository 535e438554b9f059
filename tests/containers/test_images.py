"""The content of the images."""

import json
import subprocess

import pytest

from containers.build import MAX_MEGABYTES
from containers.docker import image_size, inspect_image
from containers.sbom import write_sbom
from tests.containers.conftest import TESTED
from tests.containers.sandbox import in_image

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]

# The modules of the steps that each image runs, and the libraries that they import only when needed.
STEPS = {
    "data": (
        *("convert.convert", "validate.validate", "data_version.data_version", "preflight.component"),
        "preflight.preflight",
    ),
    "launcher": (
        "custom_job.custom_job",
        "tune.vertex_component",
        *("data_version.data_version", "preflight.component", "preflight.preflight"),
        "serving_model.serving_model",
        # They find the deployed model.
        *("deploy.vertex", "deploy.kserve"),
    ),
    "serve-tools": (
        "evaluate.evaluate",
        *("export.export", "gate.gate", "deploy.deploy", "deploy.vertex", "deploy.kserve"),
        "batch_predict.batch_predict",
        "preflight.preflight",
        "serve.server",
    ),
    "train-cpu": ("train.train", "tune.tune", "tune.trial_run"),
}
LIBRARIES = {
    "data": ("google.cloud.storage", "kubernetes", "kfp.dsl.executor_main"),
    "launcher": ("google.cloud.storage", "google.cloud.aiplatform_v1", "kubernetes", "kfp.dsl.executor_main"),
    "serve-tools": ("google.cloud.storage", "tensorflow", "kfp.dsl.executor_main"),
    "train-cpu": ("google.cloud.storage", "tensorflow", "hypertune", "kfp.dsl.executor_main"),
}


@pytest.fixture(params=TESTED)
def role(request):
    return request.param


def test_an_images_size_is_within_its_limit(images, base, role):
    assert (image_size(images[role]) - image_size(base)) / 1e6 <= MAX_MEGABYTES[role]


def test_the_steps_of_an_image_can_be_imported(images, role):
    modules = [*(f"imgpipe.components.{step}" for step in STEPS[role]), *LIBRARIES[role]]
    code = f"import importlib; [importlib.import_module(name) for name in {modules}]"
    result = in_image(images[role], "python3", "-c", code, flags=["--env=_KFP_RUNTIME=true"])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("without", ["data", "launcher"])
def test_tensorflow_is_only_where_it_is_needed(images, without):
    result = in_image(images[without], "python3", "-c", "import tensorflow")
    assert "No module named 'tensorflow'" in result.stderr


def test_a_container_is_not_root_and_can_write_to_tmp_only(images, role):
    code = (
        "import os\n"
        "writable = [top for top in os.listdir('/') if os.access('/' + top, os.W_OK)]\n"
        "inside = [f for f, _, _ in os.walk('/opt') if os.access(f, os.W_OK)]\n"
        "print(os.getuid(), os.getgid(), writable, inside)"
    )
    command = ["docker", "run", "--rm", "--network=none", images[role], "python3", "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    assert shown == "65534 65534 ['tmp'] []"
    assert inspect_image(images[role])["Config"]["User"] == "65534:65534"


def test_an_image_has_no_compiler_no_cache_and_no_pip(images, role):
    script = (
        "command -v gcc cc g++ clang make; ls -d /tmp/* /build /source /steps /locks /wheels; "
        "find / -xdev -name .cache; /opt/imgpipe/bin/python -m pip --version"
    )
    # As root, which can read every folder, and with the image's own /tmp.
    command = ["docker", "run", "--rm", "--network=none", "--user=0", images[role], "sh", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == ""
    assert "No module named pip" in result.stderr


def test_the_labels_have_version_revision_and_base(images, built_revision, role):
    labels = inspect_image(images[role])["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == images[role].rpartition(":")[2]
    assert labels["org.opencontainers.image.revision"] == built_revision
    assert len(built_revision.removesuffix("-dirty")) == 40
    assert labels["org.opencontainers.image.base.name"]


def test_bytecode_is_included_and_not_checked_against_timestamps(images, role):
    code = (
        "import importlib.util, pathlib, imgpipe.components.common.step as step\n"
        "file = pathlib.Path(importlib.util.cache_from_source(step.__file__))\n"
        "print(int.from_bytes(file.read_bytes()[4:8], 'little'))"
    )
    # The flags of PEP 552: unchecked hash.
    assert in_image(images[role], "python3", "-c", code).stdout.strip() == "1"


def test_the_bill_of_materials_is_complete_and_reproducible(images, tmp_path):
    for name in ("first", "second"):
        write_sbom(images["data"], tmp_path / name)
    listed = json.loads((tmp_path / "first").read_text())
    names = {component["name"].lower() for component in listed["components"]}
    assert listed["bomFormat"] == "CycloneDX"
    assert {"numpy", "pillow", "simplejpeg", "kfp", "image-classification-pipeline"} <= names
    assert "tensorflow-cpu" not in names
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
