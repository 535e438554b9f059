"""Describes TFRecord files that have no manifest, by reading them."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from imgpipe.components.common.dataset import Manifest, Shard, Split, file_sha256
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.labels import read_labels_file
from imgpipe.components.common.records import decode_example
from imgpipe.components.common.tfrecord import read_record_blocks
from imgpipe.components.storage import Location, find_files, parse_location

# A larger label than this many times the number of distinct labels is an error, not a gap in the labels.
_MAX_GAP_FACTOR = 10


def describe_record_files(
    patterns: Mapping[str, str], labels_file: str, num_classes: int, *, multi_label: bool = False
) -> Manifest:
    """Returns a manifest of TFRecord files; of a damaged file, up to the damage.

    Args:
        patterns: By split: a path, a glob, or several separated by commas, local, ``gs://`` or ``s3://``.
        labels_file: The labels file; empty = the labels are named by their numbers.
        num_classes: The number of labels; 0 = as many as the labels file has, or else up to the largest label
            in the records.
        multi_label: Whether a record may have several labels or none.

    Raises:
        MissingInputError: if a pattern matches no file, or the labels file cannot be read.
        InvalidDataError: if the labels file is invalid.
        InterruptedRunError: if a remote store cannot be reached.
    """
    labels: tuple[str, ...] = ()
    if labels_file:
        with parse_location(labels_file).local_copy() as path:
            labels = read_labels_file(path, display_name=labels_file)
    shards: dict[str, tuple[Shard, ...]] = {}
    counts: dict[str, Counter[int]] = {}
    locations = {split: find_files(pattern) for split, pattern in patterns.items() if pattern}
    for split, split_locations in locations.items():
        counts[split] = Counter()
        shards[split] = tuple(_read_shard(name, counts[split], multi_label) for name in split_locations)
    if not labels:
        number = num_classes or _largest_label(set().union(*counts.values()))
        labels = tuple(str(label) for label in range(1, number + 1))
    splits = {
        split: Split(shards[split], tuple(counts[split][label] for label in range(1, len(labels) + 1)))
        for split in shards
    }
    made_by = {"source": {"form": "tfrecord", **patterns, "labels_file": labels_file}}
    return Manifest(labels, splits, made_by, multi_label)


def _read_shard(location: Location, counts: Counter[int], multi_label: bool) -> Shard:
    """Returns the shard and adds the labels of its records to ``counts``."""
    records, where = 0, str(location)
    with location.local_copy() as path:
        # Damage is ignored here: the validation that follows reports it, with the record's number. Damaged
        # data is one record without a label, a damaged header ends the file.
        with suppress(InvalidDataError):
            for block in read_record_blocks(path, str(location)):
                for place in block.locations:
                    records += 1
                    with suppress(InvalidDataError):
                        record = decode_example(block.data(place), where=where, multi_label=multi_label)
                        counts.update(record.all_labels)
        return Shard(str(location.absolute()), records, path.stat().st_size, file_sha256(path))


def _largest_label(labels: set[int]) -> int:
    """Returns the largest label that is plausible for the number of distinct labels, at least 1."""
    plausible = [label for label in labels if 1 <= label <= _MAX_GAP_FACTOR * len(labels)]
    return max(plausible, default=1)
