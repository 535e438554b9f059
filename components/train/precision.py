"""Decides in which precision a network is trained."""

from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.model_types import MODEL_TYPES

# A processor without one of these computes bfloat16 in float32 and converts, which is slower.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# Measured on a processor with avx512_bf16 (docs/performance.md). The networks of depthwise convolutions
# spend their time in operations that move data rather than multiply, and TensorFlow's gradients of depthwise
# convolutions gain nothing.
_FAMILIES_FASTER_ON_CPU = ("basic-resnet", "bottleneck-resnet", "resnet")


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes:
        kind: ``CPU``, ``GPU`` or ``TPU``.
        has_bfloat16: Whether it has instructions for bfloat16.
        has_float16: Whether it has fast instructions for float16.
    """

    kind: str
    has_bfloat16: bool
    has_float16: bool


def find_device() -> Device:
    """Returns what TensorFlow computes on: a TPU that is connected to, the GPUs, or the processor.

    Of several GPUs, the one that can least counts.
    """
    if tf.config.list_logical_devices("TPU"):
        return Device("TPU", has_bfloat16=True, has_float16=False)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        # Tensor cores multiply float16 since compute capability 7.0, bfloat16 since 8.0.
        capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
        return Device("GPU", has_bfloat16=capability >= (8, 0), has_float16=capability >= (7, 0))
    return Device("CPU", has_bfloat16=_processor_has_bfloat16(), has_float16=False)


def resolve_precision(mixed_precision: str, model_type: str, device: Device | None = None) -> str:
    """Returns the precision of training's arithmetic, and logs it with its reason.

    float16 needs a scaled loss, or small gradients vanish: ``keras.optimizers.LossScaleOptimizer``.

    Args:
        mixed_precision: ``auto``, ``off``, ``bfloat16`` or ``float16``.
        model_type: A name of ``MODEL_TYPES``.
        device: What computes; by default what TensorFlow finds.

    Returns:
        ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InvalidArgumentError: for float16 where there is no GPU.
    """
    device = device or find_device()
    precision, reason = _decide(mixed_precision, model_type, device)
    slow = precision == "bfloat16" and not device.has_bfloat16
    log_event(
        "precision",
        f"train: arithmetic in {precision}: {reason}",
        severity="WARNING" if slow else "INFO",
        precision=precision,
        reason=reason,
    )
    return precision


def _decide(mixed_precision: str, model_type: str, device: Device) -> tuple[str, str]:
    if mixed_precision == "float16" and device.kind != "GPU":
        raise InvalidArgumentError(
            f"mixed_precision=float16, but training runs on a {device.kind}",
            remedy="use mixed_precision=auto, off or bfloat16: float16 is for GPUs only",
        )
    if mixed_precision == "off":
        return "float32", "mixed_precision=off"
    if mixed_precision != "auto":
        without = mixed_precision == "bfloat16" and not device.has_bfloat16
        slow = f"; this {device.kind} has no instructions for it, so off is faster" if without else ""
        return mixed_precision, f"mixed_precision={mixed_precision}{slow}"
    if device.kind == "CPU" and device.has_bfloat16 and not _gains_on_cpu(model_type):
        return "float32", f"{model_type} is faster in it than in bfloat16 on a processor"
    if device.has_bfloat16:
        return "bfloat16", f"the {device.kind} has instructions for it, and {model_type} gains from them"
    if device.has_float16:
        return "float16", f"the {device.kind} has instructions for it, and none for bfloat16"
    return "float32", f"the {device.kind} has no instructions for bfloat16"


def _gains_on_cpu(model_type: str) -> bool:
    return MODEL_TYPES[model_type].family in _FAMILIES_FASTER_ON_CPU


def _processor_has_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    # "flags" on x86, "Features" on ARM.
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not set(_BFLOAT16_FLAGS).isdisjoint(flags.split())
