"""Finds images that show nothing: placeholders, blank, dark and blurred images."""

from collections.abc import Iterator

import numpy as np

from imgpipe.components.audit.findings import BLANK, BLURRED, DARK, PLACEHOLDER, Finding
from imgpipe.components.audit.inspection import Inspection
from imgpipe.components.convert.decisions import DROP
from imgpipe.components.convert.near_duplicates import group_hashes

# The standard deviation of the brightness, 0..255; the perceptual hash has the same limit.
_BLANK_CONTRAST = 6.0
# The brightest twentieth of a dark image, 0..255.
_DARK_BRIGHTNESS = 60.0
# Of ``ImageFacts.sharpness``: 0.35 or more in 99% of photos of 224 pixels, at most 0.27 after a Gaussian blur
# of 2 pixels, and 0.2 if there is no detail at all.
_BLURRED_SHARPNESS, _NO_SHARPNESS = 0.275, 0.2
# So many equal images with different names are not photos.
_PLACEHOLDER_IMAGES = 5
# Of 255 bits of the hash.
_EQUAL_BITS = 8


def find_useless_images(inspection: Inspection) -> Iterator[Finding]:
    """Yields at most one finding for each image."""
    placeholders = _placeholders(inspection)
    for number, image in enumerate(inspection.images):
        if number in placeholders:
            yield Finding(PLACEHOLDER, number, 1 - 1 / placeholders[number], DROP)
        elif image.contrast < _BLANK_CONTRAST:
            yield Finding(BLANK, number, 1 - image.contrast / _BLANK_CONTRAST, DROP)
        elif image.brightness[1] < _DARK_BRIGHTNESS:
            yield Finding(DARK, number, 1 - image.brightness[1] / _DARK_BRIGHTNESS)
        elif image.sharpness < _BLURRED_SHARPNESS:
            blur = (_BLURRED_SHARPNESS - image.sharpness) / (_BLURRED_SHARPNESS - _NO_SHARPNESS)
            yield Finding(BLURRED, number, min(blur, 1.0))


def _placeholders(inspection: Inspection) -> dict[int, int]:
    """Returns the number of equal images by image, where there are many.

    Images are equal if their files are, or almost all bits of their hashes: another program may have saved
    them. One row that is repeated to balance classes is one.
    """
    hashed = np.flatnonzero(inspection.hashes.any(axis=1))
    similar = group_hashes(inspection.hashes[hashed], inspection.colors[hashed], _EQUAL_BITS)
    found: dict[int, int] = {}
    for numbers, keys in (
        (range(len(inspection.images)), [image.digest for image in inspection.images]),
        (hashed.tolist(), similar.tolist()),
    ):
        members: dict[bytes | int, list[int]] = {}
        for number, key in zip(numbers, keys, strict=True):
            members.setdefault(key, []).append(number)
        for group in members.values():
            paths = {inspection.images[number].path for number in group}
            if len(paths) >= _PLACEHOLDER_IMAGES:
                found |= dict.fromkeys(group, len(paths))
    return found
