"""The dataset manifest: a small JSON file that says what the shards beside it hold."""

import dataclasses
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.storage.cloud_storage import is_cloud_path, read_object
from imgpipe.components.storage.files import absolute_location, joined, local_path, written_whole

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
TRAIN = "train"
VALIDATION = "validation"
TEST = "test"


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        path: Relative to the manifest; absolute or ``gs://`` for files that lie elsewhere.
        examples: How many records it has.
        bytes: Its size.
        sha256: Of the whole file, in hexadecimal.
    """

    path: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split, and how many images each label has, in the order of the labels.

    In a multi-label data set an image counts for each of its labels.
    """

    shards: tuple[Shard, ...]
    images_per_label: tuple[int, ...]

    @property
    def examples(self) -> int:
        """The number of images in the split."""
        return sum(shard.examples for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """What a Dataset artifact holds.

    Attributes:
        labels: Names; ``labels[i]`` is label i+1 on disk and class i of the model.
        splits: By name: ``train``, ``validation`` and, if there is one, ``test``.
        made_by: How it was made: a JSON object of counts and settings, without times or host names,
            so that the same inputs give the same manifest. Its key ``source`` describes the input,
            ``reencoded`` lists the images whose bytes had to be changed: path and reason.
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

    def digest(self) -> str:
        """Returns a SHA-256 that is equal for equal images, labels and order, wherever they lie."""
        content: dict[str, Any] = {
            "labels": self.labels,
            "shards": {
                name: [shard.sha256 for shard in split.shards] for name, split in sorted(self.splits.items())
            },
        }
        if self.multi_label:
            content["multi_label"] = True
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def serialize_manifest(manifest: Manifest) -> bytes:
    """Returns the content of ``manifest.json``; equal manifests give equal bytes."""
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    if not manifest.multi_label:
        # As it always was.
        del content["multi_label"]
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    # A file name that is not UTF-8 is a string with lone surrogates: as a backslash and the number it is
    # valid JSON, and reads back as the same string.
    return text.encode("utf-8", "backslashreplace")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, whole or not at all."""
    with written_whole(folder / MANIFEST_NAME) as temporary:
        temporary.write_bytes(serialize_manifest(manifest))


def with_absolute_paths(manifest: Manifest, folder: str) -> Manifest:
    """Returns the manifest for a place of its own: with the locations of the shards, which lie in ``folder``.

    Args:
        manifest: The shards' paths are relative to ``folder``, or absolute.
        folder: A local folder or ``gs://...``.
    """
    root = absolute_location(folder)
    splits = {
        name: dataclasses.replace(
            split,
            shards=tuple(dataclasses.replace(shard, path=joined(root, shard.path)) for shard in split.shards),
        )
        for name, split in manifest.splits.items()
    }
    return dataclasses.replace(manifest, splits=splits)


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json``.

    Raises:
        MissingInputError: if there is none.
        InvalidDataError: if it is of another format version or not of this form.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MissingInputError(
            f"cannot read the dataset manifest {str(path)!r}: {error.strerror}",
            remedy="give the folder that the convert step wrote",
        ) from None
    return parse_manifest(text, where=str(path))


def parse_manifest(text: bytes, *, where: str) -> Manifest:
    """Returns what the content of ``manifest.json`` says.

    Args:
        text: The content.
        where: What errors call it.

    Raises:
        InvalidDataError: if it is of another format version or not of this form.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except ValueError:
        raise InvalidDataError("the dataset manifest is not JSON", where=where, remedy=_AGAIN) from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise InvalidDataError(
            f"the dataset manifest is not of format version {FORMAT_VERSION}", where=where, remedy=_AGAIN
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
            f"the dataset manifest lacks a part: {error}", where=where, remedy=_AGAIN
        ) from None


def read_manifest_at(folder: str) -> Manifest:
    """Reads the manifest in a folder, local or ``gs://``; there shards get whole locations.

    Raises:
        MissingInputError: if there is none.
        InvalidDataError: if it is of another format version or not of this form.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(folder):
        return read_manifest(local_path(folder))
    with tempfile.TemporaryDirectory(prefix="imgpipe-") as copy:
        Path(copy, MANIFEST_NAME).write_bytes(read_object(f"{folder.rstrip('/')}/{MANIFEST_NAME}"))
        return with_absolute_paths(read_manifest(Path(copy)), folder)


def shard_paths(folder: Path, split: Split) -> list[Path]:
    """Returns where the split's shards lie, in order; ``folder`` is where the manifest lies.

    Raises:
        InvalidArgumentError: if a shard lies in Cloud Storage, which this reader does not read.
    """
    for shard in split.shards:
        if is_cloud_path(shard.path):
            raise InvalidArgumentError(
                f"the shard {shard.path!r} lies in Cloud Storage; this step reads local files",
                where=str(folder / MANIFEST_NAME),
                remedy="mount the bucket, or copy the shards, and name the local files",
            )
    return [folder / shard.path for shard in split.shards]


def shard_location(folder: Path, shard: Shard) -> str:
    """Returns where a shard lies, also in Cloud Storage; ``folder`` is where the manifest lies."""
    return joined(str(folder), shard.path)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_AGAIN = "run the convert step again"
