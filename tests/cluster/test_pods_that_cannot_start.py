"""A pod that cannot start is explained by `describe` and `stream-logs` within 30 seconds."""

import contextlib
import uuid

import pytest

from imgpipe.pipelines.compiled_pipelines import pipeline_file
from imgpipe.pipelines.images import Images
from tests.cluster.conftest import upload
from tests.cluster.installation import REASON_SECONDS, RUN_SECONDS, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(RUN_SECONDS)]

_REFUSED = "refused by the policy of this test"


def check_reason(installation, job, run_id, pattern, named):
    """Checks that both commands name what Kubernetes states about the run."""
    wait_for(lambda: installation.cluster_says(run_id, pattern), 600, f"Kubernetes says {pattern}")
    for command in (("describe", job), ("stream-logs", job, "--no-follow")):

        def says(command=command):
            result = installation.imgpipe(*command)
            # Long lines are wrapped.
            return named in " ".join((result.stdout + result.stderr).split())

        wait_for(says, REASON_SECONDS, f"imgpipe {command[0]} says {named}")


def test_an_image_that_cannot_be_pulled(installation, job):
    command = installation.submit_command(job, [], "--image-registry", "registry.invalid/imgpipe")
    assert installation.imgpipe(*command).returncode == 0
    [run] = installation.runs_named(job)
    check_reason(installation, job, run.run_id, "ErrImagePull|ImagePullBackOff", "registry.invalid/imgpipe")


def test_a_request_that_no_node_can_meet(installation, job):
    run_id = installation.submit(job, "--input", "train_cpu=1000")
    check_reason(installation, job, run_id, "Insufficient cpu", "Insufficient cpu")


def test_a_quota_that_is_used_up(installation, job):

    quota = {"metadata": {"name": job.replace("_", "-")}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    core = installation.core
    core.create_namespaced_resource_quota(installation.namespace, quota)
    try:
        inputs = ["train_accelerator_type=nvidia.com/gpu", "train_accelerator_count=1"]
        run_id = installation.submit(job, *(part for each in inputs for part in ("--input", each)))
        check_reason(installation, job, run_id, "exceeded quota", "exceeded quota")
    finally:
        core.delete_namespaced_resource_quota(quota["metadata"]["name"], installation.namespace)


def test_a_secret_that_is_missing(installation, job, tmp_path):
    # Ours need not exist; a pipeline that requires one is this file with another line.
    with pipeline_file("kubeflow", Images(installation.registry)) as file:
        required = tmp_path / "required.yaml"
        required.write_text(file.read_text().replace("optional: true", "optional: false"))
    with contextlib.contextmanager(upload)(installation, required) as (pipeline_id, version_id):
        run = installation.kfp.run_pipeline(
            installation.experiment_id,
            job,
            pipeline_id=pipeline_id,
            version_id=version_id,
            params={"images": f"{installation.folder}/digits", "storage_secret": "no-such-secret"},
        )
        check_reason(installation, job, run.run_id, 'secret "no-such-secret" not found', "no-such-secret")


@pytest.fixture
def refused_node_selector(installation):
    """A node selector with which an admission policy of the cluster refuses every pod."""
    from kubernetes import client

    name = f"imgpipe-test-{uuid.uuid4().hex[:8]}"
    admission = client.AdmissionregistrationV1Api(installation.kubernetes)
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    selector = "object.spec.nodeSelector"
    refused = {"expression": f"!has({selector}) || !('{name}' in {selector})", "message": _REFUSED}
    rules = {"matchConstraints": {"resourceRules": [pods]}, "validations": [refused]}
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": installation.namespace}}
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": namespace},
    }
    metadata = {"name": name}
    admission.create_validating_admission_policy({"metadata": metadata, "spec": rules})
    admission.create_validating_admission_policy_binding({"metadata": metadata, "spec": binding})
    yield name
    admission.delete_validating_admission_policy_binding(name)
    admission.delete_validating_admission_policy(name)


def test_an_admission_policy_that_refuses_the_pod(installation, job, refused_node_selector):
    run_id = installation.submit(job, "--input", f'train_node_selector={{"{refused_node_selector}": "x"}}')
    check_reason(installation, job, run_id, _REFUSED, _REFUSED)
