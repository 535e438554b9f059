"""Which files are images, by their names."""

import os

# Files of unsupported formats become rows too and are rejected with the reason: if they were ignored, a label
# with only HEIC files from a phone would be missing.
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jif",
        ".png",
        ".gif",
        ".bmp",
        ".dib",
        ".webp",
        ".heic",
        ".heif",
        ".avif",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".jxl",
        ".psd",
        ".svg",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
    ]
)


def has_image_suffix(path: str) -> bool:
    """Whether a path has the extension of an image file."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
