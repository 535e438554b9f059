"""The findings about images with equal bytes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.dataset import Manifest, shard_location
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.storage import PARALLEL_DOWNLOADS
from imgpipe.components.validate.equal_images import Contradiction, EqualImages, Image, Leak
from imgpipe.components.validate.findings import WARNING, Finding, FindingList
from imgpipe.components.validate.reading import record_at
from imgpipe.components.validate.record_checks import record_name
from imgpipe.components.validate.shard_reading import label_names

_MAX_WITH_THUMBNAIL = 20
_LEAK = "image_in_two_splits"
_TWO_LABELS = "image_with_two_labels"
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


def add_duplicate_findings(
    findings: FindingList, equal_images: EqualImages, manifest: Manifest, folder: Path
) -> None:
    """Adds a warning for each pair across the splits, and for each image with different labels.

    In a multi-label data set, an image may have several labels, but equal images must have the same ones.
    """
    two_labels = _TWO_LABEL_SETS if manifest.multi_label else _TWO_LABELS
    reader = _MemberReader(manifest, folder)

    def describe(found: tuple[Leak | Contradiction, bool]) -> Finding:
        problem, with_thumbnails = found
        if isinstance(problem, Leak):
            trained, other = (reader.read(image, with_thumbnails) for image in (problem.train, problem.other))
            return _leak(trained, other)
        members = [reader.read(image, with_thumbnails) for image in problem.named]
        return _two_labels(two_labels, members, problem.size)

    # On many threads, because the shards may be remote.
    findings.extend(map_in_order(describe, _in_reading_order(equal_images), PARALLEL_DOWNLOADS))
    findings.count_more(_LEAK, equal_images.all_leaks - len(equal_images.leaks))
    findings.count_more(two_labels, equal_images.all_contradictions - len(equal_images.contradictions))


def _in_reading_order(equal_images: EqualImages) -> Iterator[tuple[Leak | Contradiction, bool]]:
    """Yields the problems, those of equal images together, and whether they have thumbnails."""
    problems: list[tuple[Image, str, Leak | Contradiction]] = [
        *((leak.first, _LEAK, leak) for leak in equal_images.leaks),
        *((contradiction.first, _TWO_LABELS, contradiction) for contradiction in equal_images.contradictions),
    ]
    seen: Counter[str] = Counter()
    for _, kind, problem in sorted(problems):
        yield problem, seen[kind] < _MAX_WITH_THUMBNAIL
        seen[kind] += 1


class _MemberReader:
    """Reads images again, which were only counted so far."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._manifest = manifest
        self._folder = folder
        self._shards = manifest.all_shards()

    def read(self, image: Image, with_thumbnail: bool) -> _Member:
        split, shard = self._shards[image.shard]
        where, location = record_name(shard.path, image.record), shard_location(self._folder, shard)
        record = record_at(location, image.offset, where=where, multi_label=self._manifest.multi_label)
        return _Member(
            split=split,
            label=label_names(record.all_labels, self._manifest.labels),
            filename=record.filename,
            where=where,
            thumbnail_source=thumbnail_source(record.encoded) if with_thumbnail else "",
        )


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
