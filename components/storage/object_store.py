"""The base of all object stores: objects with keys in buckets, with ``/`` in keys as folders.

A store is a subclass that implements the requests: ``status``, ``read``, ``read_range``, ``download``,
``write``, ``upload``, ``copy_to``, ``remove``, ``list_keys`` and ``children``; and says which errors of its
client are transient, and what the others mean: ``is_transient`` and ``explained``. It is registered in
``__init__.py``.
"""

import re
import tempfile
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, TypeVar

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.storage.location import (
    WILDCARD,
    FileStatus,
    Location,
    Observer,
    describe_folder,
    ignore_content,
    is_hidden,
)
from imgpipe.components.storage.publication import (
    check_complete,
    hidden_folder,
    in_order,
    is_first_publication,
    remove_left_overs,
    replace_files,
)
from imgpipe.components.storage.remote_requests import explain_full_disk, retry, unreachable

# Larger objects are copied in parts of this size, several at a time: one connection is slower than a network.
PART_BYTES = 8 << 20
# With more, all arrive later: what hashes them in order begins later, and has more left at the end.
PARTS_AT_ONCE = 4
READ_BYTES = 1 << 18
# Of Linux and of all its usual file systems.
_MAX_NAME_BYTES = 255

Result = TypeVar("Result")
Store = TypeVar("Store", bound="ObjectLocation")


def is_file_name(name: str) -> bool:
    """Whether a file in a local folder can have this name; anyone who may write to a store chooses names."""
    return name not in ("", ".", "..") and "\0" not in name and len(name.encode()) <= _MAX_NAME_BYTES


def replaced(location: Location) -> InterruptedRunError:
    """Returns the error for an object that was replaced while its parts were read."""
    return InterruptedRunError(f"{location!r} was replaced while it was copied", remedy="start it again")


def map_parts(copy: Callable[[int], Result], parts: Iterable[int]) -> Iterator[Result]:
    """Yields the results of copying parts, in order; a few are copied at the same time.

    All parts are queued, unlike in ``map_in_order``: a server may leave one waiting until many others are
    done, and the threads would then be idle.
    """
    with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="imgpipe") as pool:
        yield from pool.map(copy, parts)


def observe_parts(path: Path, parts: Iterable[object], observe: Observer) -> None:
    """Passes the content of a file that is written in parts to a function, while later parts arrive.

    Args:
        path: The file.
        parts: Yields whenever the next ``PART_BYTES`` of the file are written.
        observe: Called with the content, in order.
    """
    with path.open("rb", buffering=0) as file:
        for _ in parts:
            unread = PART_BYTES
            while content := file.read(min(unread, READ_BYTES)):
                observe(content)
                unread -= len(content)


