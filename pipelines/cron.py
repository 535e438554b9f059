"""Checks cron expressions."""

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from types import MappingProxyType
from zoneinfo import available_timezones

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.plural import plural

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
_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "month": ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
        "day of week": ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"),
    }
)
# Eight years: February 29 may be that far away.
_DAYS_AHEAD = 8 * 366
_REMEDY = "write five fields: minute hour day-of-month month day-of-week, e.g. '0 3 * * 1'"


def check_cron(cron: str, *, zone_allowed: bool) -> str:
    """Rejects text that is not a cron expression of five fields, and dates that never occur.

    Args:
        cron: The expression, optionally after a time zone, e.g. ``TZ=Europe/Berlin 0 3 * * *``.
        zone_allowed: Whether the target supports time zones.

    Returns:
        The expression with numbers in place of names of days and months, and 0 in place of 7 for Sunday.

    Raises:
        InvalidArgumentError: naming the wrong field.
    """
    texts, prefix = cron.split(), ""
    zone = _ZONE.fullmatch(texts[0]) if texts else None
    if zone:
        if not zone_allowed:
            raise InvalidArgumentError(
                f"--cron={cron!r}: Kubeflow does not support a time zone in a schedule",
                remedy="remove it and write the time in UTC, or in the installation's time zone "
                "(CRON_SCHEDULE_TIMEZONE)",
            )
        _check_zone(cron, zone.group(1))
        prefix = f"{texts[0]} "
        texts = texts[1:]
    if len(texts) != len(_FIELDS):
        raise InvalidArgumentError(
            f"--cron={cron!r} has {plural(len(texts), 'field')}, not five", remedy=_REMEDY
        )
    numbers = _field_numbers(cron, texts)
    texts = [
        ",".join(_without_names(name, term) for term in text.split(","))
        for name, text in zip(_FIELDS, texts, strict=True)
    ]
    days, months = numbers["day of month"], numbers["month"]
    # If neither day field starts with a star, cron runs on days that match either of them.
    if texts[2].startswith("*") or not texts[4].startswith("*"):
        return prefix + " ".join(texts)
    if not any(day <= _DAYS_OF_MONTH[month - 1] for day in days for month in months):
        raise InvalidArgumentError(
            f"--cron={cron!r} never occurs: no month of {texts[3]!r} has a day of month {texts[2]!r}",
            remedy="correct the day of month (the third field) or the month (the fourth)",
        )
    return prefix + " ".join(texts)


def time_zone(cron: str) -> str:
    """Returns the time zone that a cron expression begins with; UTC if it has none."""
    found = _ZONE.fullmatch(cron.partition(" ")[0])
    return found.group(1) if found else "UTC"


def next_time(cron: str, after: datetime) -> str:
    """Returns the next time of a cron expression of five fields, ISO 8601; "" if it cannot be read.

    Args:
        cron: The expression, in the time zone of ``after``.
        after: The time before it.
    """
    texts = cron.split()
    if len(texts) != len(_FIELDS):
        return ""
    try:
        numbers = _field_numbers(cron, texts)
    except InvalidArgumentError:
        return ""
    for offset in range(_DAYS_AHEAD):
        day = after.date() + timedelta(days=offset)
        in_month = day.day in numbers["day of month"]
        # Python's week begins with Monday, cron's with Sunday.
        in_week = day.isoweekday() % 7 in numbers["day of week"]
        starred = texts[2].startswith("*") or texts[4].startswith("*")
        matches = in_month and in_week if starred else in_month or in_week
        if day.month not in numbers["month"] or not matches:
            continue
        for hour in sorted(numbers["hour"]):
            for minute in sorted(numbers["minute"]):
                found = datetime.combine(day, time(hour, minute), after.tzinfo)
                if found > after:
                    return found.strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""


def _field_numbers(cron: str, texts: Sequence[str]) -> dict[str, set[int]]:
    return {
        name: {
            number
            for term in text.split(",")
            for numeric in _without_names(name, term).split(",")
            for number in _numbers(cron, name, numeric, given=term)
        }
        for text, name in zip(texts, _FIELDS, strict=True)
    }


def _without_names(field: str, term: str) -> str:
    """Returns a term with numbers in place of names, and Sunday as 0: one term, or several with commas."""
    names = _NAMES.get(field, ())
    term = re.sub(
        r"\b[A-Za-z]{3}\b",
        lambda match: (
            str(names.index(name) + 1) if (name := match.group().upper()) in names else match.group()
        ),
        term,
    )
    if field != "day of week":
        return term
    if term in ("7", "7-7"):
        return "0"
    if term.startswith("7-"):
        return f"0{term[1:]}"
    match = re.fullmatch(r"([0-7])-7(/\d+)?", term)
    if not match:
        return term
    step = int((match.group(2) or "/1")[1:]) or 1
    return ",".join(str(day % 7) for day in range(int(match.group(1)), 8, step))


def _check_zone(cron: str, zone: str) -> None:
    # If this machine has no time zone database, Vertex AI checks the zone.
    zones = available_timezones()
    if zones and zone not in zones:
        near = difflib.get_close_matches(zone, zones, n=1) or ["Europe/Berlin"]
        raise InvalidArgumentError(
            f"--cron={cron!r}: the time zone {zone!r} does not exist",
            remedy=f"use a name of the IANA time zone database, e.g. TZ={near[0]}",
        )


def _numbers(cron: str, name: str, term: str, *, given: str) -> range:
    smallest, largest = _FIELDS[name]
    problem = f"--cron={cron!r}: {given!r} is not {'an' if name == 'hour' else 'a'} {name}"
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
