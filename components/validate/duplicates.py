"""Images with equal bytes: the same image in train and validation, or with different labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgpipe.components.common.dataset import TRAIN, shard_location
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.validate.findings import WARNING, Finding
from imgpipe.components.validate.reading import DIGEST_BYTES, ImageTable, Reading, label_names, record_at
from imgpipe.components.validate.record_checks import record_name

# Further images of a group are counted, not named.
_MAX_NAMED_IMAGES = 6
_MAX_WITH_THUMBNAIL = 20
_LEAK = "image_in_two_splits"
_TWO_LABEL_SETS = "image_with_two_label_sets"


@dataclass(frozen=True)
class _Member:
    """One of several images with equal bytes; ``where`` is its shard and record."""

    split: str
    label: str
    filename: str
    where: str
    thumbnail_source: str

    @property
    def name(self) -> str:
        return repr(self.filename) if self.filename else "an image without a file name"


def groups_of_equal_images(images: ImageTable) -> list[list[int]]:
    """Returns the numbers of the images with equal bytes: the groups, and each group, in reading order."""
    if not images.digests:
        return []
    digests = np.frombuffer(images.digests, dtype=f"S{DIGEST_BYTES}")
    order = np.argsort(digests, kind="stable")
    is_same = digests[order[1:]] == digests[order[:-1]]
    groups: list[list[int]] = []
    previous = -2
    for index in np.flatnonzero(is_same).tolist():
        if index != previous + 1:
            groups.append([int(order[index])])
        groups[-1].append(int(order[index + 1]))
        previous = index
    return sorted(groups)


def add_duplicate_findings(reading: Reading, folder: Path) -> None:
    """Adds a warning for each pair across the splits, and for each image with different labels.

    In a multi-label data set, an image may have several labels, but equal images must have the same ones.
    Equal images with the same label in one split are valid: some data sets repeat images to balance classes.
    Images of findings that are only counted are not read again.
    """
    images, findings = reading.images, reading.findings
    two_labels = _TWO_LABEL_SETS if reading.multi_label else "image_with_two_labels"
    for group in groups_of_equal_images(images):
        splits = [images.shard_of(number)[0] for number in group]
        train = group[splits.index(TRAIN)] if TRAIN in splits else None
        for number, split in zip(group, splits, strict=True):
            if train is None or split == TRAIN:
                continue
            if findings.is_full(_LEAK):
                findings.counts[_LEAK] += 1
            else:
                with_thumbnail = findings.counts[_LEAK] < _MAX_WITH_THUMBNAIL
                trained, other = (
                    _member(reading, folder, image, with_thumbnail) for image in (train, number)
                )
                findings.add(_leak(trained, other))
        labels = [images.labels[number] for number in group]
        if len(set(labels)) == 1:
            continue
        if findings.is_full(two_labels):
            findings.counts[two_labels] += 1
            continue
        # First one image of each label, so that the images that are named show the contradiction.
        firsts = [group[labels.index(label)] for label in sorted(set(labels))]
        named = (firsts + [number for number in group if number not in firsts])[:_MAX_NAMED_IMAGES]
        with_thumbnail = findings.counts[two_labels] < _MAX_WITH_THUMBNAIL
        members = [_member(reading, folder, number, with_thumbnail) for number in named]
        findings.add(_two_labels(two_labels, members, len(group)))


def _leak(trained: _Member, other: _Member) -> Finding:
    return Finding(
        WARNING,
        _LEAK,
        f"the same image is in {trained.split} and {other.split}: {trained.name} and {other.name}",
        f"{trained.where}; {other.where}",
        "remove one of the two: an image that the model was trained on does not test it",
        thumbnails=_thumbnails(trained, other),
    )


def _two_labels(kind: str, members: list[_Member], group_size: int) -> Finding:
    names = list(dict.fromkeys(repr(member.label) for member in members))
    more = f"; and {group_size - len(members):,} more" if group_size > len(members) else ""
    return Finding(
        WARNING,
        kind,
        f"the same image is labeled {' and '.join(names)}",
        "; ".join(f"{member.where}, {member.name}, is {member.label!r}" for member in members) + more,
        "keep one row of the image, with all of its labels"
        if kind == _TWO_LABEL_SETS
        else "keep the row with the correct label and remove the others",
        thumbnails=_thumbnails(*members[: len(names)]),
    )


def _thumbnails(*members: _Member) -> tuple[Thumbnail, ...]:
    return tuple(
        Thumbnail(member.thumbnail_source, (f"{member.split}: {member.label}",), member.where)
        for member in members
        if member.thumbnail_source
    )


def _member(reading: Reading, folder: Path, number: int, with_thumbnail: bool) -> _Member:
    images = reading.images
    split, shard = images.shard_of(number)
    where = record_name(shard, images.record_numbers[number])
    location, offset = shard_location(folder, shard), images.offsets[number]
    record = record_at(location, offset, where=where, multi_label=reading.multi_label)
    return _Member(
        split=split,
        label=label_names(record.all_labels, reading.labels),
        filename=record.filename,
        where=where,
        thumbnail_source=thumbnail_source(record.encoded) if with_thumbnail else "",
    )
