"""The devices that a training runs on, and how a batch is shared out among them."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.tf_import import tf


@dataclass(frozen=True)
class Accelerators:
    """The devices of a training.

    Attributes:
        strategy: TensorFlow's way to use them. Variables are to be made in its scope.
        kind: ``CPU``, ``GPU`` or ``TPU``.
        worker: Which of the processes this one is, from 0.
        workers: The processes that train together.
    """

    strategy: tf.distribute.Strategy
    kind: str
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """The devices that train together, of all workers."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def local_replicas(self) -> int:
        """The devices of this worker."""
        return self.replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        return self.worker == 0

    @property
    def part(self) -> tuple[int, int]:
        """This worker's share of each batch: (worker, workers)."""
        return self.worker, self.workers

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function on every device, with each device's share of the arguments."""
        if self.replicas == 1:
            return function(*arguments)
        return self.strategy.run(function, args=arguments)

    def shared_out(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """Cuts this worker's share of a batch into its devices' shares, in order.

        Args:
            arrays: Of one length, which this worker's devices divide.
        """
        if self.replicas == 1:
            return arrays
        size = len(arrays[0]) // self.local_replicas

        def share(array: Any) -> Callable[[Any], Any]:
            def of_replica(context: Any) -> Any:
                begin = context.replica_id_in_sync_group % self.local_replicas * size
                return tf.convert_to_tensor(array[begin : begin + size])

            return of_replica

        return tuple(
            self.strategy.experimental_distribute_values_from_function(share(array)) for array in arrays
        )

    def summed(self, value: Any) -> Any:
        """Returns the sum of a value over all devices; inside a graph function."""
        if self.replicas == 1:
            return value
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

    def summed_over_workers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the sum of an array over all workers, each of which must call this."""
        if self.workers == 1:
            return values
        # Each device of this worker adds its share.
        share = tf.constant(values / self.local_replicas)
        total = self.strategy.run(
            lambda: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, share)
        )
        return np.asarray(self.strategy.experimental_local_results(total)[0].numpy())

    def value_of(self, variable: Any) -> NDArray[Any]:
        """Returns a variable's value on this worker's first device, without asking the other workers."""
        value = getattr(variable, "value", variable)
        value = value() if callable(value) else value
        return np.asarray(self.strategy.experimental_local_results(value)[0].numpy())


def devices_in_step() -> int:
    """Returns how many devices take the step that is being traced, each with a part of the batch."""
    context = tf.distribute.get_replica_context()
    return int(context.num_replicas_in_sync) if context is not None else 1


def find_accelerators(device_files: Path = Path("/dev")) -> Accelerators:
    """Finds what this process can train on, and joins the other workers if there are any.

    TPU cores first; then, with a ``TF_CONFIG`` that names several hosts, one process on each of them;
    then all GPUs; then the processor. TensorFlow must not have been used before. An NVIDIA GPU that the
    machine has and TensorFlow does not see is told: training on the processor instead takes days.

    Args:
        device_files: The folder of the machine's devices.

    Raises:
        InvalidArgumentError: if ``TF_CONFIG`` cannot be understood or names a role that does not train.
    """
    if tf.config.list_physical_devices("TPU"):
        return Accelerators(_tpu_strategy(), "TPU")
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Otherwise TensorFlow takes all memory of a GPU that others may want a part of.
        tf.config.experimental.set_memory_growth(gpu, True)
    kind = "GPU" if gpus else "CPU"
    present = sorted(device.name for device in device_files.glob("nvidia[0-9]*"))
    # Whoever sets the variable may have hidden them.
    if present and not gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:
        log_event(
            "gpu_not_usable",
            f"train: this machine has {', '.join(present)}, but TensorFlow sees no GPU and trains on the "
            "processor; is this the image imgpipe-train-gpu, and does `nvidia-smi` find the driver in it?",
            severity="WARNING",
            devices=present,
        )
    hosts, index = _hosts(os.environ.get("TF_CONFIG", ""))
    if hosts > 1:
        log_event(
            "joining_workers", f"train: worker {index + 1} of {hosts}, waiting for the others", workers=hosts
        )
        return Accelerators(tf.distribute.MultiWorkerMirroredStrategy(), kind, index, hosts)
    devices = tf.config.list_logical_devices(kind)
    if len(devices) > 1:
        return Accelerators(tf.distribute.MirroredStrategy([device.name for device in devices]), kind)
    return Accelerators(tf.distribute.get_strategy(), kind)


def _hosts(text: str) -> tuple[int, int]:
    """Returns how many hosts ``TF_CONFIG`` names and which of them this is: the chief is 0.

    Raises:
        InvalidArgumentError: if it cannot be understood, or this host is no chief and no worker.
    """
    if not text.strip():
        return 1, 0
    try:
        config = json.loads(text)
        cluster = config.get("cluster") or {}
        chiefs = len(cluster.get("chief", [])) + len(cluster.get("master", []))
        hosts = chiefs + len(cluster.get("worker", []))
        if hosts <= 1 and not set(cluster) - {"chief", "master", "worker"}:
            return 1, 0
        role, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InvalidArgumentError(
            "TF_CONFIG cannot be understood",
            where=f"TF_CONFIG={text[:200]!r}",
            remedy='give {"cluster": {"chief": [ADDRESS], "worker": [ADDRESS, ...]}, '
            '"task": {"type": "worker", "index": 0}}, or remove the variable to train on one host',
        ) from None
    if role not in ("chief", "master", "worker"):
        raise InvalidArgumentError(
            f"this host is a {role}: training takes a chief and workers",
            where="TF_CONFIG",
            remedy="leave parameter servers and evaluators out of the cluster: they have nothing to do here",
        )
    return hosts, index + chiefs if role == "worker" else index


def _tpu_strategy() -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)
