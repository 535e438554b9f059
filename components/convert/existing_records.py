"""Scans the user's existing TFRecord files: they are read once, counted and described, but not copied."""

import functools
import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from types import SimpleNamespace
from typing import Any

from imgpipe.components.common.characters import look_alike_key
from imgpipe.components.common.dataset import Shard, Split
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.labels import find_label_problem, normalize_label
from imgpipe.components.common.log import Progress, log_event
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import ImageRecord, decode_example
from imgpipe.components.common.tfrecord import encode_record_sizes, framed_size, read_records, write_record
from imgpipe.components.convert.finished import described_manifest
from imgpipe.components.convert.shards import make_split
from imgpipe.components.storage import Location, find_files

_MAX_PROBLEMS_PER_FILE = 100
_MAX_PROBLEMS_SHOWN = 10
_SAME_LABELS_REMEDY = (
    "make the records of all splits with the same labels file: a label must have the same number in each"
)


@dataclass(frozen=True)
class ScannedShard:
    """The content of one file.

    Attributes:
        shard: The file, with its absolute path.
        images_per_label: By label, 1..N; an image with several labels counts for each.
        texts: The label texts of the records, by label, each with the first record that has it; at most two
            per label.
        problems: The errors of the first invalid records.
        problem_count: The number of invalid records.
    """

    shard: Shard
    images_per_label: Counter[int]
    texts: dict[int, dict[str, int]]
    problems: tuple[InvalidDataError, ...] = ()
    problem_count: int = 0


