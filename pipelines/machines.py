"""The table of machines and accelerators, and which of them can be combined.

Accepts the names of AI Platform Training (``standard_gpu``, ``BASIC_TPU``) and of Compute Engine
(``n1-standard-8``). Retired machines are replaced by current ones, with a warning that names both.
Combinations that Vertex AI would reject are rejected here, before anything is sent.

The table is what we know, not all that exists: Google adds machines, and no region has all of them. Sources:
"Configure compute resources" in Vertex AI's documentation for machine types and accelerator counts, its
AcceleratorType for names; Compute Engine's pages on machine families for CPUs and memory (a3-megagpu,
a3-ultragpu, a4, g4, c3, n2d and m1: read in November 2026), and its deprecation notices for K80 and P100.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.arguments import nearest_name
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.vertex.job_requests import machine_kind, machine_spec

TPU_MACHINE = "cloud-tpu"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
_ALLOW_UNKNOWN = "if Google offers it by now, add --allow-unknown-machine: it is then sent unchecked"


@dataclass(frozen=True)
class Machine:
    """A machine with its accelerators, in the terms of Vertex AI.

    Attributes:
        machine_type: A machine type of Compute Engine.
        accelerator_type: An ``AcceleratorType`` of Vertex AI; empty for none, and for TPU v5e, which is given
            by machine type and topology.
        accelerator_count: Number of GPUs, or of TPU cores (v2, v3).
        tpu_topology: Topology of a TPU v5e slice, e.g. ``2x4``.
    """

    machine_type: str
    accelerator_type: str = ""
    accelerator_count: int = 0
    tpu_topology: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """The machine as Vertex AI's MachineSpec."""
        return machine_spec(
            self.machine_type, self.accelerator_type, self.accelerator_count, self.tpu_topology
        )

    @property
    def kind(self) -> str:
        """``cpu``, ``gpu`` or ``tpu``: which training image the machine needs."""
        return machine_kind(self.spec)

    def __str__(self) -> str:
        if self.tpu_topology:
            return f"{self.machine_type} with topology {self.tpu_topology}"
        if not self.accelerator_count:
            return self.machine_type
        return f"{self.machine_type} with {self.accelerator_count} {self.accelerator_type}"


@dataclass(frozen=True)
class ResolvedMachine:
    """The machine for a request.

    Attributes:
        machine: The machine to use.
        warnings: Sentences that say what was replaced.
    """

    machine: Machine
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shape:
    """CPUs and memory (GB) of a machine type, and the allowed counts of each accelerator."""

    vcpus: int
    memory: float
    accelerators: Mapping[str, tuple[int, ...]]


def _n1_accelerators(vcpus: int) -> Mapping[str, tuple[int, ...]]:
    t4 = (1, 2, 4) if vcpus <= 16 else (2, 4) if vcpus == 32 else (4,)
    v100 = (1, 2, 4, 8) if vcpus <= 8 else (2, 4, 8) if vcpus == 16 else (4, 8) if vcpus == 32 else (8,)
    return {"NVIDIA_TESLA_T4": t4, "NVIDIA_TESLA_V100": v100, "NVIDIA_TESLA_P4": t4}


