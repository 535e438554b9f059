"""A Kubeflow Pipelines installation under test: its command line, its API and its Kubernetes objects."""

import base64
import gzip
import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from imgpipe.components.platforms.kubeflow.client import EXPERIMENT, KubeflowClient
from imgpipe.components.platforms.kubernetes.client import Cluster, CustomObjects
from imgpipe.components.platforms.kubernetes.pod_spec import pod_spec
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.jobs import ENDED
from tests.command_line import IMGPIPE
from tests.waiting import wait_until

# From the submission to the end, of the whole pipeline and of a run that fails in its first step.
RUN_SECONDS = 1500
FIRST_STEP_SECONDS = 300
# Within which a command names the reason that the cluster states.
REASON_SECONDS = 30
_POLL_SECONDS = 3
_TEST_LABEL = "imgpipe-cluster-test"
# A network small enough for a cluster without accelerators.
SMALL = ["--model_type=resnet-18", "--weights=none", "--image_size=32", "--max_steps=2"]


@dataclass(frozen=True)
class Installation:
    """The installation and the settings of the tests.

    Attributes:
        host: Address of its API.
        namespace: The namespace of the runs.
        is_multi_user: Whether ``namespace`` is a user's.
        folder: The folder in an object store that the pods and this machine can read.
        registry: The registry of our images; empty = they are on the nodes.
        session: The label of the pods of these tests: others may test on the cluster at the same time.
    """

    host: str
    namespace: str
    is_multi_user: bool
    folder: str
    registry: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def imgpipe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of ours; KFP_ENDPOINT and KUBECONFIG come from the environment."""
        command = [IMGPIPE, *arguments]
        environment = {**os.environ, "IMGPIPE_TARGET": "kubeflow"}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
        )

    def submit_command(self, job: str, arguments: list[str], *options: str) -> list[str]:
        """Returns the arguments of ``imgpipe submit`` for a small training run; ``arguments`` override it."""
        registry = ["--image-registry", self.registry] if self.registry else []
        given = {argument.partition("=")[0] for argument in arguments}
        defaults = [f"--images={self.folder}/digits", *SMALL]
        small = [argument for argument in defaults if argument.partition("=")[0] not in given]
        return ["submit", job, "--no-check", *registry, *options, "--", *small, *arguments]

    def submit(self, job: str, *options: str, arguments: tuple[str, ...] = ()) -> str:
        """Starts a run with ``imgpipe submit`` and returns its id."""
        result = self.imgpipe(*self.submit_command(job, list(arguments), *options, "--format", "json"))
        assert result.returncode == 0, result.stderr
        return str(json.loads(result.stdout)["name"])

    def describe(self, job: str) -> dict[str, Any]:
        """Returns what ``imgpipe describe`` knows of a run."""
        result = self.imgpipe("describe", job, "--format", "json")
        assert result.returncode == 0, result.stderr
        described: dict[str, Any] = json.loads(result.stdout)
        return described

    def wait_until_ended(self, job: str, seconds: float = RUN_SECONDS) -> str:
        """Returns the state in which a run ends."""
        return str(
            wait_for(
                lambda: (state := self.describe(job)["state"]) in ENDED and state, seconds, f"{job} ends"
            )
        )

    @cached_property
    def kfp(self) -> Any:
        """KFP's own client."""
        token = os.environ.get("KFP_TOKEN", "")
        return KubeflowClient(self.host, self.namespace if self.is_multi_user else "", token).api

    @cached_property
    def experiment_id(self) -> str:
        """The id of our experiment."""
        namespace = self.namespace if self.is_multi_user else None
        return str(self.kfp.create_experiment(EXPERIMENT, namespace=namespace).experiment_id)

    def runs_named(self, job: str) -> list[Any]:
        """Returns all runs of that name, as KFP lists them."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": job}
        named = json.dumps({"predicates": [predicate]})
        page = self.kfp.list_runs(experiment_id=self.experiment_id, filter=named, page_size=100)
        return page.runs or []

    @cached_property
    def kubernetes(self) -> Any:
        """A client of the cluster's own API."""
        from kubernetes import client, config

        config.load_kube_config()
        return client.ApiClient()

    @cached_property
    def core(self) -> Any:
        """A client of the cluster's pods, secrets, ..."""
        from kubernetes import client

        return client.CoreV1Api(self.kubernetes)

    @property
    def account(self) -> str:
        """The service account of the steps."""
        return "default-editor" if self.is_multi_user else "pipeline-runner"

    def has_kind(self, name: str) -> bool:
        """Returns whether the cluster has a kind of objects, e.g. ``experiments.kubeflow.org``."""
        from kubernetes import client

        definitions = client.ApiextensionsV1Api(self.kubernetes).list_custom_resource_definition().items
        return any(definition.metadata.name == name for definition in definitions)

    def custom(self, group: str, version: str, plural: str) -> CustomObjects:
        """Returns the custom objects of a kind in the namespace of the runs."""
        cluster = Cluster(self.kubernetes, self.namespace)
        return CustomObjects(cluster, group, version, plural, remedy="see docs/develop.md")

    def start_pod(self, name: str, role: str, code: str, environment: dict[str, str], **fields: Any) -> None:
        """Starts a pod of one of our images, with the account of the steps, that runs Python code."""
        spec = pod_spec(
            "main",
            Images(self.registry).of_role(role),
            ["python3", "-c", code],
            environment,
            cpu="500m",
            memory="2G",
            accelerator_type="",
            accelerator_count=0,
            node_selector={},
            tolerations=[],
            service_account=self.account,
            storage_secret="imgpipe-storage",  # noqa: S106 - its default name
        )
        metadata = {"name": name, "labels": {"sidecar.istio.io/inject": "false", _TEST_LABEL: self.session}}
        self.core.create_namespaced_pod(self.namespace, {"metadata": metadata, "spec": {**spec, **fields}})

    def wait_for_phase(self, pod: str, *phases: str, seconds: float = 300) -> str:
        """Returns the phase of a pod once it is one of several."""

        def phase() -> str:
            found = str(self.core.read_namespaced_pod(pod, self.namespace).status.phase)
            return found if found in phases else ""

        return str(wait_for(phase, seconds, f"pod {pod} is {' or '.join(phases)}"))

    def pod_log(self, pod: str) -> str:
        """Returns what a pod has printed."""
        # The client library would decode a log that is one JSON object.
        response = self.core.read_namespaced_pod_log(pod, self.namespace, _preload_content=False)
        return str(response.data.decode())

    def delete_pod(self, pod: str) -> None:
        """Deletes a pod and waits until it is deleted."""
        self.core.delete_namespaced_pod(pod, self.namespace)
        selector = f"metadata.name={pod}"

        def is_deleted() -> bool:
            return not self.core.list_namespaced_pod(self.namespace, field_selector=selector).items

        wait_for(is_deleted, 120, f"pod {pod} is deleted")

    def delete_own_pods(self) -> None:
        """Deletes the pods of ``start_pod``."""
        own = f"{_TEST_LABEL}={self.session}"
        self.core.delete_collection_namespaced_pod(self.namespace, label_selector=own)

    def evict(self, pod: str) -> None:
        """Evicts a pod, as the drain of a node does."""
        metadata = {"name": pod, "namespace": self.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        self.core.create_namespaced_pod_eviction(pod, self.namespace, body)

    def workflow(self, run_id: str) -> dict[str, Any]:
        """Returns the Workflow of a run; {} before there is one."""
        from kubernetes import client

        found = client.CustomObjectsApi(self.kubernetes).list_namespaced_custom_object(
            "argoproj.io", "v1alpha1", self.namespace, "workflows", label_selector=_of_run(run_id)
        )
        return next(iter(found["items"]), {})

    def pods(self, run_id: str) -> list[Any]:
        """Returns the pods of a run's steps, without KFP's drivers."""
        listed = self.core.list_namespaced_pod(self.namespace, label_selector=_of_run(run_id))
        return [pod for pod in listed.items if "-driver-" not in pod.metadata.name]

    def cluster_says(self, run_id: str, pattern: str) -> bool:
        """Whether Kubernetes states a reason: in the Workflow's nodes, a pod's status or a pod's events.

        Argo compresses the nodes of a Workflow that has many.
        """
        status = self.workflow(run_id).get("status", {})
        nodes = status.get("nodes") or {}
        if compressed := status.get("compressedNodes"):
            nodes = json.loads(gzip.decompress(base64.b64decode(compressed)))
        texts = [node.get("message", "") for node in nodes.values()]
        pods = self.pods(run_id)
        texts += [str(pod.status) for pod in pods]
        names = {pod.metadata.name for pod in pods}
        events = self.core.list_namespaced_event(self.namespace).items
        texts += [event.message or "" for event in events if event.involved_object.name in names]
        return any(re.search(pattern, text) for text in texts)


def _of_run(run_id: str) -> str:
    return f"pipeline/runid={run_id}"


def step_of(pod: Any) -> str:
    """Returns the step of a pod, from its node's name, e.g. ``WORKFLOW(0).root(0).STEP(0).executor(1)``."""
    node = str(pod.metadata.annotations["workflows.argoproj.io/node-name"])
    return node.split(".")[-2].partition("(")[0]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Returns the first true value of a condition.

    Raises:
        AssertionError: if there is none within the time.
    """
    return wait_until(
        condition, seconds, pause=_POLL_SECONDS, says=lambda: f"not within {seconds:.0f} s: {what}"
    )
