"""Images whose bytes are equal: the same one in train and validation, the same one under two labels."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgpipe.components.common.dataset import TRAIN, shard_location
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.common.records import label_to_class
from imgpipe.components.validate.findings import KEPT_PER_KIND, WARNING, Finding
from imgpipe.components.validate.reading import DIGEST_BYTES, ImageTable, label_names, record_at, record_name

# More members of one group than this are counted, not named.
_NAMED_MEMBERS = 6
_WITH_PICTURE = 20


_LEAK = "image_in_two_splits"
# Stands for each that is counted and not kept.
_COUNTED_LEAK = Finding(WARNING, _LEAK, "the same image is in two splits")


@dataclass(frozen=True)
class _Member:
    """One of several images with equal bytes; ``where`` is its shard and record."""

    split: str
    label: str
    filename: str
    where: str
    source: str


def groups_of_equal_images(images: ImageTable) -> list[list[int]]:
    """Returns the numbers of the images with equal bytes: each group and the groups in reading order."""
    if not images.digests:
        return []
    digests = np.frombuffer(images.digests, dtype=f"S{DIGEST_BYTES}")
    order = np.argsort(digests, kind="stable")
    is_same = digests[order[1:]] == digests[order[:-1]]
    groups: list[list[int]] = []
    previous = -2
    for place in np.flatnonzero(is_same).tolist():
        if place != previous + 1:
            groups.append([int(order[place])])
        groups[-1].append(int(order[place + 1]))
        previous = place
    return sorted(groups)


def duplicate_findings(
    images: ImageTable, labels: tuple[str, ...], folder: Path, *, multi_label: bool = False
) -> Iterator[Finding]:
    """Yields a warning for each pair across the splits and for each image under several labels.

    In a multi-label data set, an image with several labels is as it should be; equal images with different
    sets of labels are not.

    Equal images with one label in one split are no finding: some repeat images to balance classes. Of
    findings that are more than are kept, no record is read: they say their kind alone.
    """
    pairs = doubles = 0

    def member(number: int, with_picture: bool) -> _Member:
        return _member(images, number, labels, folder, with_picture, multi_label)

    for group in groups_of_equal_images(images):
        splits = [_shard_of(images, number)[0] for number in group]
        if TRAIN in splits and len(set(splits)) > 1:
            with_picture = pairs < _WITH_PICTURE
            trained = group[splits.index(TRAIN)]
            for number, split in zip(group, splits, strict=True):
                if split != TRAIN and pairs < KEPT_PER_KIND:
                    yield _leak(member(trained, with_picture), member(number, with_picture))
                elif split != TRAIN:
                    yield _COUNTED_LEAK
                pairs += split != TRAIN
        group_labels = [images.labels[number] for number in group]
        if len(set(group_labels)) > 1 and doubles >= KEPT_PER_KIND:
            yield _counted_two_labels(multi_label)
        elif len(set(group_labels)) > 1:
            # One image of each label first, so that the first ones named show the contradiction.
            firsts = [group[group_labels.index(label)] for label in sorted(set(group_labels))]
            named = (firsts + [number for number in group if number not in firsts])[:_NAMED_MEMBERS]
            members = [member(one, doubles < _WITH_PICTURE) for one in named]
            yield _two_labels(members, len(group), multi_label)
        doubles += len(set(group_labels)) > 1


def _leak(trained: _Member, other: _Member) -> Finding:
    return Finding(
        WARNING,
        _LEAK,
        f"the same image is in {trained.split} and {other.split}: {_name(trained)} and {_name(other)}",
        f"{trained.where}; {other.where}",
        "remove one of the two: a model that was trained on an image is no longer tested by it",
        thumbnails=_pictures(trained, other),
    )


def _two_labels(members: list[_Member], number: int, multi_label: bool) -> Finding:
    names = list(dict.fromkeys(repr(member.label) for member in members))
    more = f"; and {number - len(members):,} more" if number > len(members) else ""
    return Finding(
        WARNING,
        _two_labels_kind(multi_label),
        f"the same image is labelled {' and '.join(names)}",
        "; ".join(f"{member.where}, {_name(member)}, is {member.label!r}" for member in members) + more,
        "keep one row of the image, with all of its labels"
        if multi_label
        else "keep the row with the right label and remove the others",
        thumbnails=_pictures(*members[: len(names)]),
    )


def _counted_two_labels(multi_label: bool) -> Finding:
    return Finding(WARNING, _two_labels_kind(multi_label), "the same image is labelled in two ways")


def _two_labels_kind(multi_label: bool) -> str:
    return "image_with_two_label_sets" if multi_label else "image_with_two_labels"


def _name(member: _Member) -> str:
    return repr(member.filename) if member.filename else "an image without a file name"


def _pictures(*members: _Member) -> tuple[Thumbnail, ...]:
    return tuple(
        Thumbnail(member.source, (f"{member.split}: {member.label}",), member.where)
        for member in members
        if member.source
    )


def _shard_of(images: ImageTable, number: int) -> tuple[str, str]:
    """Returns the split and the path of the shard in which an image lies."""
    _, split, shard = images.shards[_shard_index(images, number)]
    return split, shard.path


def _shard_index(images: ImageTable, number: int) -> int:
    # A shard without an image begins where the next one does: the last that begins there is meant.
    return bisect_right(images.shards, number, key=lambda shard: shard[0]) - 1


def _member(
    images: ImageTable,
    number: int,
    labels: tuple[str, ...],
    folder: Path,
    with_picture: bool,
    multi_label: bool,
) -> _Member:
    _, split, shard = images.shards[_shard_index(images, number)]
    record_number = images.record_numbers[number]
    where = record_name(shard, record_number)
    location = shard_location(folder, shard)
    record = record_at(location, images.offsets[number], where=where, multi_label=multi_label)
    class_index = label_to_class(record.label)
    single = labels[class_index] if 0 <= class_index < len(labels) else str(record.label)
    return _Member(
        split=split,
        label=label_names(record.all_labels, labels) if multi_label else single,
        filename=record.filename,
        where=where,
        source=thumbnail_source(record.encoded) if with_picture else "",
    )
