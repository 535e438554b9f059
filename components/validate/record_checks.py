"""Checks each record by itself: its checksum, its fields and its image."""

import hashlib
import struct
from dataclasses import dataclass, replace

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.records import ImageRecord, decode_example
from imgpipe.components.common.tfrecord import RecordBlock, RecordLocation
from imgpipe.components.images.checking import ImageError, detect_image_format
from imgpipe.components.images.preparation import PreparedImage, prepare_image
from imgpipe.components.validate.findings import ERROR, WARNING, Finding

_MAX_CACHED_IMAGES = 20_000
_BMP_DEPTH_OFFSET = 28
_BMP_DEPTH_AND_COMPRESSION = struct.Struct("<HI")
_BMP_RUN_LENGTHS = (1, 2)


def record_name(shard: str, record_number: int, filename: str = "") -> str:
    """Returns the name of a record in findings."""
    return f"{shard}, record {record_number}" + (f" ({filename})" if filename else "")


@dataclass(frozen=True, slots=True)
class CheckedRecord:
    """What is kept of a record once it was checked.

    Attributes:
        digest: SHA-256 of the image file; empty if the record could not be parsed.
        labels: 1..N where they are valid.
        texts: A name for each label, empty where the record has none.
        filename: May be empty.
        format: Of the image file; empty if it cannot be decoded, as are width and height.
        width: In pixels.
        height: In pixels.
        finding: The problem with the record, if any.
    """

    digest: bytes = b""
    labels: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    filename: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    finding: Finding | None = None


class RecordChecker:
    """Checks records, on any number of threads.

    Args:
        max_image_pixels: An image with more pixels is not decoded.
        multi_label: Whether a record may have several labels or none.
    """

    def __init__(self, max_image_pixels: int, *, multi_label: bool) -> None:
        self._max_image_pixels = max_image_pixels
        self._multi_label = multi_label
        # Repeated images are decoded once. About 200 bytes each: without their file.
        self._valid_images: dict[bytes, PreparedImage] = {}

    def check_block(self, block: RecordBlock, shard: str) -> list[tuple[RecordLocation, CheckedRecord]]:
        """Returns the records of a block, in order."""
        checked = []
        encoded = digest = b""
        for place in block.locations:
            record = self._parse(block, place, shard)
            if isinstance(record, Finding):
                checked.append((place, CheckedRecord(finding=record)))
                continue
            # The convert step writes equal images next to one another, and comparing is faster than hashing.
            if not digest or record.encoded != encoded:
                encoded, digest = record.encoded, hashlib.sha256(record.encoded).digest()
            checked.append(
                (place, self._check(record, digest, record_name(shard, place.number, record.filename)))
            )
        return checked

    def _parse(self, block: RecordBlock, place: RecordLocation, shard: str) -> ImageRecord | Finding:
        try:
            data = block.data(place)
        except InvalidDataError as error:
            return Finding(ERROR, "damaged_record", error.problem, error.where, error.remedy)
        where = record_name(shard, place.number)
        try:
            return decode_example(data, where=where, multi_label=self._multi_label)
        except InvalidDataError as error:
            return Finding(ERROR, "invalid_record", error.problem, where, error.remedy)

    def _check(self, record: ImageRecord, digest: bytes, where: str) -> CheckedRecord:
        labels = record.all_labels
        texts = (record.text,) if record.labels is None else record.texts
        texts = texts if len(texts) == len(labels) else ("",) * len(labels)
        parsed = (digest, labels, texts, record.filename)
        try:
            image = self._prepare(record.encoded, digest)
        except ImageError as error:
            return CheckedRecord(*parsed, finding=_invalid_image(str(error), where))
        image_format = detect_image_format(record.encoded)
        finding = (
            _reencoded(record.encoded, image_format, image.reencoded, where) if image.reencoded else None
        )
        return CheckedRecord(*parsed, image_format, image.width, image.height, finding)

    def _prepare(self, encoded: bytes, digest: bytes) -> PreparedImage:
        image = self._valid_images.get(digest)
        if image is None:
            image = prepare_image(encoded, self._max_image_pixels)
            if not image.reencoded and len(self._valid_images) < _MAX_CACHED_IMAGES:
                self._valid_images[digest] = replace(image, encoded=b"")
        return image


def _invalid_image(reason: str, where: str) -> Finding:
    remedy = "replace the image or remove its row, and convert again"
    if reason.startswith("damaged but decodable"):
        return Finding(
            WARNING, "damaged_image", f"{reason}: training would see it, partly garbled", where, remedy
        )
    return Finding(ERROR, "undecodable_image", f"the image cannot be decoded: {reason}", where, remedy)


def _reencoded(encoded: bytes, image_format: str, reason: str, where: str) -> Finding:
    """Returns the finding for an image that convert would have re-encoded; only other programs store it."""
    remedy = "convert the image files with the convert step, or save the image as a plain JPEG or PNG file"
    if _tensorflow_rejects(encoded, image_format, reason):
        return Finding(
            ERROR, "unsupported_image", f"training cannot decode this image: {reason}", where, remedy
        )
    return Finding(
        WARNING,
        "unusual_image",
        f"training may see this image differently from how a viewer shows it: {reason}",
        where,
        remedy,
    )


def _tensorflow_rejects(encoded: bytes, image_format: str, reason: str) -> bool:
    """Whether TensorFlow cannot decode the file: some valid WebP and BMP files, and other formats."""
    if image_format in ("TIFF", "AVIF", "HEIF"):
        return True
    if image_format == "WebP":
        return "transparency" in reason or "animation" in reason
    if image_format == "BMP":
        bits_per_pixel, compression = _BMP_DEPTH_AND_COMPRESSION.unpack_from(encoded, _BMP_DEPTH_OFFSET)
        return bits_per_pixel < 8 or compression in _BMP_RUN_LENGTHS
    return False
