"""Images with equal bytes: the same image in train and another split, or with different labels."""

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from imgpipe.components.validate.findings import MAX_KEPT_PER_KIND

DIGEST_BYTES = 32
# Further images of a group are counted, not named.
_MAX_NAMED_IMAGES = 6


class Image(NamedTuple):
    """Where an image is, and its labels; images are ordered as they are read.

    Attributes:
        shard: The number of its shard, from 0, in the order of the manifest.
        record: The number of its record in the shard.
        offset: Of the record in the shard, in bytes.
        in_train: Whether its shard is in the training split.
        labels: As in the record.
    """

    shard: int
    record: int
    offset: int
    in_train: bool
    labels: tuple[int, ...]


class Leak(NamedTuple):
    """An image of another split that equals a training image; ``first`` is the first one of all equal."""

    first: Image
    other: Image
    train: Image


class Contradiction(NamedTuple):
    """Equal images with different labels: some of them, one of each set of labels first."""

    first: Image
    named: tuple[Image, ...]
    size: int


@dataclass(frozen=True)
class EqualImages:
    """What is wrong with equal images, in reading order: the first 10,000 of each kind, and their numbers."""

    leaks: tuple[Leak, ...] = ()
    all_leaks: int = 0
    contradictions: tuple[Contradiction, ...] = ()
    all_contradictions: int = 0


@dataclass
class ImageTable:
    """60 bytes of each image: enough to find equal ones and to read them again.

    Images are numbered from 0 in reading order; ``shards`` has the number of each shard's first image, the
    shard's number, and whether it is in the training split.
    """

    digests: bytearray = field(default_factory=bytearray)
    # The number of the image's set of labels.
    labels: "array[int]" = field(default_factory=lambda: array("L"))
    records: "array[int]" = field(default_factory=lambda: array("L"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    shards: list[tuple[int, int, bool]] = field(default_factory=list)
    label_sets: dict[tuple[int, ...], int] = field(default_factory=dict)

    def begin_shard(self, number: int, *, in_train: bool) -> None:
        """Starts the shard to which ``add`` adds images."""
        self.shards.append((len(self.labels), number, in_train))

    def add(self, digest: bytes, labels: tuple[int, ...], record: int, offset: int) -> None:
        """Adds an image of the current shard."""
        self.digests += digest
        self.labels.append(self.label_sets.setdefault(labels, len(self.label_sets)))
        self.records.append(record)
        self.offsets.append(offset)

    def select(self, numbers: Iterable[int]) -> Iterator[Image]:
        """Yields images by number."""
        label_sets = list(self.label_sets)
        for number in numbers:
            # A shard without images has the same first number as the next one: the last of these has the
            # image.
            index = bisect_right(self.shards, number, key=lambda entry: entry[0]) - 1
            _, shard, in_train = self.shards[index]
            labels = label_sets[self.labels[number]]
            yield Image(shard, self.records[number], self.offsets[number], in_train, labels)

    def images(self) -> Iterator[tuple[bytes, Image]]:
        """Yields each image with its SHA-256."""
        for number, image in enumerate(self.select(range(len(self.labels)))):
            yield bytes(self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]), image


def find_equal_images(table: ImageTable) -> EqualImages:
    """Compares all images of a table."""
    groups = _groups(table)
    images = table.select(chain.from_iterable(groups))
    return merge_equal_images(compare_images(next(images) for _ in group) for group in groups)


def _groups(table: ImageTable) -> list[list[int]]:
    """Returns the numbers of the images with equal bytes: the groups, and each group, in reading order."""
    if not table.digests:
        return []
    digests = np.frombuffer(table.digests, dtype=f"S{DIGEST_BYTES}")
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


def compare_images(images: Iterable[Image]) -> EqualImages:
    """Returns what is wrong with images of equal bytes, given in any order and kept only in part.

    Equal images with the same labels in one split are valid: some data sets repeat images to balance classes.
    """
    size = all_others = 0
    train: Image | None = None
    firsts: list[Image] = []
    others: list[Image] = []
    first_with: dict[tuple[int, ...], Image] = {}
    for image in images:
        size += 1
        _keep_first(firsts, image, _MAX_NAMED_IMAGES)
        if not image.in_train:
            all_others += 1
            _keep_first(others, image, MAX_KEPT_PER_KIND)
        elif train is None or image < train:
            train = image
        if image < first_with.setdefault(image.labels, image):
            first_with[image.labels] = image
    leaks: tuple[Leak, ...] = ()
    if train is not None:
        leaks = tuple(Leak(firsts[0], other, train) for other in others)
    contradictions: tuple[Contradiction, ...] = ()
    if len(first_with) > 1:
        # First one image of each set of labels, so that the images that are named show the contradiction.
        named = [first_with[labels] for labels in sorted(first_with)]
        named += [image for image in firsts if image not in named]
        contradictions = (Contradiction(firsts[0], tuple(named[:_MAX_NAMED_IMAGES]), size),)
    return EqualImages(leaks, all_others if leaks else 0, contradictions, len(contradictions))


def merge_equal_images(parts: Iterable[EqualImages]) -> EqualImages:
    """Merges the results of different images, given in any order."""
    leaks: list[Leak] = []
    contradictions: list[Contradiction] = []
    all_leaks = all_contradictions = 0
    for part in parts:
        all_leaks += part.all_leaks
        all_contradictions += part.all_contradictions
        leaks += part.leaks
        contradictions += part.contradictions
        # Sorting now and then is faster than keeping the lists sorted.
        if len(leaks) > 3 * MAX_KEPT_PER_KIND:
            leaks = sorted(leaks)[:MAX_KEPT_PER_KIND]
        if len(contradictions) > 3 * MAX_KEPT_PER_KIND:
            contradictions = sorted(contradictions)[:MAX_KEPT_PER_KIND]
    return EqualImages(
        tuple(sorted(leaks)[:MAX_KEPT_PER_KIND]),
        all_leaks,
        tuple(sorted(contradictions)[:MAX_KEPT_PER_KIND]),
        all_contradictions,
    )


def _keep_first(kept: list[Image], image: Image, limit: int) -> None:
    if len(kept) < limit or image < kept[-1]:
        insort(kept, image)
        del kept[limit:]
