"""How long a deployment to KServe takes beyond the start of the new model's pod.

``python -m benchmarks.deploy`` deploys models to a server that implements KServe's protocol, in Standard mode
and with Knative. It measures the time from the moment when the new pod can answer until the step reports that
its model is served; the pod is created a hundredth of a second after the change.
"""

import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gcp_storage_emulator.server import create_server  # type: ignore[import-untyped]

from benchmarks.measure import print_result, print_table
from benchmarks.needs import check_needs
from imgpipe.components.common.provenance import write_deployment_config, write_provenance
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.common.verification import write_verification
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.kserve import deploy_to_kserve
from imgpipe.components.images.probe_image import probe_image
from tests.servers.cloud_storage import Cloud
from tests.servers.faulty_bucket import BUCKET
from tests.servers.kserve import KNATIVE, STANDARD, Cluster, load_from, serve_cluster
from tests.servers.kubeflow import use_kubeconfig

LIMIT_SECONDS = 5.0
_START_SECONDS = 2.0
_DEPLOYMENTS = 5
_SIDE = 8


class _Linear:
    """A classifier of one layer with random weights."""

    def __init__(self, seed: int) -> None:
        kernel = np.random.default_rng(seed).normal(size=(_SIDE * _SIDE * 3, 2)).astype(np.float32)
        self.kernel = keras.Variable(kernel, name="kernel")
        self.variables = [self.kernel]

    def logits(self, images: Any, *, training: bool) -> Any:
        del training
        return tf.reshape(tf.cast(images, tf.float32) / 255, [-1, _SIDE * _SIDE * 3]) @ self.kernel


def write_model(folder: Path, seed: int) -> Path:
    """Writes a small model with verification.json, as the export step does."""
    write_saved_model(_Linear(seed), _SIDE, ("dark", "bright"), folder)
    write_deployment_config(folder, global_step=1)
    write_provenance(folder, {"model_type": "linear", "best_step": 1})
    served = load_served_model(folder)
    images = [probe_image()]
    write_verification(folder, served.labels, images, served.predict(images).probabilities.tolist())
    return folder


def overheads(cluster: Cluster, models: list[Path]) -> list[float]:
    """Returns the overhead in seconds of each deployment but the first, which creates the service."""
    arguments = DeployArguments(
        deploy_target="kserve",
        deploy_dir=f"gs://{BUCKET}/flowers",
        namespace="team",
        deploy_timeout_seconds=60,
    )
    seconds = []
    for number in range(_DEPLOYMENTS + 1):
        deploy_to_kserve(models[number % len(models)], arguments)
        ended = time.monotonic()
        pod = cluster.workloads["team/flowers"].pods[-1]
        seconds.append(ended - pod.created - pod.start_seconds)
    return seconds[1:]


def main() -> int:
    """Prints a table and the result; returns 1 if the limit is exceeded."""
    check_needs(minutes=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    measured = {}
    try:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
            patched.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
            models = [write_model(Path(folder, str(seed)), seed) for seed in range(2)]
            load = load_from(Cloud("gs", f"http://127.0.0.1:{port}"))
            for mode in (STANDARD, KNATIVE):
                with serve_cluster(Cluster(mode=mode, load=load, start_seconds=_START_SECONDS)) as cluster:
                    use_kubeconfig(patched, Path(folder), cluster)
                    measured[mode] = overheads(cluster, models)
    finally:
        server.stop()
    rows = [
        (mode, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
        for mode, seconds in measured.items()
    ]
    print_table(("mode", "median seconds", "max seconds"), rows)
    slowest = max(max(seconds) for seconds in measured.values())
    print_result(deploy_overhead_seconds=slowest)
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
