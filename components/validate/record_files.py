"""TFRecord files that nobody has described: what a manifest says of them, found out by reading them."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from imgpipe.components.common.dataset import Manifest, Shard, Split, file_sha256
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.labels import read_labels_file
from imgpipe.components.common.records import decode_example, label_to_class
from imgpipe.components.common.tfrecord import record_blocks
from imgpipe.components.storage.files import absolute_location, local_copy, match_pattern

# Labels beyond this many times the number of different ones are mistakes, not labels without images.
_LARGEST_GAP = 10


def describe_record_files(
    patterns: Mapping[str, str], labels_file: str, num_classes: int, *, multi_label: bool = False
) -> Manifest:
    """Reads the labels of TFRecord files, damaged ones as far as it goes, and describes the files.

    Args:
        patterns: By split: a path, a glob, or several separated by commas, local or ``gs://``.
        labels_file: Names the labels; empty = they are named by their numbers.
        num_classes: How many labels there are; 0 = as many as the labels file has, else up to the largest
            label that is found.
        multi_label: Whether a record may have several labels or none.

    Raises:
        MissingInputError: if a pattern matches nothing, or the labels file cannot be read.
        InvalidDataError: if the labels file is none.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    names: tuple[str, ...] = ()
    if labels_file:
        with local_copy(labels_file) as path:
            names = read_labels_file(path, shown=labels_file)
    locations = {split: match_pattern(pattern) for split, pattern in patterns.items() if pattern}
    scanned = {
        split: [_scan(location, multi_label) for location in some] for split, some in locations.items()
    }
    found: Counter[int] = Counter()
    for files in scanned.values():
        for _, labels in files:
            found.update(labels)
    if not names:
        names = tuple(str(label) for label in range(1, (num_classes or _largest(found)) + 1))
    splits = {
        split: Split(tuple(shard for shard, _ in files), _counts([labels for _, labels in files], len(names)))
        for split, files in scanned.items()
    }
    made_by = {"source": {"form": "tfrecord", **patterns, "labels_file": labels_file}}
    return Manifest(names, splits, made_by, multi_label)


def _scan(location: str, multi_label: bool) -> tuple[Shard, Counter[int]]:
    labels: Counter[int] = Counter()
    records = 0
    with local_copy(location) as path:
        # What is damaged is told by the reading that follows, with the record's number: damaged data is one
        # record without a label, a damaged header ends the file.
        with suppress(InvalidDataError):
            for block in record_blocks(path, location):
                for place in block.places:
                    records += 1
                    with suppress(InvalidDataError):
                        record = decode_example(block.data(place), where=location, multi_label=multi_label)
                        labels.update(record.all_labels)
        return Shard(absolute_location(location), records, path.stat().st_size, file_sha256(path)), labels


def _largest(found: Counter[int]) -> int:
    """Returns the number of labels: the largest one, if it is not absurd beside the number of others."""
    sensible = [label for label in found if 1 <= label <= _LARGEST_GAP * len(found)]
    return max(sensible, default=1)


def _counts(labels: list[Counter[int]], number: int) -> tuple[int, ...]:
    counts = [0] * number
    for some in labels:
        for label, count in some.items():
            if 1 <= label <= number:
                counts[label_to_class(label)] += count
    return tuple(counts)
