"""Reads every image once and keeps what the audit needs of it: about 5 KB."""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from imgpipe.components.common.dataset import Manifest, in_usual_order
from imgpipe.components.common.dataset_reader import locate_record, read_split
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.common.records import ImageRecord, label_to_class
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.images.perceptual_hash import HASH_WORDS, perceptual_hash

# Images are judged at about the size at which a network sees them.
_JUDGED_SIDE = 224
# Of the thumbnails that are compared.
THUMBNAIL_SIDE = 64
_MAKE_TAG, _MODEL_TAG, _SOFTWARE_TAG = 271, 272, 305
_HASH_BYTES = HASH_WORDS * 8
_PACKED_BYTES = _HASH_BYTES + 3 + THUMBNAIL_SIDE**2


@dataclass(frozen=True)
class ImageFacts:
    """What one image file is like.

    Attributes:
        path: The image's path in its row; the record's place if the data set does not have it.
        split: Its split.
        index: Its number in the split.
        classes: The classes of its labels, 0..N-1.
        digest: A hash of its content.
        pixels: Its number of pixels.
        traits: Properties of the file that should say nothing about its label.
        brightness: Mean and 95th percentile, 0..255.
        contrast: The standard deviation of the brightness, 0..255.
        sharpness: Detail of single pixels, as a part of the detail at twice their size; NaN without detail.
    """

    path: str
    split: str
    index: int
    classes: tuple[int, ...]
    digest: bytes
    pixels: int
    traits: Mapping[str, str]
    brightness: tuple[float, float]
    contrast: float
    sharpness: float


@dataclass(frozen=True)
class Inspection:
    """All images of a data set, in the order of its splits.

    Attributes:
        labels: The names of the classes.
        images: One for each image.
        hashes: uint8 [images, 32], perceptual hashes; 0 = the image has none.
        colors: uint8 [images, 3], mean colors.
        thumbnails: uint8 [images, 64, 64], brightness, stretched to a square.
    """

    labels: tuple[str, ...]
    images: tuple[ImageFacts, ...]
    hashes: NDArray[np.uint8]
    colors: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]

    @property
    def splits(self) -> NDArray[np.str_]:
        """The split of each image."""
        return np.array([image.split for image in self.images], str)

    def label_of(self, number: int) -> str:
        """Returns the names of an image's labels."""
        return ", ".join(self.labels[index] for index in self.images[number].classes)


def inspect_images(manifest: Manifest, folder: Path, max_pixels: int) -> Inspection:
    """Reads all images of a data set.

    Args:
        manifest: The data set's manifest.
        folder: The folder of the manifest.
        max_pixels: Images with more are not decoded.

    Raises:
        InvalidDataError: if a record is damaged.
    """
    reencoded = {
        str(entry.get("path")): str(entry.get("reason")) for entry in manifest.made_by.get("reencoded") or ()
    }
    progress = Progress(
        "audit", sum(split.examples for split in manifest.splits.values()), "images inspected"
    )
    images: list[ImageFacts] = []
    arrays = []

    def inspect_all(
        part: list[tuple[str, int, ImageRecord]],
    ) -> list[tuple[ImageFacts, NDArray[np.uint8]]]:
        return [_inspect(*item, reencoded, max_pixels) for item in part]

    parts = group_items(_records(manifest, folder), lambda item: len(item[2].encoded))
    for part in map_in_order(inspect_all, parts, usable_threads()):
        images += [facts for facts, _ in part]
        arrays.append(np.stack([array for _, array in part]))
        progress.update(len(images))
    packed = np.concatenate(arrays) if arrays else np.zeros((0, _PACKED_BYTES), np.uint8)
    for number, image in enumerate(images):
        if not image.path:
            where = locate_record(folder, manifest.splits[image.split], image.index)
            images[number] = dataclasses.replace(image, path=where)
    return Inspection(
        manifest.labels,
        tuple(images),
        packed[:, :_HASH_BYTES],
        packed[:, _HASH_BYTES : _HASH_BYTES + 3],
        packed[:, _HASH_BYTES + 3 :].reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE),
    )


def _records(manifest: Manifest, folder: Path) -> Iterator[tuple[str, int, ImageRecord]]:
    for name, split in in_usual_order(manifest.splits).items():
        for index, record in enumerate(read_split(folder, split, multi_label=manifest.multi_label)):
            yield name, index, record


