"""The syntax of container image names."""

import re

from imgpipe.components.common.errors import InvalidArgumentError

# A host, optionally with a port, and lower-case path components.
HOST = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?|[A-Za-z0-9-]+:\d+|localhost)"
PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{HOST}/)?{PART}(?:/{PART})*(?::[\w][\w.-]{{0,127}})?(?:@sha256:[0-9a-f]+)?", re.ASCII
)


def check_image(image: str, *, name: str, where: str = "") -> None:
    """Rejects an invalid image name.

    Args:
        image: The full name.
        name: The flag or field with the image name, e.g. ``--master-image-uri``.
        where: The file with the field.

    Raises:
        InvalidArgumentError: if the name is invalid.
    """
    if image and not _IMAGE.fullmatch(image):
        raise InvalidArgumentError(
            f"{name}={image!r} is not a valid image name",
            where=where,
            remedy="write HOST/REPOSITORY/NAME:TAG or ...@sha256:DIGEST without https://, in lower case up "
            "to the tag",
        )