def _shapes() -> dict[str, _Shape]:
    shapes = {}
    # By family: GB of memory per vCPU, and the available numbers of vCPUs.
    families: dict[str, tuple[float, tuple[int, ...]]] = {
        "n1-standard": (3.75, (4, 8, 16, 32, 64, 96)),
        "n1-highmem": (6.5, (2, 4, 8, 16, 32, 64, 96)),
        "n1-highcpu": (0.9, (16, 32, 64, 96)),
        "n2-standard": (4, (4, 8, 16, 32, 48, 64, 80)),
        "n2-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80)),
        "n2-highcpu": (1, (16, 32, 48, 64, 80)),
        "e2-standard": (4, (4, 8, 16, 32)),
        "e2-highmem": (8, (2, 4, 8, 16)),
        "e2-highcpu": (1, (16, 32)),
        "c2-standard": (4, (4, 8, 16, 30, 60)),
        "c3-standard": (4, (4, 8, 22, 44, 88, 176)),
        "c3-highmem": (8, (4, 8, 22, 44, 88, 176)),
        "c3-highcpu": (2, (4, 8, 22, 44, 88, 176)),
        "n2d-standard": (4, (4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
        "n2d-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
        "n2d-highcpu": (1, (16, 32, 48, 64, 80, 96, 128, 224)),
        "m1-ultramem": (24.025, (40, 80, 160)),
        "m1-megamem": (14.93, (96,)),
    }
    for family, (memory, sizes) in families.items():
        for vcpus in sizes:
            accelerators = _n1_accelerators(vcpus) if family.startswith("n1-") else {}
            shapes[f"{family}-{vcpus}"] = _Shape(vcpus, memory * vcpus, accelerators)
    for vcpus, count in {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}.items():
        shapes[f"g2-standard-{vcpus}"] = _Shape(vcpus, 4 * vcpus, {"NVIDIA_L4": (count,)})
    for count in (1, 2, 4, 8):
        shapes[f"a2-highgpu-{count}g"] = _Shape(12 * count, 85 * count, {"NVIDIA_TESLA_A100": (count,)})
        shapes[f"a2-ultragpu-{count}g"] = _Shape(12 * count, 170 * count, {"NVIDIA_A100_80GB": (count,)})
        shapes[f"a3-highgpu-{count}g"] = _Shape(26 * count, 234 * count, {"NVIDIA_H100_80GB": (count,)})
    for machine_type, vcpus, memory, accelerator in (
        ("a3-megagpu-8g", 208, 1872, "NVIDIA_H100_MEGA_80GB"),
        ("a3-ultragpu-8g", 224, 2952, "NVIDIA_H200_141GB"),
        ("a4-highgpu-8g", 224, 3968, "NVIDIA_B200"),
    ):
        shapes[machine_type] = _Shape(vcpus, memory, {accelerator: (8,)})
    for count in (1, 2, 4, 8):
        shapes[f"g4-standard-{48 * count}"] = _Shape(
            48 * count, 180 * count, {"NVIDIA_RTX_PRO_6000": (count,)}
        )
    shapes["a2-megagpu-16g"] = _Shape(96, 1360, {"NVIDIA_TESLA_A100": (16,)})
    return shapes


_SHAPES: Mapping[str, _Shape] = MappingProxyType(_shapes())

# Numbers of cores: a single device, then pod slices.
_TPU_CORES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"TPU_V2": (8, 32, 128, 256, 512), "TPU_V3": (8, 32, 64, 128, 256, 512, 1024, 2048)}
)
# The chips of a machine (1, 4 or 8) determine the possible slices.
_V5E_TOPOLOGIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ct5lp-hightpu-1t": ("1x1",),
        "ct5lp-hightpu-4t": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
        "ct5lp-hightpu-8t": ("2x4",),
    }
)
_V6E_MACHINES = ("ct6e-standard-1t", "ct6e-standard-4t", "ct6e-standard-8t")

MACHINE_TYPES: tuple[str, ...] = (*_SHAPES, TPU_MACHINE, *_V5E_TOPOLOGIES)


def _gpu(machine_type: str, model: str, count: int) -> Machine:
    return Machine(machine_type, f"NVIDIA_TESLA_{model}", count)


_TPU_V2_DEVICE = Machine(TPU_MACHINE, "TPU_V2", 8)
# The machine types of AI Platform Training.
_LEGACY: Mapping[str, Machine] = MappingProxyType(
    {
        "standard": Machine("n1-standard-4"),
        "large_model": Machine("n1-highmem-8"),
        "complex_model_s": Machine("n1-highcpu-8"),
        "complex_model_m": Machine("n1-highcpu-16"),
        "complex_model_l": Machine("n1-highcpu-32"),
        "standard_gpu": _gpu("n1-standard-8", "K80", 1),
        "complex_model_m_gpu": _gpu("n1-standard-16", "K80", 4),
        "complex_model_l_gpu": _gpu("n1-standard-32", "K80", 8),
        "standard_p100": _gpu("n1-standard-8", "P100", 1),
        "complex_model_m_p100": _gpu("n1-standard-16", "P100", 4),
        "standard_v100": _gpu("n1-standard-8", "V100", 1),
        "large_model_v100": _gpu("n1-highmem-8", "V100", 1),
        "complex_model_m_v100": _gpu("n1-standard-16", "V100", 4),
        "complex_model_l_v100": _gpu("n1-standard-32", "V100", 8),
        "TPU_V2": _TPU_V2_DEVICE,
        "cloud_tpu": _TPU_V2_DEVICE,
    }
)
# What replaces those that Vertex AI does not have.
_SUCCESSORS: Mapping[str, Machine] = MappingProxyType(
    {
        "complex_model_s": Machine("n1-highcpu-16"),
        "standard_gpu": _gpu("n1-standard-8", "T4", 1),
        "complex_model_m_gpu": _gpu("n1-standard-16", "T4", 4),
        # A machine has at most 4 T4.
        "complex_model_l_gpu": _gpu("n1-standard-32", "T4", 4),
        "standard_p100": _gpu("n1-standard-8", "T4", 1),
        "complex_model_m_p100": _gpu("n1-standard-16", "T4", 4),
    }
)

