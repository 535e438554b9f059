"""Deployments to KServe, in the cluster's default mode: what the deploy step reports is what serves."""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.verification import VERIFICATION_NAME, read_verified_model, write_verification
from imgpipe.components.platforms.kubernetes.kserve import KNATIVE, STORAGE_URI
from imgpipe.components.storage import parse_location
from imgpipe.pipelines.images import Images
from tests.cluster import deploy_in_pod
from tests.cluster.installation import RUN_SECONDS, Installation, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(RUN_SECONDS)]

_DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"
_API = "serving.kserve.io"
_SLOW_SECONDS = 30
GOOD, SECOND, TRUNCATED, NO_SIGNATURE, OTHER_LABELS, OTHER_ANSWERS = (
    "good",
    "second",
    "truncated",
    "no-signature",
    "other-labels",
    "other-answers",
)


@dataclass(frozen=True)
class Outcome:
    """How a step has ended: its exit code, its log, and the JSON object that it printed last."""

    code: int
    log: str

    @property
    def report(self) -> dict[str, Any]:
        assert self.code == 0, self.log
        return json.loads(self.log.splitlines()[-1])


@dataclass(frozen=True)
class Service:
    """A new InferenceService and the models for it.

    Attributes:
        installation: The cluster.
        name: Its name.
        models: The local folder with a folder for each model; they are uploaded under the same names.
        uploaded: Where they are uploaded.
    """

    installation: Installation
    name: str
    models: Path
    uploaded: str

    def start(self, model, *, killed_after=0, without_requests=False, **values):
        """Starts the step in a pod and returns the pod's name; ``model=""`` finds the model that serves."""
        pod = f"{self.name}-{uuid.uuid4().hex[:6]}"
        arguments = {
            "deploy_target": "kserve",
            "deploy_dir": f"{self.installation.folder}/serving/{self.name}",
            "namespace": self.installation.namespace,
            "deploy_timeout_seconds": 300,
            **values,
        }
        request = {
            "model": f"{self.uploaded}/{model}" if model else "",
            "arguments": arguments,
            "killed_after": killed_after,
        }
        aliases = [{"ip": "127.0.0.1", "hostnames": self.hosts()}] if without_requests else []
        variables = {deploy_in_pod.REQUEST_VARIABLE: json.dumps(request)}
        code = Path(deploy_in_pod.__file__).read_text(encoding="utf-8")
        self.installation.start_pod(pod, "launcher", code, variables, hostAliases=aliases)
        return pod

    def deploy(self, model, **values):
        """Deploys a model and returns the step's outcome."""
        pod = self.start(model, **values)
        self.installation.wait_for_phase(pod, "Succeeded", "Failed", seconds=900)
        found = self.installation.core.read_namespaced_pod(pod, self.installation.namespace)
        code = found.status.container_statuses[0].state.terminated.exit_code
        outcome = Outcome(code, self.installation.pod_log(pod))
        self.installation.delete_pod(pod)
        return outcome

    def uri(self, model):
        """Returns the storage URI of a deployed model."""
        digest = model_digest(self.models / model)
        return f"{self.installation.folder}/serving/{self.name}/{digest[:16]}"

    def read(self):
        return self.installation.custom(_API, "v1beta1", "inferenceservices").read(self.name)

    def hosts(self):
        """Returns the hosts of the service inside the cluster."""
        status = self.read()["status"]
        addresses = [status, *status.get("components", {}).values()]
        return sorted(
            {urlsplit(found["address"]["url"]).hostname for found in addresses if "address" in found}
        )

    def specified(self):
        return self.read()["spec"]["predictor"]["model"]["storageUri"]

    def pods(self):
        """Returns the storage URI of each pod that serves or starts, by its UID."""
        label = f"serving.kserve.io/inferenceservice={self.name}"
        listed = self.installation.core.list_namespaced_pod(
            self.installation.namespace, label_selector=label
        ).items
        return {
            pod.metadata.uid: pod.metadata.annotations[STORAGE_URI]
            for pod in listed
            if not pod.metadata.deletion_timestamp
        }

    def start_slowly(self):
        """Lets every new pod of the service pass its probe later, and waits until the service is ready."""
        services = self.installation.custom(_API, "v1beta1", "inferenceservices")

        def is_replaced():
            body = services.read(self.name)
            model = body["spec"]["predictor"]["model"]
            model["readinessProbe"] = {"initialDelaySeconds": _SLOW_SECONDS}
            return services.replace(self.name, body)

        wait_for(is_replaced, 60, "the service is changed")
        assert self.deploy(GOOD).report["verified"]

    def check_serves(self, model):
        """Checks that a model, and no other, serves and answers."""
        assert self.deploy("").report == {"serving": self.uri(model)}
        again = self.deploy(model).report
        assert (again["changed"], again["verified"]) == (False, True)


