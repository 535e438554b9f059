"""Time and cost of a training before it is sent: from sourced figures alone.

A figure that nobody has measured or published is not made up: the estimate then says what is missing, and
where to put it. Both tables are files that the user can replace.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.pipelines.machines import TPU_MACHINE, Machine, vcpus_and_memory

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Price:
    """What an hour of a machine or of one accelerator costs.

    Attributes:
        name: Machine type or accelerator type.
        per_hour: In ``currency``.
        currency: E.g. ``USD``.
        region: Where; empty = everywhere.
        strategy: ``standard``, ``spot`` or ``flex-start``.
        source: Who says so.
        date: When they said so, ISO 8601.
    """

    name: str
    per_hour: float
    currency: str
    region: str
    strategy: str
    source: str
    date: str


@dataclass(frozen=True)
class Throughput:
    """How many images a second a network trains on.

    Attributes:
        model_type: The network.
        hardware: Accelerator type, or ``cpu``: figures are for one accelerator, or for ``vcpus``.
        vcpus: Of ``cpu``.
        image_size: Side in pixels.
        images_per_second: As measured.
        factor: The true rate lies between the figure divided by this and the figure times this.
        source: Who measured, and how.
        date: When, ISO 8601.
    """

    model_type: str
    hardware: str
    vcpus: int
    image_size: int
    images_per_second: float
    factor: float
    source: str
    date: str


@dataclass(frozen=True)
class Estimate:
    """What is known beforehand.

    Attributes:
        hours: Shortest and longest time of the training itself; None if no figure is known.
        cost: Lowest and highest cost of the machines in that time; None if it is not known.
        currency: Of the cost.
        notes: From what it is worked out, and what is missing; a sentence each.
    """

    hours: tuple[float, float] | None
    cost: tuple[float, float] | None
    currency: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        time = f"{_range(self.hours)} hours" if self.hours else "time unknown"
        money = f"{_range(self.cost)} {self.currency}" if self.cost else "cost unknown"
        return f"estimate: {time}, {money} ({'; '.join(self.notes)})"


def read_prices(text: str, *, where: str) -> tuple[Price, ...]:
    """Reads a price table: a YAML list ``prices`` of the fields of ``Price``.

    Raises:
        InvalidArgumentError: naming the field that is missing or wrong.
    """
    return tuple(
        Price(
            name=_needed(row, "name"),
            per_hour=_positive(row, "per_hour"),
            currency=_needed(row, "currency"),
            region=row.text("region"),
            strategy=row.choice("strategy", ("standard", "spot", "flex-start"), "standard"),
            source=_needed(row, "source"),
            date=_needed(row, "date"),
        )
        for row in _rows(text, "prices", where)
    )


def read_throughputs(text: str, *, where: str) -> tuple[Throughput, ...]:
    """Reads a table of rates: a YAML list ``throughputs`` of the fields of ``Throughput``.

    Raises:
        InvalidArgumentError: naming the field that is missing or wrong.
    """
    return tuple(
        Throughput(
            model_type=_needed(row, "model_type"),
            hardware=_needed(row, "hardware"),
            vcpus=row.integer("vcpus"),
            image_size=row.integer("image_size", minimum=1),
            images_per_second=_positive(row, "images_per_second"),
            factor=_positive(row, "factor"),
            source=_needed(row, "source"),
            date=_needed(row, "date"),
        )
        for row in _rows(text, "throughputs", where)
    )


def estimate(
    arguments: TrainingArguments,
    pools: Sequence[tuple[Machine, int]],
    prices: Sequence[Price],
    throughputs: Sequence[Throughput],
    *,
    region: str = "",
    strategy: str = "standard",
) -> Estimate:
    """Returns time and cost of the training's steps on machines.

    The time of finding machines, fetching images and evaluating is not in it. That several machines or
    accelerators share the work without loss is the shorter end of the range; that they gain nothing, the
    longer.

    Args:
        arguments: How to train.
        pools: Machines and how many of each.
        prices: The price table.
        throughputs: The table of rates.
        region: Of the machines.
        strategy: How they are found.
    """
    notes: list[str] = []
    hours = _hours(arguments, pools, throughputs, notes)
    hourly = _hourly_price(pools, prices, region, strategy, notes)
    if hours is None or hourly is None:
        return Estimate(hours, None, "", tuple(notes))
    amount, currency = hourly
    return Estimate(hours, (hours[0] * amount, hours[1] * amount), currency, tuple(notes))


def _hours(
    arguments: TrainingArguments,
    pools: Sequence[tuple[Machine, int]],
    throughputs: Sequence[Throughput],
    notes: list[str],
) -> tuple[float, float] | None:
    machine = pools[0][0]
    hardware = machine.accelerator_type or (machine.machine_type if machine.tpu_topology else "cpu")
    known = [one for one in throughputs if (one.model_type, one.hardware) == (arguments.model_type, hardware)]
    if not known:
        notes.append(f"no measured rate of {arguments.model_type} on {hardware}: give one with --throughputs")
        return None
    size = arguments.resolved_image_size()
    rate = min(known, key=lambda one: abs(one.image_size - size))
    # The work of a convolution grows with the number of pixels.
    per_second = rate.images_per_second * (rate.image_size / size) ** 2
    units = sum(max(1, one.accelerator_count) * replicas for one, replicas in pools)
    if hardware == "cpu" and rate.vcpus:
        cores = [(vcpus_and_memory(one.machine_type) or (rate.vcpus, 0))[0] for one, _ in pools]
        replicas = [number for _, number in pools]
        units = sum(map(operator.mul, cores, replicas)) // rate.vcpus
    images = arguments.max_steps * arguments.train_batch_size
    shortest = images / (per_second * rate.factor * max(1, units)) / 3600
    longest = images / (per_second / rate.factor) / 3600
    notes.append(
        f"{rate.images_per_second:g} images/s of {rate.model_type} at {rate.image_size} pixels on "
        f"{f'{rate.vcpus} cores' if hardware == 'cpu' else hardware}, within a factor of {rate.factor:g}: "
        f"{rate.source}, {rate.date}"
    )
    return shortest, longest


def _hourly_price(
    pools: Sequence[tuple[Machine, int]],
    prices: Sequence[Price],
    region: str,
    strategy: str,
    notes: list[str],
) -> tuple[float, str] | None:
    total, currencies, sources = 0.0, set(), set()
    for machine, replicas in pools:
        # The machine of a TPU costs nothing by itself; machines with built-in GPUs have one price.
        parts = [] if machine.machine_type == TPU_MACHINE else [(machine.machine_type, 1)]
        if machine.accelerator_type and machine.machine_type.startswith(("n1-", TPU_MACHINE)):
            parts.append((machine.accelerator_type, machine.accelerator_count))
        for name, count in parts:
            found = [one for one in prices if one.name == name and one.region in ("", region)]
            price = next((one for one in found if one.strategy == strategy), None)
            if price is None:
                notes.append(
                    f"no price of {name} ({strategy}) in {region or 'any region'}: give it with --prices"
                )
                return None
            total += price.per_hour * count * replicas
            currencies.add(price.currency)
            sources.add(f"{price.source}, {price.date}")
    if len(currencies) > 1:
        notes.append(f"the prices are in {' and '.join(sorted(currencies))}")
        return None
    notes.append(f"prices: {'; '.join(sorted(sources))}")
    return total, currencies.pop()


def _rows(text: str, name: str, where: str) -> list[FieldsReader]:
    document = FieldsReader(parse_yaml(text, where=where) or {}, "", where=where)
    rows = document.blocks(name)
    document.finish()
    return rows


def _needed(row: FieldsReader, name: str) -> str:
    value = row.text(name)
    if not value:
        raise row.error(name, value, "given", "every figure has a name, a source and a date")
    return value


def _positive(row: FieldsReader, name: str) -> float:
    value = row.number(name)
    if value is None or value <= 0:
        raise row.error(name, value, "a number above 0", "give the figure, or leave the row out")
    return value


def _range(values: tuple[Any, Any]) -> str:
    low, high = (f"{value:.2g}" if value < 100 else f"{value:,.0f}" for value in values)
    return low if low == high else f"{low} to {high}"
