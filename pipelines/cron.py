"""Checks cron expressions."""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from zoneinfo import available_timezones

from imgpipe.components.common.errors import InvalidArgumentError

# The fields in order, with the smallest and largest number. Kubeflow does not accept 7 for Sunday.
_FIELDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "minute": (0, 59),
        "hour": (0, 23),
        "day of month": (1, 31),
        "month": (1, 12),
        "day of week": (0, 6),
    }
)
_TERM = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?", re.ASCII)
# Vertex AI accepts a time zone before the five fields.
_ZONE = re.compile("(?:CRON_)?TZ=(.*)")
# Of a leap year.
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_REMEDY = "write five fields: minute hour day-of-month month day-of-week, e.g. '0 3 * * 1'"


def check_cron(cron: str, *, zone_allowed: bool) -> None:
    """Rejects text that is not a cron expression of five numeric fields, and dates that never occur.

    Args:
        cron: The expression, optionally after a time zone, e.g. ``TZ=Europe/Berlin 0 3 * * *``.
        zone_allowed: Whether the target supports time zones.

    Raises:
        InvalidArgumentError: naming the wrong field.
    """
    texts = cron.split()
    zone = _ZONE.fullmatch(texts[0]) if texts else None
    if zone:
        if not zone_allowed:
            raise InvalidArgumentError(
                f"--cron={cron!r}: Kubeflow does not support a time zone in a schedule",
                remedy="remove it and write the time in UTC, or in the installation's time zone "
                "(CRON_SCHEDULE_TIMEZONE)",
            )
        _check_zone(cron, zone.group(1))
        texts = texts[1:]
    if len(texts) != len(_FIELDS):
        raise InvalidArgumentError(f"--cron={cron!r} has {len(texts)} fields, not five", remedy=_REMEDY)
    numbers = {
        name: {number for term in text.split(",") for number in _numbers(cron, name, term)}
        for text, name in zip(texts, _FIELDS, strict=True)
    }
    days, months = numbers["day of month"], numbers["month"]
    # If neither day field starts with a star, cron runs on days that match either of them.
    if texts[2].startswith("*") or not texts[4].startswith("*"):
        return
    if not any(day <= _DAYS_OF_MONTH[month - 1] for day in days for month in months):
        raise InvalidArgumentError(
            f"--cron={cron!r} never occurs: no month of {texts[3]!r} has a day of month {texts[2]!r}",
            remedy="correct the day of month (the third field) or the month (the fourth)",
        )


def _check_zone(cron: str, zone: str) -> None:
    # If this machine has no time zone database, Vertex AI checks the zone.
    zones = available_timezones()
    if zones and zone not in zones:
        near = difflib.get_close_matches(zone, zones, n=1) or ["Europe/Berlin"]
        raise InvalidArgumentError(
            f"--cron={cron!r}: the time zone {zone!r} does not exist",
            remedy=f"use a name of the IANA time zone database, e.g. TZ={near[0]}",
        )


def _numbers(cron: str, name: str, term: str) -> range:
    smallest, largest = _FIELDS[name]
    problem = f"--cron={cron!r}: {term!r} is not {'an' if name == 'hour' else 'a'} {name}"
    match = _TERM.fullmatch(term)
    if not match:
        raise InvalidArgumentError(f"{problem} ({smallest} to {largest}, or *)", remedy=_REMEDY)
    first, last, step = (int(number) if number else None for number in match.groups())
    if any(number is not None and not smallest <= number <= largest for number in (first, last)):
        sunday = "; Sunday is 0" if name == "day of week" else ""
        raise InvalidArgumentError(f"{problem} ({smallest} to {largest}, or *)", remedy=f"{_REMEDY}{sunday}")
    if first is not None and last is not None and first > last:
        raise InvalidArgumentError(
            f"{problem}: the range ends before it starts",
            remedy=f"write the smaller number first, {last}-{first}, or two ranges, "
            f"{first}-{largest},{smallest}-{last}",
        )
    if step is not None and step < 1:
        raise InvalidArgumentError(
            f"{problem}: the step is {step}",
            remedy=f"write a step of 1 or more, e.g. */2 for every second {name}",
        )
    end = last if last is not None else largest if first is None or step else first
    return range(smallest if first is None else first, end + 1, step or 1)
