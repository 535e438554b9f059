"""Chooses the precision that a network is trained in."""

from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.model_types import MODEL_TYPES

# A CPU without any of these flags emulates bfloat16 with float32 and conversions, which is slower.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# Measured on a CPU with avx512_bf16 (docs/performance.md). Networks with depthwise convolutions spend their
# time in operations that move data rather than multiply, and TensorFlow's gradients of depthwise convolutions
# are not faster in bfloat16.
# At 32 pixels bfloat16 is not faster, and one image in 300 may be classified wrongly.
_SMALL_IMAGE_SIZE = 32
_FAMILIES_FASTER_ON_CPU = ("basic-resnet", "bottleneck-resnet", "resnet")


@dataclass(frozen=True)
class Device:
    """The capabilities of a device.

    Attributes:
        kind: ``CPU``, ``GPU`` or ``TPU``.
        has_bfloat16: Whether it has instructions for bfloat16.
        has_float16: Whether it has fast instructions for float16.
    """

    kind: str
    has_bfloat16: bool
    has_float16: bool


def find_device() -> Device:
    """Returns the device that TensorFlow uses: a connected TPU, the least capable of the GPUs, or the CPU."""
    if tf.config.list_logical_devices("TPU"):
        return Device("TPU", has_bfloat16=True, has_float16=False)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        # Tensor cores multiply float16 since compute capability 7.0, bfloat16 since 8.0.
        capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
        return Device("GPU", has_bfloat16=capability >= (8, 0), has_float16=capability >= (7, 0))
    return Device("CPU", has_bfloat16=_cpu_has_bfloat16(), has_float16=False)


def resolve_precision(
    mixed_precision: str, model_type: str, device: Device | None = None, *, image_size: int = 224
) -> str:
    """Returns the precision of the training and logs it with the reason.

    float16 requires a ``keras.optimizers.LossScaleOptimizer``, because small gradients would vanish.

    Args:
        mixed_precision: ``auto``, ``off``, ``bfloat16`` or ``float16``.
        model_type: A name of ``MODEL_TYPES``.
        device: By default the device that TensorFlow uses.
        image_size: The side of the training's images in pixels.

    Returns:
        ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InvalidArgumentError: for float16 without a GPU.
    """
    device = device or find_device()
    precision, reason = _decide(mixed_precision, model_type, device, image_size)
    slow = precision == "bfloat16" and not device.has_bfloat16
    log_event(
        "precision",
        f"train: precision {precision}: {reason}",
        severity="WARNING" if slow else "INFO",
        precision=precision,
        reason=reason,
    )
    return precision


def _decide(mixed_precision: str, model_type: str, device: Device, image_size: int) -> tuple[str, str]:
    if mixed_precision == "float16" and device.kind != "GPU":
        raise InvalidArgumentError(
            f"mixed_precision=float16 requires a GPU, but training runs on a {device.kind}",
            remedy="set mixed_precision to auto, off or bfloat16",
        )
    if mixed_precision == "off":
        return "float32", "mixed_precision=off"
    if mixed_precision != "auto":
        emulated = mixed_precision == "bfloat16" and not device.has_bfloat16
        slow = f"; this {device.kind} has no instructions for it, so off is faster" if emulated else ""
        return mixed_precision, f"mixed_precision={mixed_precision}{slow}"
    if device.kind == "CPU" and device.has_bfloat16 and image_size <= _SMALL_IMAGE_SIZE:
        return "float32", f"on a CPU, images of {image_size} pixels gain nothing from bfloat16"
    faster_on_cpu = MODEL_TYPES[model_type].family in _FAMILIES_FASTER_ON_CPU
    if device.kind == "CPU" and device.has_bfloat16 and not faster_on_cpu:
        return "float32", f"on a CPU, {model_type} is faster in float32 than in bfloat16"
    if device.has_bfloat16:
        return (
            "bfloat16",
            f"the {device.kind} has bfloat16 instructions, and {model_type} is faster with them",
        )
    if device.has_float16:
        return "float16", f"the {device.kind} has instructions for float16, but none for bfloat16"
    return "float32", f"the {device.kind} has no instructions for bfloat16"


def _cpu_has_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    # "flags" on x86, "Features" on ARM.
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not set(_BFLOAT16_FLAGS).isdisjoint(flags.split())