SCALE_TIERS: Mapping[str, str] = MappingProxyType(
    {"BASIC": "standard", "BASIC_GPU": "standard_gpu", "BASIC_TPU": "cloud_tpu"}
)
# They include parameter servers, which neither our training nor the original algorithm uses.
REJECTED_SCALE_TIERS = ("STANDARD_1", "PREMIUM_1")

_RETIRED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "NVIDIA_TESLA_K80": ("NVIDIA_TESLA_T4", "Google has retired K80 GPUs"),
        "NVIDIA_TESLA_P100": ("NVIDIA_TESLA_T4", "Google retired P100 GPUs on 2026-09-15"),
    }
)
# The counts that were available; their machines still exist, with at most 4 T4.
_RETIRED_COUNTS = MappingProxyType({"NVIDIA_TESLA_K80": (1, 2, 4, 8), "NVIDIA_TESLA_P100": (1, 2, 4)})
# AI Platform's names of pod slices and of the 80 GB A100.
_OTHER_NAMES = MappingProxyType(
    {"TPU_V2_POD": "TPU_V2", "TPU_V3_POD": "TPU_V3", "NVIDIA_TESLA_A100_80GB": "NVIDIA_A100_80GB"}
)


def accelerator_types() -> tuple[str, ...]:
    """Returns all accelerator types, the retired ones last."""
    of_machines = {name: None for shape in _SHAPES.values() for name in shape.accelerators}
    return (*of_machines, *_TPU_CORES, *_RETIRED)


def machine_of_scale_tier(scale_tier: str, *, name: str = "scaleTier") -> ResolvedMachine:
    """Returns the machine of a scale tier other than CUSTOM.

    Args:
        scale_tier: E.g. ``BASIC_GPU``.
        name: How the user wrote the argument, e.g. ``--scale-tier``.

    Raises:
        InvalidArgumentError: if the tier does not exist or includes parameter servers.
    """
    if scale_tier in REJECTED_SCALE_TIERS:
        raise InvalidArgumentError(
            f"{name}={scale_tier} includes parameter servers, which the training does not use",
            remedy="use CUSTOM and choose the machines, or use BASIC, BASIC_GPU or BASIC_TPU",
        )
    if scale_tier not in SCALE_TIERS:
        raise InvalidArgumentError(
            f"{name}={scale_tier!r} does not exist",
            remedy=nearest_name(scale_tier, [*SCALE_TIERS, "CUSTOM"]),
        )
    return resolve(SCALE_TIERS[scale_tier], where=f"{name}={scale_tier}")


