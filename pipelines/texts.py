"""Reads text files given on the command line."""

from pathlib import Path

from imgpipe.components.common.errors import InvalidDataError, MissingInputError


def read_text(file: Path) -> str:
    """Returns the content of a UTF-8 file.

    Raises:
        MissingInputError: if it cannot be read.
        InvalidDataError: if it is not UTF-8 text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInputError(
            f"cannot read {str(file)!r}: {error.strerror}", remedy="correct the path"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"{str(file)!r} is not UTF-8 text (byte {error.start + 1})",
            remedy="save the file with the encoding UTF-8",
        ) from None
