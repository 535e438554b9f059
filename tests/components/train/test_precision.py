"""In which precision a network is trained, and why."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.precision import Device, find_device, resolve_precision

OLD_PROCESSOR = Device("CPU", has_bfloat16=False, has_float16=False)
NEW_PROCESSOR = Device("CPU", has_bfloat16=True, has_float16=False)
VOLTA = Device("GPU", has_bfloat16=False, has_float16=True)
AMPERE = Device("GPU", has_bfloat16=True, has_float16=True)
PASCAL = Device("GPU", has_bfloat16=False, has_float16=False)
TPU = Device("TPU", has_bfloat16=True, has_float16=False)


@pytest.mark.parametrize(
    ("device", "model_type", "precision"),
    [
        (OLD_PROCESSOR, "resnet-50", "float32"),
        (NEW_PROCESSOR, "resnet-50", "bfloat16"),
        (VOLTA, "efficientnet-b0", "float16"),
        (AMPERE, "efficientnet-b0", "bfloat16"),
        (PASCAL, "resnet-50", "float32"),
        (TPU, "mobilenet-v2", "bfloat16"),
    ],
)
def test_auto_takes_what_the_device_has_instructions_for(device, model_type, precision):
    assert resolve_precision("auto", model_type, device) == precision


@pytest.mark.parametrize("device", [OLD_PROCESSOR, NEW_PROCESSOR, VOLTA, AMPERE, PASCAL, TPU])
@pytest.mark.parametrize("model_type", list(MODEL_TYPES))
def test_auto_is_never_refused_and_off_is_float32(device, model_type):
    assert resolve_precision("auto", model_type, device) in ("float32", "bfloat16", "float16")
    assert resolve_precision("off", model_type, device) == "float32"
    assert resolve_precision("bfloat16", model_type, device) == "bfloat16"


@pytest.mark.parametrize("device", [OLD_PROCESSOR, NEW_PROCESSOR, TPU])
def test_float16_is_refused_where_there_is_no_gpu(device):
    with pytest.raises(InvalidArgumentError, match=f"float16.*{device.kind}") as caught:
        resolve_precision("float16", "resnet-50", device)
    assert "bfloat16" in caught.value.remedy
    assert resolve_precision("float16", "resnet-50", PASCAL) == "float16"


def test_the_reason_is_logged_and_a_slow_choice_warned_of(capsys):
    resolve_precision("bfloat16", "resnet-50", OLD_PROCESSOR)
    resolve_precision("auto", "resnet-50", NEW_PROCESSOR)
    slow, fast = map(parse_event, capsys.readouterr().out.splitlines())
    assert (slow["severity"], slow["precision"]) == ("WARNING", "bfloat16")
    assert "off is faster" in slow["reason"]
    assert (fast["severity"], fast["precision"]) == ("INFO", "bfloat16")
    assert "resnet-50" in fast["reason"]


def test_the_device_of_this_machine_is_what_tensorflow_computes_on():
    kinds = {device.device_type for device in tf.config.list_physical_devices()}
    assert find_device().kind in kinds