def scan_records(
    patterns: Mapping[str, str],
    labels: Sequence[str],
    threads: int,
    *,
    multi_label: bool = False,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads every record of the files that the patterns match, unless a manifest beside them describes them.

    Args:
        patterns: By split: a path, a glob, or several separated by commas.
        labels: The label names from the user's labels file, or empty.
        threads: The number of files that are read in parallel.
        multi_label: Whether a record may have several labels or none.

    Returns:
        The splits and the label names: ``labels`` if given, else the texts in the records if each label
        has one text of its own, else the label numbers.

    Raises:
        MissingInputError: if a pattern matches no file.
        InvalidDataError: for records that are damaged or not labeled images, labels below 1 or greater
            than the number of ``labels`` (one error lists them all), label numbers with gaps, splits that
            name a label differently, or a split without a record.
    """
    files = {name: find_files(pattern) for name, pattern in patterns.items()}
    _check_disjoint(files)
    if described := described_manifest(files, labels, multi_label=multi_label):
        return described.splits, described.labels
    scanned: dict[str, list[ScannedShard]] = {name: [] for name in files}
    progress = Progress("convert", 0, "images")
    scan = functools.partial(scan_shard, largest_label=len(labels), multi_label=multi_label)
    names = [name for name, split_files in files.items() for _ in split_files]
    results = map_in_order(scan, chain.from_iterable(files.values()), threads)
    for name, shard in zip(names, results, strict=True):
        scanned[name].append(shard)
        progress.add(shard.shard.examples)
    all_shards = list(chain.from_iterable(scanned.values()))
    _raise_problems(all_shards)
    for name, shards in scanned.items():
        if not any(shard.shard.examples for shard in shards):
            raise InvalidDataError(
                f"there is no record in the {name} files",
                where=patterns[name],
                remedy="use files that contain records",
            )
    for pair in combinations(scanned.values(), 2):
        _check_same_names(*pair)
    if not labels:
        _check_consecutive(all_shards)
        labels = _name_labels(all_shards)
    splits = {
        name: make_split(
            [shard.shard for shard in shards], [shard.images_per_label for shard in shards], len(labels)
        )
        for name, shards in scanned.items()
    }
    return splits, tuple(labels)


def _check_same_names(first: Sequence[ScannedShard], second: Sequence[ScannedShard]) -> None:
    """Rejects two splits in which a label has different names, or a name different labels.

    Raises:
        InvalidDataError: naming a record of each split.
    """
    pairs = [_named_labels(shards) for shards in (first, second)]
    for label in sorted(pairs[0].keys() & pairs[1].keys()):
        (name, where), (other_name, other_where) = (next(iter(named[label].items())) for named in pairs)
        if not {_name_key(text) for text in pairs[0][label]} & {_name_key(text) for text in pairs[1][label]}:
            raise InvalidDataError(
                f"label {label} is {name!r} in {where}, and {other_name!r} in {other_where}",
                remedy=_SAME_LABELS_REMEDY,
            )
    places = [_labels_of_names(named) for named in pairs]
    for key in sorted(places[0].keys() & places[1].keys()):
        if not places[0][key].keys() & places[1][key].keys():
            (label, where), (other_label, other_where) = (next(iter(place[key].items())) for place in places)
            name = next(text for text in pairs[0][label] if _name_key(text) == key)
            raise InvalidDataError(
                f"{name!r} is label {label} in {where}, and label {other_label} in {other_where}",
                remedy=_SAME_LABELS_REMEDY,
            )


def _named_labels(shards: Sequence[ScannedShard]) -> dict[int, dict[str, str]]:
    """Returns the texts of each label that has one, with a record of each."""
    found: dict[int, dict[str, str]] = {}
    for shard in shards:
        for label, texts in shard.texts.items():
            for text, record in texts.items():
                if text:
                    found.setdefault(label, {}).setdefault(text, f"{shard.shard.path}, record {record}")
    return found


def _labels_of_names(named: Mapping[int, Mapping[str, str]]) -> dict[str, dict[int, str]]:
    labels: dict[str, dict[int, str]] = {}
    for label, texts in named.items():
        for text, where in texts.items():
            labels.setdefault(_name_key(text), {}).setdefault(label, where)
    return labels


def _name_key(text: str) -> str:
    return look_alike_key(text).casefold()


def _check_disjoint(files: Mapping[str, Collection[Location]]) -> None:
    """Rejects a file that is in two splits: accuracy on training images is meaningless."""
    split_of: dict[Location, str] = {}
    for name, split_files in files.items():
        for file in split_files:
            target = file.resolve_links()
            if split_of.setdefault(target, name) != name:
                raise InvalidDataError(
                    f"{file!r} is in the {split_of[target]} files and in the {name} files",
                    remedy="use patterns that do not overlap",
                )


def scan_shard(location: Location, *, largest_label: int = 0, multi_label: bool = False) -> ScannedShard:
    """Reads every record of a file, skipping invalid ones; reading stops at a damaged record.

    Args:
        location: The TFRecord file.
        largest_label: Greater labels are invalid; 0 = no limit.
        multi_label: Whether a record may have several labels or none.

    Raises:
        MissingInputError: if the file cannot be read.
        InterruptedRunError: if a remote store cannot be reached.
    """
    sha256 = hashlib.sha256()
    hashing_file: Any = SimpleNamespace(write=sha256.update)
    images_per_label: Counter[int] = Counter()
    texts: dict[int, dict[str, int]] = {}
    problems: list[InvalidDataError] = []
    record_sizes = array("L")
    examples = count = 0
    with location.local_copy() as path:
        try:
            for number, (offset, data) in enumerate(read_records(path, display_name=str(location))):
                # The checksums were correct, so this reproduces the bytes in the file: the file is hashed in
                # the same pass.
                write_record(hashing_file, data)
                record_sizes.append(framed_size(len(data)))
                try:
                    where = f"{location}, record {number}, byte offset {offset}"
                    record = decode_example(data, where=where, multi_label=multi_label)
                    for label in record.all_labels:
                        _check_label(label, largest_label, where)
                except InvalidDataError as error:
                    count += 1
                    if len(problems) < _MAX_PROBLEMS_PER_FILE:
                        problems.append(error)
                    continue
                examples += 1
                for label, text in _pair_labels(record):
                    images_per_label[label] += 1
                    seen = texts.setdefault(label, {})
                    if len(seen) < 2:
                        seen.setdefault(normalize_label(text.strip()), number)
        except InvalidDataError as error:
            count += 1
            problems.append(error)
    sizes = encode_record_sizes(record_sizes)
    return ScannedShard(
        Shard(str(location.absolute()), examples, sum(record_sizes), sha256.hexdigest(), sizes),
        images_per_label,
        texts,
        tuple(problems),
        count,
    )


def _pair_labels(record: ImageRecord) -> Iterable[tuple[int, str]]:
    texts = (record.text,) if record.labels is None else record.texts
    labels = record.all_labels
    return zip(labels, texts if len(texts) == len(labels) else [""] * len(labels), strict=True)


def _check_label(label: int, largest_label: int, where: str) -> None:
    if label < 1:
        raise InvalidDataError(
            f"the label is {label}",
            where=where,
            remedy="labels in records start at 1, not at 0: add 1 to every label"
            if label == 0
            else "use positive integers as labels",
        )
    if largest_label and label > largest_label:
        raise InvalidDataError(
            f"the label is {label}, but the labels file has {plural(largest_label, 'line')}",
            where=where,
            remedy="name every label in labels_file: line i names label i",
        )


def _raise_problems(shards: Sequence[ScannedShard]) -> None:
    """Raises one error for all invalid records; a single error is raised unchanged."""
    problems = [problem for shard in shards for problem in shard.problems]
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    count = sum(shard.problem_count for shard in shards)
    lines = "".join(f"\n  {problem.where}: {problem.problem}" for problem in problems[:_MAX_PROBLEMS_SHOWN])
    more = f"\n  and {count - _MAX_PROBLEMS_SHOWN:,} more" if count > _MAX_PROBLEMS_SHOWN else ""
    files = sum(bool(shard.problems) for shard in shards)
    raise InvalidDataError(
        f"invalid: {plural(count, 'record')} in {files:,} of {plural(len(shards), 'file')}:{lines}{more}",
        remedy=problems[0].remedy,
    )


def _check_consecutive(shards: Sequence[ScannedShard]) -> None:
    found = set().union(*(shard.images_per_label for shard in shards))
    if not found:
        raise InvalidDataError(
            "no record has a label",
            where=f"{shards[0].shard.path} and the other files",
            remedy="store labels in image/class/label of the records, or set labels_file",
        )
    largest = max(found)
    if len(found) == largest:
        return
    missing = (label for label in range(1, largest) if label not in found)
    first = ", ".join(str(label) for label in islice(missing, 5))
    count = largest - len(found)
    raise InvalidDataError(
        f"the labels go up to {largest:,}, but no record has label {first}"
        + (f" or {count - 5:,} others" if count > 5 else ""),
        where=f"{shards[0].shard.path} and the other files",
        remedy="number the labels 1, 2, 3, ... without gaps, or set labels_file if some labels are meant to "
        "have no images",
    )


def _name_labels(shards: Sequence[ScannedShard]) -> tuple[str, ...]:
    texts: dict[int, set[str]] = {}
    for shard in shards:
        for label, seen in shard.texts.items():
            texts.setdefault(label, set()).update(seen)
    names = [next(iter(texts[label])) if len(texts[label]) == 1 else "" for label in sorted(texts)]
    usable = all(name and not find_label_problem(name) for name in names)
    if usable and len(set(names)) == len(names):
        return tuple(names)
    if any(names):
        log_event(
            "label_texts_ignored",
            "convert: the records do not have exactly one text per label, so the labels are named by their "
            "numbers; set labels_file to name them",
            severity="WARNING",
        )
    return tuple(str(label) for label in sorted(texts))
