"""The table of machines: legacy names, replacements and unsupported combinations."""

import pytest
from google.cloud import aiplatform_v1
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.machines import (
    MACHINE_TYPES,
    Machine,
    accelerator_types,
    machine_of_scale_tier,
    resolve,
    vcpus_and_memory,
)

T4, V100, P4, L4 = "NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_P4", "NVIDIA_L4"
TPU = Machine("cloud-tpu", "TPU_V2", 8)

# For each name, the current machine, and whether a warning reports a replacement.
LEGACY = {
    "standard": (Machine("n1-standard-4"), False),
    "large_model": (Machine("n1-highmem-8"), False),
    "complex_model_s": (Machine("n1-highcpu-16"), True),
    "complex_model_m": (Machine("n1-highcpu-16"), False),
    "complex_model_l": (Machine("n1-highcpu-32"), False),
    "standard_gpu": (Machine("n1-standard-8", T4, 1), True),
    "complex_model_m_gpu": (Machine("n1-standard-16", T4, 4), True),
    "complex_model_l_gpu": (Machine("n1-standard-32", T4, 4), True),
    "standard_p100": (Machine("n1-standard-8", T4, 1), True),
    "complex_model_m_p100": (Machine("n1-standard-16", T4, 4), True),
    "standard_v100": (Machine("n1-standard-8", V100, 1), False),
    "large_model_v100": (Machine("n1-highmem-8", V100, 1), False),
    "complex_model_m_v100": (Machine("n1-standard-16", V100, 4), False),
    "complex_model_l_v100": (Machine("n1-standard-32", V100, 8), False),
    "TPU_V2": (TPU, False),
    "cloud_tpu": (TPU, False),
}


@pytest.mark.parametrize("name", LEGACY)
def test_a_legacy_machine_type_becomes_its_current_machine_with_a_warning_if_it_is_replaced(name):
    machine, replaced = LEGACY[name]
    resolved = resolve(name, where="masterType")
    assert resolved.machine == machine
    assert len(resolved.warnings) == replaced
    for warning in resolved.warnings:
        assert warning.startswith(f"masterType: {name} was n1-")
        assert str(machine) in warning


@pytest.mark.parametrize(
    ("tier", "machine"),
    [
        ("BASIC", Machine("n1-standard-4")),
        ("BASIC_GPU", Machine("n1-standard-8", T4, 1)),
        ("BASIC_TPU", TPU),
    ],
)
def test_a_scale_tier_becomes_its_machine(tier, machine):
    assert machine_of_scale_tier(tier).machine == machine


@pytest.mark.parametrize(
    ("request_", "machine"),
    [
        (("n1-standard-8", "NVIDIA_TESLA_K80", 1), Machine("n1-standard-8", T4, 1)),
        (("n1-standard-8", "NVIDIA_TESLA_K80", 8), Machine("n1-standard-8", T4, 4)),
        (("n1-standard-32", "NVIDIA_TESLA_P100", 1), Machine("n1-standard-32", T4, 2)),
    ],
)
def test_a_retired_accelerator_is_replaced_with_a_warning_that_names_both(request_, machine):
    resolved = resolve(*request_)
    assert resolved.machine == machine
    [warning] = resolved.warnings
    assert request_[1] in warning
    assert str(machine) in warning


@pytest.mark.parametrize(
    ("machine_type", "counts"),
    [
        ("n1-standard-4", {T4: (1, 2, 4), V100: (1, 2, 4, 8), P4: (1, 2, 4)}),
        ("n1-highmem-8", {T4: (1, 2, 4), V100: (1, 2, 4, 8), P4: (1, 2, 4)}),
        ("n1-highcpu-16", {T4: (1, 2, 4), V100: (2, 4, 8), P4: (1, 2, 4)}),
        ("n1-standard-32", {T4: (2, 4), V100: (4, 8), P4: (2, 4)}),
        ("n1-standard-64", {T4: (4,), V100: (8,), P4: (4,)}),
        ("n1-highmem-96", {T4: (4,), V100: (8,), P4: (4,)}),
        ("g2-standard-12", {L4: (1,)}),
        ("g2-standard-24", {L4: (2,)}),
        ("g2-standard-32", {L4: (1,)}),
        ("g2-standard-96", {L4: (8,)}),
        ("a2-highgpu-4g", {"NVIDIA_TESLA_A100": (4,)}),
        ("a2-ultragpu-2g", {"NVIDIA_A100_80GB": (2,)}),
        ("a3-highgpu-8g", {"NVIDIA_H100_80GB": (8,)}),
        ("e2-standard-4", {}),
    ],
)
def test_a_machine_supports_these_numbers_of_gpus_and_no_others(machine_type, counts):
    for accelerator in (T4, V100, P4, L4, "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB"):
        supported = []
        for count in range(1, 17):
            try:
                supported.append(resolve(machine_type, accelerator, count).machine.accelerator_count)
            except InvalidArgumentError as error:
                assert machine_type in error.remedy  # noqa: PT017 - rejection is one of two valid outcomes
        assert tuple(supported) == counts.get(accelerator, ())


