"""Reads image files, and keeps those of remote stores on this machine if they are read again."""

import hashlib
import os
import tempfile
import threading
from types import TracebackType
from typing import IO

from imgpipe.components.common.resources import free_disk_bytes
from imgpipe.components.storage import Location

# The fraction of the free disk space that may be used: shards need some too.
_DISK_FRACTION = 0.5
_MAX_BYTES = 20 * 10**9


class ImageReader:
    """Reads images for the search for copies, and again for the shards.

    Images of remote stores are kept in one temporary file, up to ``max_bytes``; the others are downloaded
    again. Its methods may be called from several threads.

    Args:
        max_bytes: None = half of the free space for temporary files, at most 20 GB; 0 if they are in memory.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0
        # Offset and size by location.
        self._kept: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, location: Location, *, again: bool = False) -> bytes:
        """Returns the content of a file; ``again`` says that it will be read again.

        Raises what ``Location.read`` raises.
        """
        if location.is_local:
            return location.read()
        # 16 bytes, because paths may be long.
        key = hashlib.blake2b(str(location).encode("utf-8", "surrogateescape"), digest_size=16).digest()
        if key in self._kept and self._file is not None:
            offset, size = self._kept[key]
            return os.pread(self._file.fileno(), size, offset)
        data = location.read()
        if again:
            self._keep(key, data)
        return data

    def read_end(self, location: Location, size: int, length: int) -> bytes:
        """Returns the last ``length`` bytes of a file of ``size`` bytes, which will be read again.

        A request for the end takes a store about as long as one for a whole photo, so that is kept.
        """
        if location.is_local or not self._has_room(size):
            return location.read_range(max(0, size - length), length)
        return self.read(location, again=True)[-length:]

    def _has_room(self, size: int) -> bool:
        with self._lock:
            if self._max_bytes is None:
                self._max_bytes = min(_MAX_BYTES, int(_DISK_FRACTION * free_disk_bytes()))
            return self._end + size <= self._max_bytes

    def _keep(self, key: bytes, data: bytes) -> None:
        if not self._has_room(len(data)):
            return
        try:
            with self._lock:
                if self._file is None:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
                offset, self._end = self._end, self._end + len(data)
            written = os.pwrite(self._file.fileno(), data, offset)
        except OSError:
            # The disk is full: what is not kept is downloaded again.
            with self._lock:
                self._max_bytes = 0
            return
        if written == len(data):
            self._kept[key] = offset, len(data)
