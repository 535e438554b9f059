"""Lists the images to predict, in a reproducible order."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import decode_example
from imgpipe.components.common.tfrecord import read_records
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import (
    absolute_location,
    folder_of,
    joined,
    local_copy,
    local_path,
    match_pattern,
    read_file,
)

# In a folder, only these files are images; a pattern or a list may name any file. The formats of the second
# row cannot be decoded: their lines hold an error.
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    *(".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl"),
)
UNKNOWN = -1


@dataclass(frozen=True)
class InputImage:
    """An image, or a TFRecord file of images.

    Attributes:
        key: Identifies the image in the output: its path as given, or relative to the folder; for a record,
            its file name, or the TFRecord file and the record's number.
        location: A local path or ``gs://...``; empty for a record.
        encoded: The image file of a record.
        size: The file's size in bytes; -1 = unknown.
        version: Changes when the file is written; -1 = unknown.
    """

    key: str
    location: str
    encoded: bytes | None = None
    size: int = UNKNOWN
    version: int = UNKNOWN


def list_inputs(arguments: BatchPredictArguments) -> list[InputImage]:
    """Returns the images of a folder, a pattern or a list, or the TFRecord files, without opening them.

    Raises:
        MissingInputError: if nothing is found.
        InvalidDataError: if the list cannot be read as CSV, or is empty.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if arguments.records:
        found = [_describe(path, path) for path in match_pattern(arguments.records)]
    elif arguments.image_list:
        found = _from_list(arguments.image_list)
    elif any(character in arguments.images for character in "*?["):
        found = [_describe(path, path) for path in match_pattern(arguments.images)]
    elif is_cloud_path(arguments.images):
        found = _from_cloud_folder(arguments.images)
    else:
        found = _from_folder(local_path(arguments.images))
    if not found:
        if arguments.image_list:
            raise InvalidDataError(
                "the list has no images", where=arguments.image_list, remedy="write one path per line"
            )
        raise MissingInputError(
            f"there are no images in {arguments.images!r}",
            remedy=f"in a folder, only {', '.join(_IMAGE_SUFFIXES)} are used; give a pattern for other names",
        )
    return found


def images_in_records(files: list[InputImage]) -> Iterator[InputImage]:
    """Yields the images in TFRecord files, file by file.

    Raises:
        InvalidDataError: at the first damaged record, with its location; or if no file has a record.
        MissingInputError: if a file cannot be read.
    """
    empty = True
    for file in files:
        with local_copy(file.location) as path:
            for number, (_, data) in enumerate(read_records(path, display_name=file.location)):
                where = f"{file.location}, record {number}"
                record = decode_example(data, where=where, label_required=False)
                empty = False
                yield InputImage(record.filename or where, "", record.encoded)
    if empty:
        raise InvalidDataError(
            f"no records in {plural(len(files), 'TFRecord file')}",
            where=files[0].location,
            remedy="give the TFRecord files that the convert step wrote",
        )


def _describe(key: str, location: str) -> InputImage:
    """Returns the image, with its size and version if the file exists; its line holds an error otherwise."""
    if is_cloud_path(location):
        if found := cloud_storage.object_at(location):
            return InputImage(key, location, size=found.size, version=found.generation)
    else:
        with suppress(OSError):
            status = os.stat(location)
            return InputImage(key, location, size=status.st_size, version=status.st_mtime_ns)
    return InputImage(key, location)


def _from_list(location: str) -> list[InputImage]:
    try:
        text = read_file(absolute_location(location)).decode("utf-8-sig")
    except OSError as error:
        raise MissingInputError(
            f"cannot read {location!r}: {error.strerror}", remedy="check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"the list is not UTF-8: {error.reason} at byte {error.start}",
            where=location,
            remedy="save it as UTF-8",
        ) from None
    folder = folder_of(absolute_location(location))
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row and row[0].strip()
        ]
    except csv.Error as error:
        raise InvalidDataError(
            f"the list is not valid CSV: {error}", where=location, remedy="fix the CSV"
        ) from None
    paths = [row[0].strip() for row in rows]
    if any(is_cloud_path(joined(folder, path)) for path in paths):
        # One request per object would take longer than the predictions.
        return [InputImage(path, joined(folder, path)) for path in paths]
    return [_describe(path, joined(folder, path)) for path in paths]


def _from_folder(folder: Path) -> list[InputImage]:
    if not folder.is_dir():
        raise MissingInputError(
            f"{str(folder)!r} is not a folder",
            remedy="give a folder of images, or a pattern such as photos/*.jpg",
        )
    found = []
    for current, folders, names in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if _is_image(name):
                path = os.path.join(current, name)
                found.append(_describe(os.path.relpath(path, folder), path))
    return found


def _raise_unreadable(error: OSError) -> None:
    raise MissingInputError(f"cannot read {error.filename!r}: {error.strerror}", remedy="fix its permissions")


def _from_cloud_folder(uri: str) -> list[InputImage]:
    folder = uri.rstrip("/") + "/"
    bucket, prefix = cloud_storage.bucket_and_name(folder)
    return [
        InputImage(
            found.name.removeprefix(prefix),
            f"gs://{bucket}/{found.name}",
            size=found.size,
            version=found.generation,
        )
        for found in cloud_storage.list_objects(folder)
        if _is_image(found.name.rpartition("/")[2])
    ]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_IMAGE_SUFFIXES)
