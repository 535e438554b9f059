"""The dataset manifest: a small JSON file that describes the shards beside it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, must_be_readable
from imgpipe.components.storage import LocalLocation, Location, resolve

MANIFEST_NAME = "manifest.json"
# KFP's cache does not know that files were deleted, and its launcher does not fail if there is nothing to
# download.
CONVERT_AGAIN = (
    "if convert came from the cache of Kubeflow or Vertex AI, its files have been deleted since: set "
    "data_version to a new name, and convert runs again"
)
FORMAT_VERSION = 1
TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        path: Relative to the manifest; absolute or a URI for files in other folders.
        examples: The number of records.
        bytes: The size of the file.
        sha256: Of the whole file, in hexadecimal.
        record_sizes: The sizes of the records, see ``tfrecord.encode_record_sizes``, so that no reader scans
            the file for them.
    """

    path: str
    examples: int
    bytes: int
    sha256: str
    record_sizes: str = ""


@dataclass(frozen=True)
class Split:
    """The shards of one split, and the number of images per label, in the order of the labels.

    In a multi-label data set an image is counted for each of its labels.
    """

    shards: tuple[Shard, ...]
    images_per_label: tuple[int, ...]

    @property
    def examples(self) -> int:
        """The number of images in the split."""
        return sum(shard.examples for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """The content of a Dataset artifact.

    Attributes:
        labels: Names; ``labels[i]`` is label i+1 on disk and class i of the model.
        splits: By name: ``train``, ``validation`` and, optionally, ``test``.
        made_by: How it was made: a JSON object of counts and settings, without times or host names,
            so that the same inputs give the same manifest. Its key ``source`` describes the input,
            ``reencoded`` lists the re-encoded images: path and reason.
        multi_label: Whether an image may have several labels, or none.
    """

    labels: tuple[str, ...]
    splits: dict[str, Split]
    made_by: dict[str, Any]
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return len(self.labels)

    def all_shards(self) -> list[tuple[str, Shard]]:
        """Returns the shards of all splits, in the order of the manifest, each with its split's name."""
        return [(name, shard) for name, split in self.splits.items() for shard in split.shards]

    def digest(self) -> str:
        """Returns a SHA-256 that depends on the images, the labels and the order, not on locations."""
        content: dict[str, Any] = {
            "labels": self.labels,
            "shards": {
                name: [shard.sha256 for shard in split.shards] for name, split in sorted(self.splits.items())
            },
        }
        if self.multi_label:
            content["multi_label"] = True
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def in_usual_order(by_split: Mapping[str, _Value]) -> dict[str, _Value]:
    """Returns the values by split for people: train, validation and test; the file has them by name."""
    return {name: by_split[name] for name in (TRAIN, VALIDATION, TEST) if name in by_split}


def serialize_manifest(manifest: Manifest) -> bytes:
    """Returns the content of ``manifest.json``; equal manifests give equal bytes."""
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    if not manifest.multi_label:
        # Omitted, so that manifests are the same as those of versions without multi_label.
        del content["multi_label"]
    for split in content["splits"].values():
        for shard in split["shards"]:
            if not shard["record_sizes"]:
                del shard["record_sizes"]
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    # A file name that is not UTF-8 contains lone surrogates. Escaped with a backslash they are valid JSON,
    # which is parsed to the same string.
    return text.encode("utf-8", "backslashreplace")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` atomically."""
    (LocalLocation(str(folder)) / MANIFEST_NAME).write(serialize_manifest(manifest))


def with_paths(manifest: Manifest, path_of: Callable[[Shard], str]) -> Manifest:
    """Returns the manifest with other paths of its shards."""
    splits = {}
    for name, split in manifest.splits.items():
        shards = tuple(dataclasses.replace(shard, path=path_of(shard)) for shard in split.shards)
        splits[name] = dataclasses.replace(split, shards=shards)
    return dataclasses.replace(manifest, splits=splits)


def with_absolute_paths(manifest: Manifest, folder: Location) -> Manifest:
    """Returns the manifest with the absolute locations of the shards, so that it can be stored elsewhere.

    Args:
        manifest: With shard paths relative to ``folder``, or absolute.
        folder: The shards' folder.
    """
    root = folder.absolute()
    return with_paths(manifest, lambda shard: str(resolve(root, shard.path)))


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json`` in a local folder; see ``read_manifest_at``."""
    return read_manifest_at(LocalLocation(str(folder)))


def read_manifest_at(folder: Location) -> Manifest:
    """Reads ``manifest.json``.

    Raises:
        MissingInputError: if it is missing.
        InvalidDataError: if it has another format version or is malformed.
        InterruptedRunError: if a remote store cannot be reached.
    """
    location = folder / MANIFEST_NAME
    remedy = f"use the folder that the convert step wrote, with its {MANIFEST_NAME}; {CONVERT_AGAIN}"
    with must_be_readable(f"the dataset manifest {location!r}", remedy=remedy):
        return parse_manifest(location.read(), where=str(location))


def parse_manifest(text: bytes, *, where: str) -> Manifest:
    """Parses the content of ``manifest.json``.

    Args:
        text: The content.
        where: Its location, for error messages.

    Raises:
        InvalidDataError: if it has another format version or is malformed.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except ValueError:
        raise InvalidDataError("the dataset manifest is not JSON", where=where, remedy=_REMEDY) from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise InvalidDataError(
            f"the dataset manifest does not have format version {FORMAT_VERSION}",
            where=where,
            remedy=_REMEDY,
        )
    try:
        return Manifest(
            labels=tuple(content["labels"]),
            splits={
                name: Split(
                    shards=tuple(Shard(**shard) for shard in split["shards"]),
                    images_per_label=tuple(split["images_per_label"]),
                )
                for name, split in content["splits"].items()
            },
            made_by=content["made_by"],
            multi_label=bool(content.get("multi_label", False)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidDataError(
            f"the dataset manifest is malformed: {error!r}", where=where, remedy=_REMEDY
        ) from None


def shard_paths(folder: Path, split: Split) -> list[Path]:
    """Returns the paths of the split's shards, in order; ``folder`` is the manifest's folder.

    Raises:
        InvalidArgumentError: if a shard is not a local file.
    """
    locations = [shard_location(folder, shard) for shard in split.shards]
    for location in locations:
        if not location.is_local:
            raise InvalidArgumentError(
                f"the shard {location!r} is not a local file, and this step reads only those",
                where=str(folder / MANIFEST_NAME),
                remedy="mount the bucket or copy the shards, and give the local paths",
            )
    return [Path(str(location)) for location in locations]


def shard_location(folder: Path, shard: Shard) -> Location:
    """Returns the location of a shard; ``folder`` is the manifest's folder."""
    return resolve(LocalLocation(str(folder)), shard.path)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REMEDY = "run the convert step again"
