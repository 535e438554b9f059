"""The choice of the precision of a training run."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.precision import Device, find_device, resolve_precision

OLD_CPU = Device("CPU", has_bfloat16=False, has_float16=False)
NEW_CPU = Device("CPU", has_bfloat16=True, has_float16=False)
VOLTA = Device("GPU", has_bfloat16=False, has_float16=True)
AMPERE = Device("GPU", has_bfloat16=True, has_float16=True)
PASCAL = Device("GPU", has_bfloat16=False, has_float16=False)
TPU = Device("TPU", has_bfloat16=True, has_float16=False)


@pytest.mark.parametrize(
    ("device", "model_type", "precision"),
    [
        (OLD_CPU, "resnet-50", "float32"),
        (NEW_CPU, "resnet-50", "bfloat16"),
        (VOLTA, "efficientnet-b0", "float16"),
        (AMPERE, "efficientnet-b0", "bfloat16"),
        (PASCAL, "resnet-50", "float32"),
        (TPU, "mobilenet-v2", "bfloat16"),
    ],
)
def test_auto_uses_the_instructions_of_the_device(device, model_type, precision):
    assert resolve_precision("auto", model_type, device) == precision


def test_auto_is_float32_for_small_images_on_a_cpu():
    assert resolve_precision("auto", "resnet-50", NEW_CPU, image_size=32) == "float32"
    assert resolve_precision("auto", "resnet-50", AMPERE, image_size=32) == "bfloat16"


@pytest.mark.parametrize("device", [OLD_CPU, NEW_CPU, VOLTA, AMPERE, PASCAL, TPU])
@pytest.mark.parametrize("model_type", list(MODEL_TYPES))
def test_auto_and_bfloat16_are_always_accepted_and_off_is_float32(device, model_type):
    assert resolve_precision("auto", model_type, device) in ("float32", "bfloat16", "float16")
    assert resolve_precision("off", model_type, device) == "float32"
    assert resolve_precision("bfloat16", model_type, device) == "bfloat16"


@pytest.mark.parametrize("device", [OLD_CPU, NEW_CPU, TPU])
def test_float16_is_rejected_without_a_gpu(device):
    with pytest.raises(InvalidArgumentError, match=f"float16.*{device.kind}") as caught:
        resolve_precision("float16", "resnet-50", device)
    assert "bfloat16" in caught.value.remedy
    assert resolve_precision("float16", "resnet-50", PASCAL) == "float16"


def test_the_reason_is_logged_and_a_slow_choice_is_a_warning(capsys):
    resolve_precision("bfloat16", "resnet-50", OLD_CPU)
    resolve_precision("auto", "resnet-50", NEW_CPU)
    slow, fast = map(parse_event, capsys.readouterr().out.splitlines())
    assert (slow["severity"], slow["precision"]) == ("WARNING", "bfloat16")
    assert "off is faster" in slow["reason"]
    assert (fast["severity"], fast["precision"]) == ("INFO", "bfloat16")
    assert "resnet-50" in fast["reason"]


def test_the_device_of_this_machine_is_known_to_tensorflow():
    kinds = {device.device_type for device in tf.config.list_physical_devices()}
    assert find_device().kind in kinds