@dataclass(frozen=True, repr=False)
class ObjectLocation(Location):
    """An object, a folder or a pattern in a bucket.

    Attributes:
        scheme: The scheme of the store's URIs, e.g. ``gs``.
        service: The store's name in messages.
        address_setting: What the user sets to the address of the store's server, if there is such a setting.
        bucket: The bucket's name.
        key: The object's name in the bucket, without a ``/`` at the end; empty for the bucket itself.
    """

    scheme: ClassVar[str]
    service: ClassVar[str]
    address_setting: ClassVar[str] = ""
    bucket: str
    key: str = ""

    @classmethod
    def parse(cls: type[Store], uri: str) -> Store:
        """Returns the location of ``scheme://bucket/key``.

        Raises:
            InvalidArgumentError: if the URI has no bucket.
        """
        bucket, _, key = uri.removeprefix(f"{cls.scheme}://").partition("/")
        if not bucket:
            raise InvalidArgumentError(f"{uri!r} has no bucket", remedy=f"write {cls.scheme}://BUCKET/NAME")
        return cls(bucket, key.rstrip("/"))

    @classmethod
    def missing_credentials(cls) -> UnavailableError | None:
        """Returns why the store cannot be used with credentials; None if it can."""
        return None

    @staticmethod
    def is_transient(error: BaseException) -> bool:  # noqa: ARG004 - of stores without a network
        """Whether a request that failed with this error of the client may succeed when it is sent again."""
        return False

    def explained(
        self,
        error: Exception,  # noqa: ARG002 - of stores without a network
        verb: str,  # noqa: ARG002 - the same
        error_class: type[PipelineError],  # noqa: ARG002 - the same
    ) -> PipelineError | None:
        """Returns what an error of the client means; None if it is not the client's.

        Args:
            error: The error, which is not transient.
            verb: ``read`` or ``write``.
            error_class: The class if the object or the bucket is missing, or access is denied.
        """
        return None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self: Store) -> Store:
        """The folder that contains this object or folder; the bucket is its own parent."""
        return type(self)(self.bucket, self.key.rpartition("/")[0])

    @property
    def prefix(self) -> str:
        """The common prefix of the keys of all objects in this folder."""
        return f"{self.key}/" if self.key else ""

    def __truediv__(self: Store, name: str) -> Store:
        return type(self)(self.bucket, self.prefix + name)

    def absolute(self: Store) -> Store:
        return self

    def resolve_links(self: Store) -> Store:
        return self

    # ------------------------------------------------------------ requests of a store

    @abstractmethod
    def download(self, path: Path, observe: Observer = ignore_content) -> None:
        """Downloads the object to a local file and verifies it; see ``link_or_download``.

        Raises:
            OutputError: if the file cannot be written.
            InterruptedRunError: if the object is replaced meanwhile.
        """

    @abstractmethod
    def list_keys(
        self, prefix: str, *, first: str = "", last: str = "", recursive: bool = True
    ) -> Iterator[tuple[str, FileStatus]]:
        """Yields the bucket's keys with a prefix, sorted, and the status of their objects.

        Args:
            prefix: The prefix; may be empty.
            first: Skips the keys before this one.
            last: Skips the keys after this one.
            recursive: Whether to include keys with a further ``/`` after the prefix.
        """

    def _retry(self, request: Callable[[], Result]) -> Result:
        return retry(request, self.is_transient)

    def _reading(self) -> AbstractContextManager[None]:
        """Raises the client's errors on reading as ours."""
        return self._explaining("read", MissingInputError)

    def _writing(self) -> AbstractContextManager[None]:
        """Raises the client's errors on writing as ours."""
        return self._explaining("write", OutputError)

    @contextmanager
    def _explaining(self, verb: str, error_class: type[PipelineError]) -> Iterator[None]:
        from google.api_core.exceptions import RetryError

        try:
            yield
        except RetryError as error:
            cause = error.cause or error
            raise unreachable(self.service, self, verb, cause, setting=self.address_setting) from None
        except Exception as error:
            explained = self.explained(error, verb, error_class)
            if explained is None:
                raise
            raise explained from None

    def _download_parts(self, path: Path, parts: Iterable[object], observe: Observer) -> None:
        """Downloads the object to a local file; for ``parts`` and ``observe``, see ``observe_parts``."""
        with self._reading(), explain_full_disk(self, path):
            path.write_bytes(b"")
            observe_parts(path, parts, observe)

    def _copy_to_file(
        self, path: Path, offsets: Iterable[int], copy: Callable[[IO[bytes], int], Result]
    ) -> Iterator[Result]:
        """Copies parts of the object to their places in a file; yields the results, in order.

        Args:
            path: The file.
            offsets: Where the parts begin.
            copy: Gets the file, at the place of a part, and the offset of the part.
        """

        def copy_part(begin: int) -> Result:
            with path.open("r+b", buffering=0) as file:
                file.seek(begin)
                return copy(file, begin)

        return map_parts(lambda begin: self._retry(lambda: copy_part(begin)), offsets)

    # ------------------------------------------------------------ files

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="imgpipe-") as folder:
            copy = Path(folder) / "copy"
            self.download(copy)
            yield copy

    def link_or_download(self, path: Path, observe: Observer = ignore_content) -> None:
        self.download(path, observe)

    def move_from(self, path: Path) -> None:
        self.upload(path)
        path.unlink()

    def rename(self, target: Location) -> None:
        """Copies the object in the service and removes the original."""
        self.copy_to(target)
        self.remove()

    # ------------------------------------------------------------ folders

    def is_folder(self) -> bool:
        return bool(self.children(1))

    def list_files(
        self, *, skip_hidden: bool = False, first: str = "", last: str = "", recursive: bool = True
    ) -> Iterator[tuple[str, FileStatus]]:
        """Yields relative path and status of all objects below the folder, sorted.

        Args:
            skip_hidden: Skips objects and folders for which ``is_hidden`` holds.
            first: Skips the paths before this one.
            last: Skips the paths after this one.
            recursive: Whether to include subfolders.
        """
        prefix = self.prefix
        keys = self.list_keys(
            prefix, first=first and prefix + first, last=last and prefix + last, recursive=recursive
        )
        for key, status in keys:
            name = key.removeprefix(prefix)
            # Some tools create an empty object for the folder itself.
            if name and not (skip_hidden and any(map(is_hidden, name.split("/")))):
                yield name, status

    def contents(self) -> dict[str, int]:
        return {name: status.size for name, status in self.list_files()}

    def download_folder(self, path: Path, *, ignore: re.Pattern[str] | None = None) -> None:
        for name in self.contents():
            if name.endswith("/") or (ignore and ignore.fullmatch(name.partition("/")[0])):
                continue
            self.download_below(path, name)

    def download_below(self, folder: Path, name: str) -> None:
        """Downloads an object of this folder to a file of a local one.

        Raises:
            InvalidDataError: if the object's name, which anyone who may write to the bucket chooses, leads
                outside of the folder.
        """
        if not all(map(is_file_name, name.split("/"))):
            raise InvalidDataError(
                f"the name of the object {str(self / name)!r} cannot be the name of a local file",
                remedy="rename or remove the object: empty names, . and .. are not allowed between slashes, "
                f"nor names of more than {_MAX_NAME_BYTES} bytes",
            )
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InvalidDataError(
                f"a folder of the object {str(self / name)!r} has the name of another object",
                remedy="rename or remove one of them: a local folder cannot hold both",
            ) from None
        (self / name).download(folder / name)

    def publish_folder(
        self, source: Path, *, keep: re.Pattern[str] | None = None, first: str = "", last: str = ""
    ) -> None:
        remove_left_overs(self)
        files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
        is_first = is_first_publication(self, keep)
        incoming = self if is_first else hidden_folder(self)
        try:
            for name in in_order(files, first, last):
                (incoming / name).upload(files[name])
            check_complete(incoming, {name: path.stat().st_size for name, path in files.items()})
        except BaseException:
            for name in files:
                (incoming / name).remove()
            raise
        if not is_first:
            replace_files(incoming, self, keep=keep, first=first, last=last)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="imgpipe-") as folder:
            yield Path(folder)

    def remove_folder(self) -> None:
        for name in self.contents():
            (self / name).remove()

    def remove_empty_folder(self) -> None:
        """Does nothing: a folder without objects does not exist."""

    def check_writable(self) -> None:
        probe = self / f".imgpipe-write-test-{uuid.uuid4().hex}"
        probe.write(b"")
        probe.remove()

    def lock(self) -> AbstractContextManager[None]:
        """Does nothing: a bucket has no locks."""
        return nullcontext()

    # ------------------------------------------------------------ patterns

    def glob(self: Store) -> Iterator[tuple[Store, FileStatus]]:
        status = self.status() if self.key else None
        wild = WILDCARD.search(self.key)
        if status is not None:
            yield self, status
        elif wild is not None:
            matches = re.compile(_regular_expression(self.key)).fullmatch
            for key, found in self.list_keys(self.key[: wild.start()]):
                if matches(key):
                    yield type(self)(self.bucket, key), found

    def no_match_error(self) -> MissingInputError:
        if not WILDCARD.search(self.key):
            return MissingInputError(
                f"{self!r} does not exist",
                where=describe_folder(self.pattern_root),
                remedy="correct the path",
            )
        return MissingInputError(
            f"{self!r} matches no file",
            where=describe_folder(self.pattern_root),
            remedy="correct the pattern; wildcards are *, ?, [1-9], and **/ for any folders",
        )


def _regular_expression(pattern: str) -> str:
    parts = []
    starts_name = True
    position = 0
    while position < len(pattern):
        character = pattern[position]
        not_hidden = r"(?!\.)" if starts_name and character in "*?[" else ""
        closing = pattern.find("]", position + 2)
        if starts_name and pattern.startswith("**/", position):
            parts.append(r"(?:(?!\.)[^/]*/)*")
            position += 2
        elif character == "*":
            parts.append(not_hidden + "[^/]*")
        elif character == "?":
            parts.append(not_hidden + "[^/]")
        elif character == "[" and closing > 0:
            inside = pattern[position + 1 : closing].replace("\\", r"\\")
            parts.append(f"{not_hidden}[{'^' + inside[1:] if inside.startswith('!') else inside}]")
            position = closing
        else:
            parts.append(re.escape(character))
        starts_name = pattern[position] == "/"
        position += 1
    return "".join(parts)