def _export(folder, *, seed=0, labels=1, answers=1):
    """Writes a model; with -1, its verification has the labels or the answers in reverse order."""
    # Imported here because it loads TensorFlow.
    from benchmarks.deploy import write_model

    write_model(folder, seed)
    found = read_verified_model(folder)
    probabilities = [list(values)[::answers] for values in found.probabilities]
    write_verification(folder, found.labels[::labels], found.images, probabilities)


def _without_signature(folder):
    """Writes a model without the signature top_labels."""
    from imgpipe.components.common.tf_import import tf

    _export(folder)
    found = read_verified_model(folder)
    loaded = tf.saved_model.load(str(folder))
    signatures = {"serving_default": loaded.signatures["serving_default"]}
    tf.saved_model.save(loaded, str(folder), signatures=signatures)
    (folder / VERIFICATION_NAME).unlink()
    write_verification(folder, found.labels, found.images, found.probabilities)


@pytest.fixture(scope="module")
def models(installation, tmp_path_factory):
    """A folder with all models, which are uploaded too."""
    folder = tmp_path_factory.mktemp("models")
    _export(folder / GOOD)
    _export(folder / SECOND, seed=1)
    _export(folder / TRUNCATED, seed=2)
    graph = folder / TRUNCATED / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:1000])
    _without_signature(folder / NO_SIGNATURE)
    _export(folder / OTHER_LABELS, labels=-1)
    _export(folder / OTHER_ANSWERS, answers=-1)
    parse_location(f"{installation.folder}/models").publish_folder(folder)
    return folder


@pytest.fixture
def service(installation, require_kind, job, request):
    """A name for an InferenceService; the account of the steps has the rights, the namespace the runtime."""
    require_kind(f"inferenceservices.{_API}", "KServe")
    from kubernetes import client

    models = request.getfixturevalue("models")
    name, namespace = job.replace("_", "-"), installation.namespace
    role, runtime = _documented("ClusterRole"), _documented("ServingRuntime")
    metadata = {"name": name}
    rights = client.RbacAuthorizationV1Api(installation.kubernetes)
    runtimes = installation.custom(_API, "v1alpha1", "servingruntimes")
    runtime["spec"]["containers"][0]["image"] = Images(installation.registry).of_role("serve-tools")
    subject = {"kind": "ServiceAccount", "name": installation.account, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    rights.create_cluster_role({"metadata": metadata, "rules": role["rules"]})
    rights.create_cluster_role_binding({"metadata": metadata, "subjects": [subject], "roleRef": reference})
    runtimes.create({**runtime, "metadata": metadata})
    yield Service(installation, name, models, f"{installation.folder}/models")
    installation.custom(_API, "v1beta1", "inferenceservices").delete(name)
    runtimes.delete(name)
    rights.delete_cluster_role_binding(name)
    rights.delete_cluster_role(name)


def _documented(kind):
    """Returns the manifest of a kind in docs/deploy.md."""
    blocks = _DOCS.read_text(encoding="utf-8").split("```yaml\n")[1:]
    found = (yaml.safe_load(block.partition("```")[0]) for block in blocks)
    return next(manifest for manifest in found if manifest["kind"] == kind)


def test_the_same_model_again_changes_nothing(service):
    first = service.deploy(GOOD).report
    assert (first["changed"], first["verified"], first["traffic_percent"]) == (True, True, 100)
    pods = service.pods()
    again = service.deploy(GOOD).report
    assert (again["changed"], again["verified"], again["version"]) == (False, True, first["version"])
    assert service.pods() == pods


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TRUNCATED, "saved_model.pb was changed"),
        (SECOND, "was rolled back"),
        (NO_SIGNATURE, "was rolled back"),
        (OTHER_LABELS, "it calls the label"),
        (OTHER_ANSWERS, "its answers are not those of the evaluation"),
    ],
)
def test_a_broken_model_is_not_served_and_the_one_before_is_restored(service, model, message):
    assert service.deploy(GOOD).report["verified"]
    if model == SECOND:
        # Truncated in the bucket, but as long as the right file, so that it is not uploaded again.
        graph = (service.models / SECOND / "saved_model.pb").read_bytes()
        damaged = graph[:1000] + bytes(len(graph) - 1000)
        parse_location(f"{service.uri(SECOND)}/1/saved_model.pb").write(damaged)
    outcome = service.deploy(model)
    assert outcome.code != 0
    assert message in " ".join(outcome.log.split())
    service.check_serves(GOOD)