def test_a_machine_with_built_in_gpus_needs_no_accelerator():
    assert resolve("a2-highgpu-2g").machine == Machine("a2-highgpu-2g", "NVIDIA_TESLA_A100", 2)


@pytest.mark.parametrize(
    ("request_", "machine"),
    [
        ({"machine_type": "cloud-tpu", "accelerator_type": "TPU_V3", "accelerator_count": 8}, "TPU_V3"),
        ({"machine_type": "cloud_tpu", "accelerator_type": "TPU_V3_POD", "accelerator_count": 32}, "TPU_V3"),
    ],
)
def test_tpu_v2_and_v3_are_cloud_tpu_machines(request_, machine):
    resolved = resolve(**request_).machine
    assert (resolved.machine_type, resolved.accelerator_type) == ("cloud-tpu", machine)


def test_tpu_v5e_is_its_machine_and_topology_without_an_accelerator_type():
    assert resolve("ct5lp-hightpu-4t", tpu_topology="4x4").machine == Machine(
        "ct5lp-hightpu-4t", tpu_topology="4x4"
    )
    assert resolve("ct5lp-hightpu-1t").machine.tpu_topology == "1x1"


@given(
    machine_type=st.sampled_from([*MACHINE_TYPES, *LEGACY, "ct6e-standard-1t", "n1-standard-3", ""]),
    accelerator_type=st.sampled_from(["", *accelerator_types(), "TPU_V4_POD", "NVIDIA_TESLA"]),
    count=st.integers(-2, 40),
    topology=st.sampled_from(["", "2x2", "4x4", "3x3"]),
)
def test_every_request_is_rejected_with_a_remedy_or_gives_a_machine_that_resolves_to_itself(
    machine_type, accelerator_type, count, topology
):
    try:
        machine = resolve(machine_type, accelerator_type, count, tpu_topology=topology).machine
    except InvalidArgumentError as error:
        assert error.remedy  # noqa: PT017 - rejection is one of two valid outcomes
        return
    again = resolve(
        machine.machine_type,
        machine.accelerator_type,
        machine.accelerator_count,
        tpu_topology=machine.tpu_topology,
    )
    assert again.machine == machine
    assert again.warnings == ()


@pytest.mark.parametrize(
    ("machine_type", "expected"),
    [
        ("n1-standard-8", (8, 30.0)),
        ("a2-highgpu-1g", (12, 85)),
        ("g2-standard-96", (96, 384)),
        ("cloud-tpu", None),
    ],
)
def test_processors_and_memory_of_a_machine(machine_type, expected):
    assert vcpus_and_memory(machine_type) == expected


def test_an_unknown_machine_is_sent_as_it_is_on_request():
    resolved = resolve("a5-highgpu-8g", "NVIDIA_B300", 8, allow_unknown=True, where="masterType")
    assert resolved.machine == Machine("a5-highgpu-8g", "NVIDIA_B300", 8)
    assert resolved.machine.kind == "gpu"
    assert resolved.warnings == (
        "masterType: a5-highgpu-8g with 8 NVIDIA_B300 is not in imgpipe's table and is sent as it is, "
        "unchecked",
    )
    # What is known is checked nevertheless.
    with pytest.raises(InvalidArgumentError, match="does not support 3"):
        resolve("n1-standard-8", T4, 3, allow_unknown=True)
    with pytest.raises(InvalidArgumentError, match="not in imgpipe's table"):
        resolve("no machine", allow_unknown=True)


@pytest.mark.parametrize(
    ("machine_type", "accelerator", "count"),
    [
        ("a3-megagpu-8g", "NVIDIA_H100_MEGA_80GB", 8),
        ("a3-ultragpu-8g", "NVIDIA_H200_141GB", 8),
        ("a4-highgpu-8g", "NVIDIA_B200", 8),
        ("g4-standard-96", "NVIDIA_RTX_PRO_6000", 2),
        ("c3-standard-22", "", 0),
        ("n2d-standard-224", "", 0),
        ("m1-ultramem-40", "", 0),
    ],
)
def test_todays_machines_are_in_the_table_with_their_own_gpus(machine_type, accelerator, count):
    assert resolve(machine_type).machine == Machine(machine_type, accelerator, count)
    # The names are those of the API.
    assert not accelerator or accelerator in aiplatform_v1.AcceleratorType.__members__
