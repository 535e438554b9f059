"""Rules of a namespace under which every step must run: the standard `restricted`, and a quota on limits."""

import uuid

import pytest

from tests.cluster.installation import RUN_SECONDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(RUN_SECONDS)]

_LABEL = "pod-security.kubernetes.io/enforce"


@pytest.fixture
def strict_namespace(installation):
    """The namespace with both rules, and with default limits for Argo's containers, which have none."""

    core = installation.core
    name, namespace = f"imgpipe-test-{uuid.uuid4().hex[:8]}", installation.namespace
    before = (core.read_namespace(namespace).metadata.labels or {}).get(_LABEL)
    hard = {"limits.cpu": "1000", "limits.memory": "4000Gi"}
    default = {"cpu": "500m", "memory": "512Mi"}
    limits = [{"type": "Container", "default": default, "defaultRequest": {"cpu": "10m", "memory": "32Mi"}}]
    core.create_namespaced_limit_range(namespace, {"metadata": {"name": name}, "spec": {"limits": limits}})
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": name}, "spec": {"hard": hard}})
    core.patch_namespace(namespace, {"metadata": {"labels": {_LABEL: "restricted"}}})
    yield
    core.patch_namespace(namespace, {"metadata": {"labels": {_LABEL: before}}})
    core.delete_namespaced_resource_quota(name, namespace)
    core.delete_namespaced_limit_range(name, namespace)


def test_every_step_runs_under_restricted_and_a_quota_on_limits(installation, job, strict_namespace):
    # A new version of the data: nothing comes from the cache.
    run_id = installation.submit(job, "--input", f"data_version={job}")
    assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)
    for pod in installation.pods(run_id):
        [main] = [container for container in pod.spec.containers if container.name == "main"]
        assert main.resources.limits.keys() >= {"cpu", "memory"}