def _inspect(
    split: str, index: int, record: ImageRecord, reencoded: Mapping[str, str], max_pixels: int
) -> tuple[ImageFacts, NDArray[np.uint8]]:
    gray = _gray_image(record.encoded, max_pixels)
    hashed = perceptual_hash(record.encoded, max_pixels)
    array = np.zeros(_PACKED_BYTES, np.uint8)
    if hashed is not None:
        array[:_HASH_BYTES] = hashed[0].view(np.uint8)
        array[_HASH_BYTES : _HASH_BYTES + 3] = hashed[1]
    brightness, contrast, sharpness = (255.0, 255.0), 255.0, float("nan")
    if gray is not None:
        side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        array[_HASH_BYTES + 3 :] = np.asarray(gray.resize(side, Image.Resampling.BOX)).ravel()
        scale = _JUDGED_SIDE / min(gray.size)
        if scale < 1:
            size = (round(gray.width * scale), round(gray.height * scale))
            gray = gray.resize(size, Image.Resampling.BOX)
        pixels = np.asarray(gray, np.float32)
        brightness = float(pixels.mean()), float(np.quantile(pixels[::4, ::4], 0.95))
        contrast, sharpness = float(pixels.std()), _sharpness(pixels)
    traits = file_traits(record, reencoded.get(record.filename, ""))
    facts = ImageFacts(
        path=record.filename,
        split=split,
        index=index,
        classes=tuple(map(label_to_class, record.all_labels)),
        digest=hashlib.blake2b(record.encoded, digest_size=16).digest(),
        pixels=record.width * record.height,
        traits=traits,
        brightness=brightness,
        contrast=contrast,
        sharpness=sharpness,
    )
    return facts, array


def _gray_image(encoded: bytes, max_pixels: int) -> Image.Image | None:
    """Returns the brightness of an image, decoded at about 224 pixels; None if it cannot be decoded."""
    try:
        if encoded.startswith(b"\xff\xd8"):
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded, strict=False)
            if height * width <= max_pixels:
                side = _JUDGED_SIDE
                pixels = simplejpeg.decode_jpeg(
                    encoded, "GRAY", min_height=side, min_width=side, strict=False
                )
                return Image.fromarray(pixels[..., 0])
        with Image.open(io.BytesIO(encoded)) as image:
            return image.convert("L") if image.width * image.height <= max_pixels else None
    except Exception:  # Pillow raises about a dozen classes; the validate step reports such images.
        return None


def _sharpness(pixels: NDArray[np.float32]) -> float:
    """Returns the detail in squares of 2 pixels, as a part of the detail in squares of 4.

    Natural images have about as much detail at each scale, however dark or smooth they are. Blur removes the
    finest.
    """
    height, width = (length // 4 * 4 for length in pixels.shape)
    squares = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2)
    means = squares.mean(axis=(1, 3))
    fine = float(np.square(squares - means[:, None, :, None]).mean())
    larger = means.reshape(height // 4, 2, width // 4, 2)
    coarse = float(np.square(larger - larger.mean(axis=(1, 3))[:, None, :, None]).mean())
    return fine / coarse if coarse else float("nan")


def file_traits(record: ImageRecord, reencoded: str = "") -> dict[str, str]:
    """Returns the properties of an image file that should say nothing about its label.

    Args:
        record: The image.
        reencoded: Why the conversion changed the file; empty if it did not.
    """
    traits = {
        "file extension": Path(record.filename).suffix.lower(),
        "re-encoded because": reencoded,
    }
    try:
        with Image.open(io.BytesIO(record.encoded)) as image:
            traits["format"] = f"{image.format} {image.mode}"
            traits["size in pixels"] = f"{image.width} x {image.height}"
            traits["longer side"] = str(max(image.size))
            traits["shape"] = _shape(image.width / image.height)
            quantization = getattr(image, "quantization", None)
            if quantization:
                traits["JPEG quality"] = str(sum(map(sum, quantization.values())))
            exif = image.getexif()
            traits["EXIF"] = "yes" if exif else "no"
            traits["camera"] = " ".join(str(exif[tag]) for tag in (_MAKE_TAG, _MODEL_TAG) if tag in exif)
            traits["software"] = str(exif.get(_SOFTWARE_TAG, ""))
    except Exception:  # As in _gray_image.
        return traits
    return traits


def _shape(ratio: float) -> str:
    return "square" if 0.98 < ratio < 1.02 else "wide" if ratio > 1 else "tall"
