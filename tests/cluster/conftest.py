"""The installation that KUBECONFIG and KFP_ENDPOINT name; without them, the tests are skipped."""

import contextlib
import os
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.preflight.form import form_fields
from imgpipe.components.storage import parse_location
from imgpipe.pipelines.compiled_pipelines import TRAIN, pipeline_file
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.sample_data import write_digits
from tests.cluster.installation import RUN_SECONDS, Installation

_IMAGES_OF_A_CLASS = 12
_REQUIRED = ("KUBECONFIG", "KFP_ENDPOINT", "IMGPIPE_TEST_FOLDER")


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    if not all(map(os.environ.get, _REQUIRED)):
        missing = [name for name in _REQUIRED if not os.environ.get(name)]
        reason = f"not tested on a cluster; not set: {', '.join(missing)} (see docs/develop.md)"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    namespace = os.environ.get("KFP_NAMESPACE", "")
    found = Installation(
        host=os.environ["KFP_ENDPOINT"],
        namespace=namespace or "kubeflow",
        is_multi_user=bool(namespace),
        folder=os.environ["IMGPIPE_TEST_FOLDER"].rstrip("/"),
        registry=os.environ.get("IMGPIPE_TEST_REGISTRY", ""),
    )
    _upload_digits(found.folder, tmp_path_factory.mktemp("digits"))
    yield found
    found.delete_own_pods()


def _upload_digits(folder, temporary):
    """Uploads some images of each digit, one folder per class, unless they are there."""
    digits = parse_location(f"{folder}/digits")
    rows = [line.split(",") for line in write_digits(temporary / "digits").read_text().splitlines()]
    classes = [[row for row in rows if row[1] == str(label)] for label in range(10)]
    chosen = [row for images in classes for row in images[:_IMAGES_OF_A_CLASS]]
    if sum(1 for _ in digits.list_files()) == len(chosen):
        return

    def upload_image(row):
        image = temporary / "digits" / row[0]
        (digits / row[1] / image.name).upload(image)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload_image, chosen))


@pytest.fixture
def require_kind(installation):
    """``require_kind("experiments.kubeflow.org", "Katib")`` skips a test where that kind is missing."""

    def require(name, service):
        if not installation.has_kind(name):
            reason = f"not tested with {service}: the cluster has no {name}"
            warnings.warn(reason, stacklevel=2)
            pytest.skip(reason)

    return require


@pytest.fixture
def job(installation):
    """A new job id, whose runs are cancelled after the test."""
    name = f"cluster_test_{uuid.uuid4().hex[:8]}"
    yield name
    with contextlib.suppress(PipelineError):
        for run in installation.runs_named(name):
            if run.state in ("PENDING", "RUNNING"):
                installation.kfp.terminate_run(run.run_id)


@pytest.fixture(scope="session")
def finished(installation):
    """The job id of a whole run from `imgpipe submit`, which has succeeded."""
    name = f"cluster_test_{uuid.uuid4().hex[:8]}"
    # A new version of the data: no step comes from the cache.
    installation.submit(name, "--input", f"data_version={name}")
    assert installation.wait_until_ended(name, RUN_SECONDS) == "SUCCEEDED", installation.describe(name)
    return name


@pytest.fixture(scope="session")
def uploaded(installation, request):
    """Pipeline and version id of a committed YAML, as a user uploads it in the browser, and its name."""
    name = getattr(request, "param", TRAIN)
    with (
        pipeline_file("kubeflow", Images(installation.registry), name) as file,
        contextlib.contextmanager(upload)(installation, file) as ids,
    ):
        yield *ids, name


def upload(installation, file):
    """Uploads a pipeline for the time of the tests."""
    namespace = installation.namespace if installation.is_multi_user else None
    name = f"cluster-test-{uuid.uuid4().hex[:8]}"
    pipeline = installation.kfp.upload_pipeline(str(file), pipeline_name=name, namespace=namespace)
    [version] = installation.kfp.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions
    yield pipeline.pipeline_id, version.pipeline_version_id
    # Runs keep their copy of the specification.
    with contextlib.suppress(Exception):
        installation.kfp.delete_pipeline_version(pipeline.pipeline_id, version.pipeline_version_id)
        installation.kfp.delete_pipeline(pipeline.pipeline_id)


@pytest.fixture
def start(installation, uploaded, job):
    """``start(max_steps=-5)`` starts the uploaded pipeline as its form does, and returns the run's id.

    What has no field of its own is in the field ``settings``.
    """

    def start_run(**values):
        pipeline_id, version_id, name = uploaded
        form = form_fields(name)
        fields = {key: value for key, value in values.items() if key in form}
        settings = {key: value for key, value in values.items() if key not in form}
        run = installation.kfp.run_pipeline(
            installation.experiment_id,
            job,
            pipeline_id=pipeline_id,
            version_id=version_id,
            params={**fields, "settings": settings},
        )
        return run.run_id

    return start_run