def resolve(
    machine_type: str,
    accelerator_type: str = "",
    accelerator_count: int = 0,
    *,
    tpu_topology: str = "",
    allow_unknown: bool = False,
    where: str = "",
) -> ResolvedMachine:
    """Returns the machine for a request, or rejects it with the valid choices.

    Args:
        machine_type: A machine type of Compute Engine or of AI Platform Training.
        accelerator_type: Name on Vertex AI or AI Platform; empty = the machine type's own.
        accelerator_count: Number of GPUs or TPU cores; 0 = none, or the machine type's own.
        tpu_topology: For TPU v5e machines; empty = the smallest slice.
        allow_unknown: Whether a machine or an accelerator that is not in the table is sent as it is.
        where: Name of the request in errors and warnings, e.g. ``masterType``.

    Raises:
        InvalidArgumentError: naming what is wrong and what is allowed.
    """
    if allow_unknown and _is_unknown(machine_type, accelerator_type):
        machine = Machine(machine_type, accelerator_type, accelerator_count, tpu_topology)
        return ResolvedMachine(
            machine,
            (f"{_prefix(where)}{machine} is not in imgpipe's table and is sent as it is, unchecked",),
        )
    if machine_type in _V6E_MACHINES or accelerator_type.startswith("TPU_V6"):
        raise InvalidArgumentError(
            f"{machine_type} is TPU v6e, for which Google provides no TensorFlow",
            where=where,
            remedy=f"use {' or '.join(_V5E_TOPOLOGIES)} (TPU v5e), or {TPU_MACHINE} with TPU_V3",
        )
    if tpu_topology and machine_type not in _V5E_TOPOLOGIES:
        raise InvalidArgumentError(
            f"{machine_type} does not support tpu_topology={tpu_topology!r}",
            where=where,
            remedy=f"remove it, or use one of {', '.join(_V5E_TOPOLOGIES)}",
        )
    if accelerator_count < 0:
        raise InvalidArgumentError(
            f"the accelerator's count={accelerator_count} is negative",
            where=where,
            remedy="set it to the number of GPUs, or of TPU cores",
        )
    if accelerator_type and not accelerator_count and machine_type not in _V5E_TOPOLOGIES:
        raise InvalidArgumentError(
            f"the accelerator {accelerator_type} is given without a count",
            where=where,
            remedy="set the accelerator's count to the number of GPUs, or of TPU cores",
        )
    accelerator_type = _OTHER_NAMES.get(accelerator_type, accelerator_type)
    if machine_type in _LEGACY:
        return _resolve_legacy(machine_type, accelerator_type, accelerator_count, where)
    if machine_type == TPU_MACHINE:
        return ResolvedMachine(_tpu_device(accelerator_type, accelerator_count, where))
    if machine_type in _V5E_TOPOLOGIES:
        return ResolvedMachine(
            _v5e_slice(machine_type, accelerator_type, accelerator_count, tpu_topology, where)
        )
    if machine_type not in _SHAPES:
        raise InvalidArgumentError(
            f"{machine_type!r} is not in imgpipe's table of machine types",
            where=where,
            remedy=f"{_similar_machines(machine_type)}; {_ALLOW_UNKNOWN}",
        )
    return _resolve_gpu(machine_type, accelerator_type, accelerator_count, where)


def _is_unknown(machine_type: str, accelerator_type: str) -> bool:
    known = {*MACHINE_TYPES, *_LEGACY, *_V6E_MACHINES}
    accelerators = {"", *accelerator_types(), *_OTHER_NAMES}
    return bool(_NAME.fullmatch(machine_type)) and (
        machine_type not in known or accelerator_type not in accelerators
    )


def vcpus_and_memory(machine_type: str) -> tuple[int, float] | None:
    """Returns CPUs and memory in GB of a machine type of Compute Engine; None for TPU hosts."""
    shape = _SHAPES.get(machine_type)
    return (shape.vcpus, shape.memory) if shape else None


def check_pools(machines: Sequence[tuple[Machine, int]]) -> None:
    """Rejects worker pools that Vertex AI would reject: a TPU job has one replica.

    Args:
        machines: Machine and number of replicas of each pool.

    Raises:
        InvalidArgumentError: naming the rule.
    """
    if any(machine.kind == "tpu" for machine, _ in machines) and (len(machines) > 1 or machines[0][1] != 1):
        shown = ", ".join(f"{replicas} x {machine}" for machine, replicas in machines)
        raise InvalidArgumentError(
            f"a TPU job has one worker pool with one replica, not {shown}",
            remedy="for more TPU cores raise the accelerator's count (32 or more), or use a larger topology",
        )


def _resolve_legacy(name: str, accelerator_type: str, count: int, where: str) -> ResolvedMachine:
    if accelerator_type and name in ("cloud_tpu", "TPU_V2"):
        return ResolvedMachine(_tpu_device(accelerator_type, count, where))
    was, today = _LEGACY[name], _SUCCESSORS.get(name)
    if accelerator_type:
        raise InvalidArgumentError(
            f"the legacy machine type {name} does not support an accelerator ({count} {accelerator_type})",
            where=where,
            remedy=f"remove the accelerator ({name} is {was}), or use {was.machine_type}",
        )
    if today is None:
        return ResolvedMachine(was)
    reason = _RETIRED.get(was.accelerator_type, ("", "Vertex AI does not have that machine"))[1]
    return ResolvedMachine(today, (f"{_prefix(where)}{name} was {was}; {today} is used instead: {reason}",))


def _tpu_device(accelerator_type: str, count: int, where: str) -> Machine:
    choices = "; ".join(f"{name}: {_listed(cores)} cores" for name, cores in _TPU_CORES.items())
    if not accelerator_type:
        raise InvalidArgumentError(
            f"{TPU_MACHINE} needs an accelerator type and a number of cores",
            where=where,
            remedy=f"use one of: {choices}",
        )
    if count not in _TPU_CORES.get(accelerator_type, ()):
        raise InvalidArgumentError(
            f"{TPU_MACHINE} does not support {count} {accelerator_type}",
            where=where,
            remedy=f"use one of: {choices}",
        )
    return Machine(TPU_MACHINE, accelerator_type, count)


