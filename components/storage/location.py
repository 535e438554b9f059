"""The interface that every store implements: files and folders by location."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from imgpipe.components.common.errors import MissingInputError

# Downloads that run in parallel: each waits for the network, not for the processor.
PARALLEL_DOWNLOADS = 32
_NAMES_SHOWN = 10
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What a store knows of a file without reading it.

    Attributes:
        size: In bytes.
        version: Increases when the file is written; see ``Location.written_ns``.
        checksum: CRC-32C of the content; -1 if the store does not keep one.
    """

    size: int
    version: int
    checksum: int = -1


class Location(ABC):
    """A file, a folder or a pattern of files in one store.

    Locations are immutable and hashable. ``str()`` gives the path or URI; ``repr()`` quotes it, for error
    messages. Whatever is written appears complete or not at all.

    Failing operations raise:
        OSError: for a local file, as the operating system reports it.
        MissingInputError, OutputError: if a remote store does not have it or denies access.
        InterruptedRunError: if a remote store cannot be reached.
    """

    __slots__ = ()

    is_local: ClassVar[bool] = False

    @abstractmethod
    def __str__(self) -> str: ...

    def __repr__(self) -> str:
        return repr(str(self))

    @property
    @abstractmethod
    def name(self) -> str:
        """The last component of the path."""

    @property
    @abstractmethod
    def parent(self) -> "Location":
        """The folder that contains this file or folder."""

    @abstractmethod
    def __truediv__(self, name: str) -> "Location":
        """Returns the location of a file below this folder; ``name`` may contain ``/``."""

    @abstractmethod
    def absolute(self) -> "Location":
        """Returns the location that means the same in every working directory."""

    @abstractmethod
    def resolve_links(self) -> "Location":
        """Returns the absolute location with symbolic links resolved."""

    # ------------------------------------------------------------ files

    @abstractmethod
    def status(self) -> FileStatus | None:
        """Returns what is known of the file; None if there is no such file."""

    def written_ns(self, version: int) -> int:
        """Returns when a version of the file was written, in nanoseconds since 1970."""
        return version

    @abstractmethod
    def read(self) -> bytes:
        """Returns the file's content."""

    @abstractmethod
    def read_range(self, begin: int, length: int) -> bytes:
        """Returns part of the file's content, which is shorter at the end of the file."""

    @abstractmethod
    def local_copy(self) -> AbstractContextManager[Path]:
        """Yields a local file with the content: the file itself, or a copy that is removed afterwards."""

    @abstractmethod
    def link_or_download(self, path: Path) -> None:
        """Makes the content available at ``path``: a link to a local file, a copy of a remote one."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Writes the file."""

    @abstractmethod
    def upload(self, path: Path) -> None:
        """Writes the file with the content of a local file."""

    @abstractmethod
    def move_from(self, path: Path) -> None:
        """Moves a local file, made in this folder's ``staging()``, to this location."""

    @abstractmethod
    def rename(self, target: "Location") -> None:
        """Moves the file to another location in the same store."""

    @abstractmethod
    def remove(self) -> None:
        """Removes the file, if it exists."""

    # ------------------------------------------------------------ folders

    @abstractmethod
    def is_folder(self) -> bool:
        """Returns whether there is a folder here; in a bucket, whether there are files below."""

    @abstractmethod
    def list_files(self, *, skip_hidden: bool = False) -> Iterator[tuple[str, FileStatus | None]]:
        """Yields name and status of the files below the folder, links followed; None: it cannot be read.

        Args:
            skip_hidden: Skips files and folders whose names begin with a dot.
        """

    @abstractmethod
    def contents(self) -> dict[str, int]:
        """Returns names and sizes of the files below the folder; empty subfolders as ``name/``, size 0."""

    @abstractmethod
    def children(self, limit: int | None = None) -> list[str]:
        """Returns the names directly in the folder, sorted, subfolders with a ``/``; at most ``limit``."""

    @abstractmethod
    def download_folder(self, path: Path, *, ignore: re.Pattern[str] | None = None) -> None:
        """Copies the folder to a local one, without its children whose names match ``ignore``."""

    @abstractmethod
    def publish_folder(
        self, source: Path, *, keep: re.Pattern[str] | None = None, first: str = "", last: str = ""
    ) -> None:
        """Replaces the folder with a copy of a local one, which is complete before it appears.

        A store that cannot rename folders replaces file by file.

        Args:
            source: The folder to copy.
            keep: Subfolders of the existing folder whose names match stay.
            first: The file that is written first and removed last, where files are replaced one by one.
            last: The file that is written last and removed first.
        """

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yields a local folder for files that ``move_from`` then moves into this folder."""

    @abstractmethod
    def remove_empty_folder(self) -> None:
        """Removes the folder if it is there and empty."""

    @abstractmethod
    def check_writable(self) -> None:
        """Proves that a file can be written to the folder, before work that would be lost.

        Raises:
            OutputError: if not.
            InterruptedRunError: if the store cannot be reached.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Excludes other processes that lock the same folder, where the store has locks.

        Raises:
            OutputError: if another process holds the lock.
        """

    # ------------------------------------------------------------ patterns

    @property
    def has_wildcard(self) -> bool:
        """Whether the location contains ``*``, ``?`` or ``[``."""
        return _WILDCARD.search(str(self)) is not None

    @property
    def pattern_root(self) -> "Location":
        """The deepest folder above the first wildcard."""
        folder = self.parent
        while folder.has_wildcard:
            folder = folder.parent
        return folder

    @abstractmethod
    def glob(self) -> Iterator[tuple["Location", FileStatus]]:
        """Yields the files that match this pattern.

        ``*`` and ``?`` do not match ``/``; ``[1-9]`` is a set of characters; a name that begins with a dot
        is matched only by a pattern that does.
        """

    @abstractmethod
    def no_match_error(self) -> MissingInputError:
        """Returns the error of a pattern that matches no file, with the files found instead."""


def describe_folder(folder: Location) -> str:
    """Returns what a folder contains, for an error message."""
    # Listing a whole bucket for a message could take minutes.
    names = folder.children(None if folder.is_local else _NAMES_SHOWN + 1)
    shown = str(folder) if folder.is_local else f"{folder}/"
    if not names:
        return f"{shown!r} is empty"
    others = len(names) - _NAMES_SHOWN
    more = "" if others <= 0 else f" and {others} more" if folder.is_local else " and more"
    return f"{shown!r} holds: {', '.join(names[:_NAMES_SHOWN])}{more}"
