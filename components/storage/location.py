"""The interface of all stores."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from imgpipe.components.common.errors import MissingInputError

# Downloads in parallel: they wait for the network, not for the processor.
PARALLEL_DOWNLOADS = 32
# Is called with the content of a file, in order, e.g. the update of a hash.
Observer = Callable[[bytes], object]
_MAX_NAMES = 10
WILDCARD = re.compile(r"[*?\[]")
# Folders that systems create beside a user's files; some have thumbnails of every image.
_SYSTEM_FOLDERS = frozenset(
    ["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not the user's: it begins with a dot, or a system made it."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def ignore_content(content: bytes) -> None:
    """Does nothing."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What a store returns about a file without reading it.

    Attributes:
        size: The size in bytes.
        version: Increases when the file is written; see ``Location.written_ns``.
        checksum: 32 bits that equal contents share in one store; -1 if the store does not provide them.
            Cloud Storage's are the CRC-32C.
    """

    size: int
    version: int
    checksum: int = -1


class Location(ABC):
    """A file, a folder or a pattern of files in one store.

    Locations are immutable and hashable. ``str()`` returns the path or URI; ``repr()`` quotes it, for error
    messages. All writes are atomic.

    Failing operations raise:
        OSError: for local files.
        MissingInputError, OutputError: if a remote store has no such object, or denies access.
        InterruptedRunError: if a remote store cannot be reached.
    """

    __slots__ = ()

    is_local: ClassVar[bool] = False
    # Times of writing are rounded down to a multiple of this.
    time_step_ns: ClassVar[int] = 1

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
        """Returns the absolute location."""

    @abstractmethod
    def resolve_links(self) -> "Location":
        """Returns the absolute location with symbolic links resolved."""

    # ------------------------------------------------------------ files

    @abstractmethod
    def status(self) -> FileStatus | None:
        """Returns the status of the file; None if it does not exist."""

    def written_ns(self, version: int) -> int:
        """Returns the time when a version of the file was written, in nanoseconds since 1970."""
        return version

    @abstractmethod
    def read(self) -> bytes:
        """Returns the file's content."""

    @abstractmethod
    def read_range(self, begin: int, length: int) -> bytes:
        """Returns a part of the file's content, which may be shorter at the end of the file."""

    @abstractmethod
    def local_copy(self) -> AbstractContextManager[Path]:
        """Yields a local file with the content: the file itself, or a copy that is removed afterwards."""

    @abstractmethod
    def link_or_download(self, path: Path, observe: Observer = ignore_content) -> None:
        """Creates ``path``: a link to a local file, or a copy of a remote one.

        Args:
            path: The new file.
            observe: Called with the content, in order, while a copy is made.
        """

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Writes the file."""

    @abstractmethod
    def upload(self, path: Path) -> None:
        """Copies a local file to this location."""

    @abstractmethod
    def move_from(self, path: Path) -> None:
        """Moves a local file here; it must be in ``staging()`` of this location's folder."""

    @abstractmethod
    def rename(self, target: "Location") -> None:
        """Moves the file to another location in the same store."""

    @abstractmethod
    def copy_to(self, target: "Location") -> None:
        """Copies the file to another location in the same store, without downloading it."""

    @abstractmethod
    def remove(self) -> None:
        """Removes the file, if it exists."""

    # ------------------------------------------------------------ folders

    @abstractmethod
    def is_folder(self) -> bool:
        """Whether this is a folder; in a bucket, whether there are objects below."""

    @abstractmethod
    def list_files(self, *, skip_hidden: bool = False) -> Iterator[tuple[str, FileStatus | None]]:
        """Yields relative path and status of all files below the folder; None if a file cannot be read.

        Symbolic links are followed.

        Args:
            skip_hidden: Skips files and folders for which ``is_hidden`` holds.
        """

    @abstractmethod
    def contents(self) -> dict[str, int]:
        """Returns the sizes of all files below the folder by relative path; empty subfolders as ``name/``."""

    @abstractmethod
    def children(self, limit: int | None = None) -> list[str]:
        """Returns the sorted names in the folder, subfolders with a trailing ``/``; at most ``limit``."""

    @abstractmethod
    def download_folder(self, path: Path, *, ignore: re.Pattern[str] | None = None) -> None:
        """Copies the folder to a local one, without the children that match ``ignore``."""

    @abstractmethod
    def publish_folder(
        self, source: Path, *, keep: re.Pattern[str] | None = None, first: str = "", last: str = ""
    ) -> None:
        """Replaces the folder with a copy of a local one.

        The copy is complete before anything is replaced. Readers that use ``read_unchanged`` find the old or
        the new folder at any moment, also if this process is killed. Object stores cannot rename folders:
        there, the objects are replaced one by one, and other readers find no object ``last`` meanwhile.

        Args:
            source: The folder to copy.
            keep: Keeps the subfolders of the existing folder that match.
            first: The object that is written first.
            last: The object that is removed first and written last.
        """

    @abstractmethod
    def staging(self) -> AbstractContextManager[Path]:
        """Yields a local folder for files that ``move_from`` will move to this folder."""

    @abstractmethod
    def remove_folder(self) -> None:
        """Removes the folder with all its files, if it exists."""

    @abstractmethod
    def remove_empty_folder(self) -> None:
        """Removes the folder, if it exists and is empty."""

    @abstractmethod
    def check_writable(self) -> None:
        """Checks that files can be written to the folder, by writing one; creates a local folder.

        Raises:
            OutputError: if not.
            InterruptedRunError: if the store cannot be reached.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Locks the folder against other processes, if the store has locks.

        Raises:
            OutputError: if another process holds the lock.
        """

    # ------------------------------------------------------------ patterns

    @property
    def has_wildcard(self) -> bool:
        """Whether the location contains ``*``, ``?`` or ``[``."""
        return WILDCARD.search(str(self)) is not None

    @property
    def pattern_root(self) -> "Location":
        """The deepest folder above the first wildcard."""
        folder = self.parent
        while folder.has_wildcard:
            folder = folder.parent
        return folder

    @abstractmethod
    def glob(self) -> Iterator[tuple["Location", FileStatus]]:
        """Yields the files that match this pattern, or only the file with exactly this name.

        ``*`` and ``?`` do not match ``/``; ``**/`` matches any number of folders; ``[1-9]`` is a set of
        characters; names that start with a dot are matched only by patterns that do.
        """

    @abstractmethod
    def no_match_error(self) -> MissingInputError:
        """Returns the error for a pattern that matches no file, with the files found instead."""


def describe_folder(folder: Location) -> str:
    """Returns the content of a folder, for an error message."""
    # Listing a whole bucket for a message could take minutes.
    names = folder.children(None if folder.is_local else _MAX_NAMES + 1)
    shown = str(folder) if folder.is_local else f"{folder}/"
    if not names:
        return f"{shown!r} is empty"
    others = len(names) - _MAX_NAMES
    more = "" if others <= 0 else f" and {others} more" if folder.is_local else " and more"
    return f"{shown!r} contains: {', '.join(names[:_MAX_NAMES])}{more}"
