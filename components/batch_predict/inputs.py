"""Lists the images to predict, in a reproducible order."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import decode_example
from imgpipe.components.common.tfrecord import read_records
from imgpipe.components.storage import FileStatus, Location, find_files, parse_location, resolve

# In a folder, only these files are images; a pattern or a list may name any file. The formats of the second
# row cannot be decoded: their lines hold an error.
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    *(".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl"),
)


@dataclass(frozen=True)
class InputImage:
    """An image, or a TFRecord file of images.

    Attributes:
        key: Identifies the image in the output: its path as given, or relative to the folder; for a record,
            its file name, or the TFRecord file and the record's number.
        location: Of the file; None for a record, or an invalid path.
        encoded: The image file of a record.
        problem: What is wrong with an invalid path.
        status: Of the file; None = unknown, or there is none: its line then holds an error.
    """

    key: str
    location: Location | None
    encoded: bytes | None = None
    problem: str = ""
    status: FileStatus | None = None


def list_inputs(arguments: BatchPredictArguments) -> list[InputImage]:
    """Returns the images of a folder, a pattern or a list, or the TFRecord files, without opening them.

    Raises:
        MissingInputError: if nothing is found.
        InvalidDataError: if the list cannot be read as CSV, or is empty.
        InterruptedRunError: if a remote store cannot be reached.
    """
    if arguments.records:
        found = _from_pattern(arguments.records)
    elif arguments.image_list:
        found = _from_list(arguments.image_list)
    elif (images := parse_location(arguments.images)).has_wildcard:
        found = _from_pattern(arguments.images)
    else:
        found = _from_folder(images)
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
        assert file.location is not None  # noqa: S101 - of a file that was found
        with file.location.local_copy() as path:
            for number, (_, data) in enumerate(read_records(path, display_name=str(file.location))):
                where = f"{file.location}, record {number}"
                record = decode_example(data, where=where, label_required=False)
                empty = False
                yield InputImage(record.filename or where, None, record.encoded)
    if empty:
        raise InvalidDataError(
            f"no records in {plural(len(files), 'TFRecord file')}",
            where=str(files[0].location),
            remedy="use the TFRecord files that the convert step wrote",
        )


def _from_pattern(pattern: str) -> list[InputImage]:
    return [InputImage(str(file), file, status=status) for file, status in find_files(pattern).items()]


def _from_list(location: str) -> list[InputImage]:
    list_file = parse_location(location).absolute()
    try:
        text = list_file.read().decode("utf-8-sig")
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
    paths = _paths_in_json(text, location) if text.lstrip().startswith("{") else _paths_in_csv(text, location)
    images = [_from_row(path, list_file.parent) for path in paths]
    if any(image.location is not None and not image.location.is_local for image in images):
        # One request per object would take longer than the predictions.
        return images
    return [_with_status(image) for image in images]


def _paths_in_csv(text: str, location: str) -> list[str]:
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row and row[0].strip()
        ]
    except csv.Error as error:
        raise InvalidDataError(
            f"the list is not valid CSV: {error}", where=location, remedy="fix the CSV"
        ) from None
    if rows and all(len(row) == 1 and ";" in row[0] for row in rows):
        raise InvalidDataError(
            "the list has columns separated by semicolons",
            where=location,
            remedy="save it as CSV with commas, with the image paths in the first column",
        )
    return [row[0].strip() for row in rows]


def _paths_in_json(text: str, location: str) -> list[str]:
    """Returns the paths in JSON Lines, the format of Vertex AI: {"content": PATH, "mimeType": ...}."""
    paths = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            path = json.loads(line)["content"]
        except (ValueError, LookupError, TypeError):
            path = None
        if not isinstance(path, str):
            raise InvalidDataError(
                'a line of the list is not a JSON object with "content", the path of an image',
                where=f"{location}, line {number}",
                remedy='write {"content": "PATH"} in each line, or a CSV file with a path in each line',
            )
        paths.append(path)
    return paths


def _from_row(path: str, folder: Location) -> InputImage:
    try:
        return InputImage(path, resolve(folder, path))
    except InvalidArgumentError as error:
        return InputImage(path, None, problem=error.problem)


def _with_status(image: InputImage) -> InputImage:
    if image.location is not None:
        with suppress(OSError):
            return replace(image, status=image.location.status())
    return image


def _from_folder(folder: Location) -> list[InputImage]:
    if folder.is_local and not folder.is_folder():
        raise MissingInputError(
            f"{folder!r} is not a folder",
            remedy="use a folder of images, or a pattern such as photos/*.jpg",
        )
    try:
        return [
            InputImage(name, folder / name, status=status)
            for name, status in folder.list_files(skip_hidden=True)
            if name.lower().endswith(_IMAGE_SUFFIXES)
        ]
    except OSError as error:
        raise MissingInputError(
            f"cannot read {error.filename!r}: {error.strerror}", remedy="fix its permissions"
        ) from None
