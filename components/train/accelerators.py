"""The devices that training uses, and how a batch is split across them."""

import faulthandler
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
from imgpipe.components.common.user_settings import cluster_hosts

# If the other workers of a cluster have not started after this time, this one exits with status 1.
_SECONDS_TO_JOIN = 900.0

TPU = "TPU"


@dataclass(frozen=True)
class Accelerators:
    """The devices of a training run.

    Attributes:
        strategy: TensorFlow's distribution strategy. Create variables in its scope.
        kind: ``CPU``, ``GPU`` or ``TPU``.
        worker: Index of this process, from 0.
        workers: Number of processes that train together.
    """

    strategy: tf.distribute.Strategy
    kind: str
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """The number of devices of all workers."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def uses_strategy(self) -> bool:
        """Whether steps must run in the strategy: on several devices, and on a TPU even of one core.

        Outside the strategy, TensorFlow would compute on the CPU beside the TPU.
        """
        return self.replicas > 1 or self.kind == TPU

    @property
    def local_replicas(self) -> int:
        """The number of devices of this worker."""
        return self.replicas // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the output."""
        return self.worker == 0

    @property
    def part(self) -> tuple[int, int]:
        """This worker's part of each batch: (worker, workers)."""
        return self.worker, self.workers

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function on every device with that device's part of the arguments."""
        if not self.uses_strategy:
            return function(*arguments)
        return self.strategy.run(function, args=arguments)

    def split_across_devices(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """Splits this worker's part of a batch into equal parts for its devices, in order.

        Args:
            arrays: Of equal length, a multiple of ``local_replicas``.
        """
        if not self.uses_strategy:
            return arrays
        size = len(arrays[0]) // self.local_replicas

        def part_of(array: Any) -> Callable[[Any], Any]:
            def on_replica(context: Any) -> Any:
                begin = context.replica_id_in_sync_group % self.local_replicas * size
                return tf.convert_to_tensor(array[begin : begin + size])

            return on_replica

        return tuple(
            self.strategy.experimental_distribute_values_from_function(part_of(array)) for array in arrays
        )

    def sum_over_devices(self, value: Any) -> Any:
        """Returns the sum of a per-device value over all devices. Call it inside a graph function."""
        if not self.uses_strategy:
            return value
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)

    def sum_over_workers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the sum of an array over all workers. Every worker must call it."""
        if self.workers == 1:
            return values
        # The all-reduce sums over devices, so each device contributes its part of the worker's values.
        part = tf.constant(values / self.local_replicas)
        total = self.strategy.run(
            lambda: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, part)
        )
        return np.asarray(self.strategy.experimental_local_results(total)[0].numpy())

    def local_value(self, variable: Any) -> NDArray[Any]:
        """Returns a variable's value on this worker's first device, without communication."""
        value = getattr(variable, "value", variable)
        value = value() if callable(value) else value
        # A copy: the array may share the memory of the variable, which the next step changes.
        return np.array(self.strategy.experimental_local_results(value)[0].numpy())


def find_accelerators(device_files: Path = Path("/dev")) -> Accelerators:
    """Finds the devices that this process can train on and joins the other workers, if any.

    The order of preference: TPU cores; one process on each host if ``TF_CONFIG`` names several; all GPUs;
    the CPU. Call it before any other use of TensorFlow. Logs a warning if the machine has an NVIDIA GPU
    that TensorFlow does not see: training on the CPU instead takes days.

    Args:
        device_files: The folder of the machine's device files.

    Raises:
        InvalidArgumentError: if ``TF_CONFIG`` is malformed or names a role that does not train.
    """
    if tf.config.list_physical_devices("TPU"):
        return Accelerators(_tpu_strategy(), TPU)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # By default TensorFlow takes all memory of a GPU that other processes may share.
        tf.config.experimental.set_memory_growth(gpu, True)
    kind = "GPU" if gpus else "CPU"
    present = sorted(device.name for device in device_files.glob("nvidia[0-9]*"))
    # A user who sets CUDA_VISIBLE_DEVICES may hide the GPUs on purpose.
    if present and not gpus and "CUDA_VISIBLE_DEVICES" not in os.environ:
        log_event(
            "gpu_not_usable",
            f"train: this machine has {', '.join(present)}, but TensorFlow sees no GPU and trains on the "
            "CPU; check that the image is imgpipe-train-gpu and that `nvidia-smi` finds the driver in it",
            severity="WARNING",
            devices=present,
        )
    config = os.environ.get("TF_CONFIG", "")
    hosts, index = _cluster_position(config)
    if hosts > 1:
        others = [host for position, host in enumerate(cluster_hosts(config)) if position != index]
        log_event(
            "joining_workers",
            f"train: worker {index + 1} of {hosts}, as TF_CONFIG says: waiting at most "
            f"{_SECONDS_TO_JOIN / 60:.0f} minutes for {', '.join(others)}; unset TF_CONFIG to train on this "
            "machine only",
            severity="WARNING",
            workers=hosts,
        )
        # TensorFlow waits without a limit, and neither signals nor threads of Python run in the meantime.
        faulthandler.dump_traceback_later(_SECONDS_TO_JOIN, exit=True)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        faulthandler.cancel_dump_traceback_later()
        return Accelerators(strategy, kind, index, hosts)
    devices = tf.config.list_logical_devices(kind)
    if len(devices) > 1:
        return Accelerators(tf.distribute.MirroredStrategy([device.name for device in devices]), kind)
    return Accelerators(tf.distribute.get_strategy(), kind)


def _cluster_position(text: str) -> tuple[int, int]:
    """Returns the number of hosts in ``TF_CONFIG`` and the index of this one; the chief has index 0.

    Raises:
        InvalidArgumentError: if ``TF_CONFIG`` is malformed, or this host is neither a chief nor a worker.
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
            "TF_CONFIG is malformed",
            where=f"TF_CONFIG={text[:200]!r}",
            remedy='set it to {"cluster": {"chief": [ADDRESS], "worker": [ADDRESS, ...]}, '
            '"task": {"type": "worker", "index": 0}}, or unset it to train on one host',
        ) from None
    if role not in ("chief", "master", "worker"):
        raise InvalidArgumentError(
            f"the role of this host is {role!r}, but only a chief and workers can train",
            where="TF_CONFIG",
            remedy="remove parameter servers and evaluators from the cluster",
        )
    return hosts, index + chiefs if role == "worker" else index


def _tpu_strategy() -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)