def _v5e_slice(machine_type: str, accelerator_type: str, count: int, topology: str, where: str) -> Machine:
    if accelerator_type or count:
        raise InvalidArgumentError(
            f"{machine_type} does not support an accelerator type ({accelerator_type or count})",
            where=where,
            remedy="remove the accelerator: the machine type and tpu_topology determine the TPU",
        )
    topologies = _V5E_TOPOLOGIES[machine_type]
    if topology and topology not in topologies:
        raise InvalidArgumentError(
            f"{machine_type} does not support tpu_topology={topology!r}",
            where=where,
            remedy=f"use one of: {', '.join(topologies)}",
        )
    return Machine(machine_type, tpu_topology=topology or topologies[0])


def _resolve_gpu(machine_type: str, accelerator_type: str, count: int, where: str) -> ResolvedMachine:
    counts = _SHAPES[machine_type].accelerators
    fixed = not machine_type.startswith("n1-") and counts
    if not accelerator_type:
        if count:
            raise InvalidArgumentError(
                f"the accelerator's count={count} is given without a type",
                where=where,
                remedy=f"set the accelerator's type: {_choices(machine_type)}",
            )
        # These machines have built-in GPUs.
        name, (number, *_) = next(iter(counts.items())) if fixed else ("", (0,))
        return ResolvedMachine(Machine(machine_type, name, number))
    if accelerator_type not in accelerator_types():
        raise InvalidArgumentError(
            f"{accelerator_type!r} is not in imgpipe's table of accelerators",
            where=where,
            remedy=f"{nearest_name(accelerator_type, accelerator_types())}; {_ALLOW_UNKNOWN}",
        )
    if accelerator_type in _TPU_CORES:
        raise InvalidArgumentError(
            f"{machine_type} does not support {accelerator_type}",
            where=where,
            remedy=f"use the machine type {TPU_MACHINE}",
        )
    machine = Machine(machine_type, accelerator_type, count)
    warnings: tuple[str, ...] = ()
    if accelerator_type in _RETIRED and counts and not fixed and count in _RETIRED_COUNTS[accelerator_type]:
        successor, reason = _RETIRED[accelerator_type]
        # The same count, or the nearest that the machine supports.
        nearest = min(counts[successor], key=lambda number: (abs(number - count), number))
        requested = machine
        machine = replace(requested, accelerator_type=successor, accelerator_count=nearest)
        warnings = (f"{_prefix(where)}{machine} is used instead of {requested}: {reason}",)
    if machine.accelerator_count not in counts.get(machine.accelerator_type, ()):
        raise InvalidArgumentError(
            f"{machine_type} does not support {count} {accelerator_type}",
            where=where,
            remedy=_remedy_for_pair(machine_type, accelerator_type, count),
        )
    return ResolvedMachine(machine, warnings)


def _remedy_for_pair(machine_type: str, accelerator_type: str, count: int) -> str:
    accelerator_type = _RETIRED.get(accelerator_type, (accelerator_type, ""))[0]
    others = [
        name
        for name, shape in _SHAPES.items()
        if count in shape.accelerators.get(accelerator_type, ()) and name != machine_type
    ]
    remedy = f"{machine_type} supports {_choices(machine_type)}"
    return f"{remedy}; for {count} {accelerator_type} use {', '.join(others[:6])}" if others else remedy


def _choices(machine_type: str) -> str:
    choices = [f"{name}: {_listed(counts)}" for name, counts in _SHAPES[machine_type].accelerators.items()]
    return "; ".join(choices) or "no accelerator"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _similar_machines(machine_type: str) -> str:
    family = machine_type.rpartition("-")[0]
    siblings = [name for name in MACHINE_TYPES if name.rpartition("-")[0] == family]
    if siblings:
        return f"use one of {', '.join(siblings)}"
    nearest = nearest_name(machine_type, [*MACHINE_TYPES, *_LEGACY])
    if nearest.startswith("did you mean"):
        return nearest
    return (
        f"use one of {', '.join(['n1-standard-8', 'g2-standard-8', 'a2-highgpu-1g', *_V5E_TOPOLOGIES])}, ..."
    )


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
