"""A person's decisions about images: the table of an audit with the column ``action`` filled in."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.csv_table import read_csv_table
from imgpipe.components.common.errors import InvalidDataError, OutputError
from imgpipe.components.common.labels import normalize_label
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage import parse_location

PATH, LABEL, ACTION = "path", "label", "action"
KEEP, DROP, RELABEL = "keep", "drop", "relabel:"
_ALLOWED = f"{KEEP} (or nothing), {DROP} or {RELABEL}LABEL"


@dataclass(frozen=True)
class Decision:
    """What happens to the rows of an image.

    Attributes:
        line: The line of the file.
        path: The path of the image, as in its row.
        label: The label of the rows that are meant; empty = of any label.
        new_label: The correct label; empty = the rows are dropped.
    """

    line: int
    path: str
    label: str
    new_label: str


def read_decisions(file: str) -> list[Decision]:
    """Reads a CSV file with the columns ``path`` and ``action``, and returns what is not to be kept.

    With a column ``label``, a decision applies only to the rows of the path that have this label. Other
    columns are ignored. The encoding is UTF-8, with or without a byte order mark; a spreadsheet may have
    saved the file with semicolons or tabs in place of commas.

    Args:
        file: The path from the user, local, ``gs://`` or ``s3://``.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: naming the line, if a row has another form or action, or contradicts another one.
        InterruptedRunError: if a remote store cannot be reached.
    """
    with parse_location(file).local_copy() as path:
        return _read(path, file)


def _read(path: Path, file: str) -> list[Decision]:
    decisions: list[Decision] = []
    # The line and the action by path and label.
    known: dict[tuple[str, str], tuple[int, str]] = {}
    for line, row in read_csv_table(path, file, lambda _: None, lambda first: _delimiter(first, file)):
        where = f"{file}, line {line}"
        action = row[ACTION].strip()
        new_label = _new_label(action, where)
        image = row[PATH], normalize_label(row.get(LABEL, "").strip())
        first_line, other = known.setdefault(image, (line, action))
        if action and not other:
            known[image] = line, action
        elif action and _new_label(other, where) != new_label:
            raise InvalidDataError(
                f"the action is {action!r}, but line {first_line} says {other!r} about the same image, "
                f"{row[PATH]!r}",
                where=where,
                remedy="leave one of the two actions empty",
            )
        if new_label is not None and known[image][0] == line:
            decisions.append(Decision(line, *image, new_label))
    return decisions


def _delimiter(first_line: str, file: str) -> str:
    """Returns what separates the columns.

    Raises:
        InvalidDataError: if the columns are not those of a table of decisions.
    """
    for mark in (",", ";", "\t"):
        header = [name.strip() for name in next(csv.reader([first_line], delimiter=mark), [])]
        if header.count(PATH) == header.count(ACTION) == 1 and header.count(LABEL) <= 1:
            return mark
    raise InvalidDataError(
        f"the first line is {first_line.strip()!r}; it must have the columns {PATH} and {ACTION}, once each",
        where=file,
        remedy="use the decisions.csv of `imgpipe audit`, with its first line, saved as CSV",
    )


def check_undecided(path: Path) -> None:
    """Checks that an audit may write its table here: that no person's decisions would be overwritten.

    Raises:
        OutputError: if the file has actions, or is not a table of decisions.
    """
    remedy = "set output to another folder, or move the file"
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text, delimiter=_delimiter(text.readline(), str(path)))
            text.seek(0)
            decided = sum(bool((row.get(ACTION) or "").strip()) for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error, InvalidDataError):
        # A spreadsheet may have saved it in another form.
        raise OutputError(
            f"{str(path)!r}, which the audit would overwrite, is not a table that it wrote", remedy=remedy
        ) from None
    if decided:
        raise OutputError(
            f"{str(path)!r} has {plural(decided, 'action')}, which the audit would overwrite", remedy=remedy
        )


def _new_label(action: str, where: str) -> str | None:
    """Returns the label that an action gives, empty for drop and None for keep."""
    word = action.lower()
    if word in ("", KEEP):
        return None
    if word == DROP:
        return ""
    label = normalize_label(action[len(RELABEL) :].strip())
    if word.startswith(RELABEL) and label:
        return label
    raise InvalidDataError(
        f"the action is {action!r}", where=where, remedy=f"write {_ALLOWED} in the column {ACTION}"
    )


def apply_decisions(
    rows: Rows,
    decisions: Sequence[Decision],
    file: str,
    known_labels: Sequence[str] = (),
    *,
    multi_label: bool = False,
) -> None:
    """Drops rows and changes their labels.

    Args:
        rows: The rows of the input.
        decisions: From ``read_decisions``.
        file: Their file, for messages.
        known_labels: The allowed labels; empty = those of the rows.
        multi_label: Whether rows may have several labels.

    Raises:
        InvalidDataError: naming the line, if no row has a decision's path and label, or the new label is
            not one of the data.
    """
    table = rows.accepted
    labels = set(known_labels or table.label_names)
    for decision in decisions:
        where = f"{file}, line {decision.line}"
        if decision.new_label and multi_label:
            raise InvalidDataError(
                "a relabel action in a data set with multi_label: it does not say which labels change",
                where=where,
                remedy="correct the labels of the image in its list, or use drop",
            )
        if decision.new_label and decision.new_label not in labels:
            raise InvalidDataError(
                f"no image has the label {decision.new_label!r}",
                where=where,
                remedy=f"use one of the labels of the data: {', '.join(sorted(labels)[:20])}",
            )
    wanted: dict[str, list[Decision]] = {}
    for decision in decisions:
        wanted.setdefault(decision.path, []).append(decision)
    applied = set()
    dropped = 0
    for number in range(len(table)):
        path = table.path(number)
        for decision in wanted.get(path, ()):
            if decision.label and decision.label != table.label_name(number) and not multi_label:
                continue
            applied.add(decision.line)
            if decision.new_label:
                table.set_label(number, decision.new_label)
            else:
                rows.leave_out(number)
                dropped += 1
            break
    # A row that was rejected is not in the data either way.
    rejected = {row.path for row in rows.rejected}
    for decision in decisions:
        if decision.line not in applied and decision.path not in rejected:
            label = f" with the label {decision.label!r}" if decision.label else ""
            raise InvalidDataError(
                f"no image of the data has the path {decision.path!r}{label}",
                where=f"{file}, line {decision.line}",
                remedy="use the decisions of an audit of this data, or remove the line",
            )
    relabeled = sum(bool(decision.new_label) for decision in decisions)
    log_event(
        "decisions_applied",
        f"convert: by the decisions in {file}, {plural(dropped, 'row')} left out, "
        f"{plural(relabeled, 'image')} relabeled",
        dropped=dropped,
        relabeled=relabeled,
    )
