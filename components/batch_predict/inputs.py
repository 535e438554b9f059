"""Lists the images that are to be predicted, in an order that is the same every time."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
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

# Of a folder, files of these names are images, those of the second row with a line that says that they cannot
# be read; a pattern and a list mean what they say.
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    *(".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl"),
)
UNKNOWN = -1


@dataclass(frozen=True)
class InputImage:
    """One image: its key and where it is.

    Attributes:
        key: What its line is known by: the path as it was given, or relative to the folder; of a record its
            file name, or the record's place.
        location: A local path or ``gs://...``; empty if the bytes are here.
        encoded: The bytes, if they came with a record.
        size: Of the file; -1 = not known.
        version: Changes when the file is written; -1 = not known.
    """

    key: str
    location: str
    encoded: bytes | None = None
    size: int = UNKNOWN
    version: int = UNKNOWN


def listed_files(arguments: BatchPredictArguments) -> list[InputImage]:
    """Returns the images of a folder, a pattern or a list, or the TFRecord files, without opening them.

    Raises:
        MissingInputError: if there is nothing of the kind.
        InvalidDataError: if the list cannot be read as CSV, or is empty.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if arguments.records:
        found = [_described(path, path) for path in match_pattern(arguments.records)]
    elif arguments.image_list:
        found = _of_list(arguments.image_list)
    elif any(character in arguments.images for character in "*?["):
        found = [_described(path, path) for path in match_pattern(arguments.images)]
    elif is_cloud_path(arguments.images):
        found = _of_cloud_folder(arguments.images)
    else:
        found = _of_folder(local_path(arguments.images))
    if not found:
        if arguments.image_list:
            raise InvalidDataError(
                "the list names no image", where=arguments.image_list, remedy="write a path on each line"
            )
        given = arguments.images
        raise MissingInputError(
            f"there is no image in {given!r}",
            remedy=f"of a folder, files named {', '.join(_IMAGE_SUFFIXES)} are taken; a pattern takes any",
        )
    return found


def images_of_records(files: list[InputImage]) -> Iterator[InputImage]:
    """Yields the images of TFRecord files, file by file.

    Raises:
        InvalidDataError: at the first damaged record, with its place; if no file has a record.
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
            f"no record in {len(files)} TFRecord file{'s' if len(files) > 1 else ''}",
            where=files[0].location,
            remedy="name the files that convert wrote",
        )


def _described(key: str, location: str) -> InputImage:
    if is_cloud_path(location):
        found = cloud_storage.object_at(location)
        return (
            InputImage(key, location)
            if found is None
            else InputImage(key, location, None, found.size, found.generation)
        )
    try:
        status = os.stat(location)
    except OSError:
        # Its line will say so.
        return InputImage(key, location)
    return InputImage(key, location, None, status.st_size, status.st_mtime_ns)


def _of_list(location: str) -> list[InputImage]:
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
        raise InvalidDataError(f"the list is not CSV: {error}", where=location, remedy="correct it") from None
    paths = [row[0].strip() for row in rows]
    if any(is_cloud_path(joined(folder, path)) for path in paths):
        # Asking for each object's size would take longer than the predictions.
        return [InputImage(path, joined(folder, path)) for path in paths]
    return [_described(path, joined(folder, path)) for path in paths]


def _of_folder(folder: Path) -> list[InputImage]:
    if not folder.is_dir():
        raise MissingInputError(
            f"{str(folder)!r} is not a folder",
            remedy="give a folder of images, or a pattern such as photos/*.jpg",
        )
    found = []
    for current, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if _is_image(name):
                path = os.path.join(current, name)
                found.append(_described(os.path.relpath(path, folder), path))
    return found


def _raise(error: OSError) -> None:
    raise MissingInputError(
        f"cannot read {error.filename!r}: {error.strerror}", remedy="correct its permissions"
    )


def _of_cloud_folder(uri: str) -> list[InputImage]:
    bucket, prefix = cloud_storage.bucket_and_name(uri.rstrip("/") + "/")
    return [
        InputImage(
            found.name.removeprefix(prefix), f"gs://{bucket}/{found.name}", None, found.size, found.generation
        )
        for found in cloud_storage.list_objects(uri.rstrip("/") + "/")
        if _is_image(found.name.rpartition("/")[2])
    ]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_IMAGE_SUFFIXES)