def test_a_first_model_that_is_broken_leaves_no_service(service):
    assert service.deploy(OTHER_ANSWERS).code != 0
    assert service.read() is None


def test_a_canary_gets_its_share_or_is_refused_in_standard_mode(service):
    assert service.deploy(GOOD).report["verified"]
    pods = service.pods()
    outcome = service.deploy(SECOND, canary_percent=10)
    if service.read()["status"]["deploymentMode"] == KNATIVE:
        assert outcome.report["traffic_percent"] == 10
        assert service.deploy("").report == {"serving": service.uri(GOOD)}
        assert service.deploy(SECOND).report["traffic_percent"] == 100
        service.check_serves(SECOND)
        return
    assert outcome.code == 64
    assert "canary_percent=10 requires Knative" in " ".join(outcome.log.split())
    assert service.pods() == pods
    assert not parse_location(service.uri(SECOND)).contents()


def test_a_pod_that_starts_slowly_is_waited_for(service):
    assert service.deploy(GOOD).report["verified"]
    service.start_slowly()
    assert service.deploy(SECOND).report["verified"]
    service.check_serves(SECOND)


@pytest.mark.parametrize("is_terminated", [True, False])
def test_a_step_that_is_killed_leaves_the_model_that_serves(service, is_terminated):
    assert service.deploy(GOOD).report["verified"]
    service.start_slowly()
    pod = service.start(SECOND, killed_after=0 if is_terminated else _SLOW_SECONDS // 2)
    wait_for(lambda: service.specified() == service.uri(SECOND), 120, "the service is changed")
    # The champion is the model that serves, not the one of the specification.
    assert service.deploy("").report == {"serving": service.uri(GOOD)}
    if is_terminated:
        service.installation.delete_pod(pod)
        assert service.deploy("").report == {"serving": service.uri(GOOD)}
    else:
        service.installation.wait_for_phase(pod, "Failed")
        service.installation.delete_pod(pod)
    assert service.deploy(SECOND).report["verified"]
    service.check_serves(SECOND)


def test_a_model_that_no_request_reaches_is_not_verified(service):
    assert service.deploy(GOOD).report["verified"]
    outcome = service.deploy(SECOND, without_requests=True, deploy_timeout_seconds=600)
    assert outcome.code != 0
    assert "was rolled back: the model is not verified" in " ".join(outcome.log.split())
    service.check_serves(GOOD)
    allowed = service.deploy(
        SECOND, without_requests=True, deploy_timeout_seconds=600, allow_unverified=True
    ).report
    assert (allowed["changed"], allowed["verified"]) == (True, False)
