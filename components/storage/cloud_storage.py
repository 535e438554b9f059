"""Cloud Storage: ``gs://bucket/name``.

Credentials are the application's default ones; without any, public objects can still be read.
``STORAGE_EMULATOR_HOST`` names an emulator to use instead of the service.
"""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, ClassVar

from imgpipe.components.common.errors import PipelineError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.google_credentials import (
    default_credentials,
    named_credentials,
    refused_credentials,
)
from imgpipe.components.storage import object_store
from imgpipe.components.storage.location import (
    PARALLEL_DOWNLOADS,
    FileStatus,
    Location,
    Observer,
    ignore_content,
)
from imgpipe.components.storage.object_store import ObjectLocation, replaced
from imgpipe.components.storage.remote_requests import (
    BadAnswerError,
    first_line,
    request_seconds,
    unreachable,
)


@dataclass(frozen=True, repr=False)
class CloudStorageLocation(ObjectLocation):
    """An object, a folder or a pattern in a bucket of Cloud Storage.

    Every operation raises:
        MissingInputError: on reading, if there is no such object or bucket, or access is denied.
        OutputError: on writing, if there is no such bucket, or access is denied.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """

    scheme: ClassVar[str] = "gs"
    service: ClassVar[str] = "Cloud Storage"

    @classmethod
    def missing_credentials(cls) -> UnavailableError | None:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            return None
        try:
            default_credentials()
        except UnavailableError as error:
            return error
        return None

    @staticmethod
    def is_transient(error: BaseException) -> bool:
        import requests
        import urllib3
        from google.api_core import exceptions
        from google.auth.exceptions import TransportError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        if isinstance(error, InvalidResponse):
            # Raised by uploads, which bypass the client's error handling.
            return error.response.status_code in (408, 429, 500, 502, 503, 504)
        return isinstance(
            error,
            exceptions.TooManyRequests
            | exceptions.ServerError
            | DataCorruption
            | BadAnswerError
            | TransportError
            | requests.ConnectionError
            | requests.Timeout
            | requests.exceptions.ChunkedEncodingError
            | requests.exceptions.ContentDecodingError
            | requests.exceptions.JSONDecodeError
            | urllib3.exceptions.HTTPError
            | ConnectionError,
        )

    def explained(
        self, error: Exception, verb: str, error_class: type[PipelineError]
    ) -> PipelineError | None:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError, TransportError

        if isinstance(error, exceptions.NotFound):
            missing = (
                f"there is no object {self!r}"
                if verb == "read" and self.key
                else f"there is no bucket {self.bucket!r}"
            )
            return error_class(missing, remedy="check the path: bucket and object")
        if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
            return error_class(
                f"no permission to {verb} {self!r}: {first_line(error)}",
                remedy="grant the account that runs this the role Storage Object "
                + ("Viewer" if verb == "read" else "User")
                + " on the bucket, or log in with: gcloud auth application-default login",
            )
        if isinstance(error, TransportError):
            return unreachable(self.service, self, verb, error)
        if isinstance(error, GoogleAuthError):
            refused = refused_credentials(error)
            return error_class(refused.problem, where=str(self), remedy=refused.remedy)
        if isinstance(error, exceptions.GoogleAPICallError):
            return error_class(
                f"Cloud Storage rejected the request to {verb} {self!r}: {first_line(error)}",
                remedy="check the path, the bucket and its settings",
            )
        return None

    def status(self) -> FileStatus | None:
        with self._reading():
            blob = self._retry(
                lambda: (
                    _client().bucket(self.bucket).get_blob(self.key, timeout=request_seconds(), retry=None)
                )
            )
            return None if blob is None else _status(blob)

    def written_ns(self, version: int) -> int:
        """Returns the time when a generation was written; the generation is that time in microseconds."""
        return version * 1000

    def read(self) -> bytes:
        with self._reading():
            return self._retry(self._read)

    def read_range(self, begin: int, length: int) -> bytes:
        with self._reading():
            return self._retry(lambda: self._read(start=begin, end=begin + length - 1))

    def _read(self, **options: int) -> bytes:
        blob = _blob(self)
        # In a single shot: the library otherwise copies 8 KB at a time.
        content = blob.download_as_bytes(
            timeout=request_seconds(), retry=None, single_shot_download=True, **options
        )
        _check_is_object(blob)
        return bytes(content)

    def download(self, path: Path, observe: Observer = ignore_content) -> None:
        """Downloads the object to a local file and compares the CRC-32C."""
        from google_crc32c import Checksum

        with self._reading():
            stored = self._retry(self._stored)
        checksum = Checksum()

        def observe_all(content: bytes) -> None:
            checksum.update(content)
            observe(content)

        self._download_parts(path, self._copy_parts(path, stored), observe_all)
        # What the service decompresses has another checksum; the client compares it.
        if not stored.content_encoding and base64.b64encode(checksum.digest()).decode() != stored.crc32c:
            raise replaced(self)

    def _stored(self) -> Any:
        blob = _blob(self)
        blob.reload(timeout=request_seconds(), retry=None)
        return blob

    def _copy_parts(self, path: Path, stored: Any) -> Iterator[object]:
        from google.api_core.exceptions import NotFound

        if stored.content_encoding:
            # An object that the service decompresses cannot be read in parts.
            size = path.write_bytes(self._retry(self._read))
            yield from range(0, size, object_store.PART_BYTES)
            return
        offsets = range(0, stored.size, object_store.PART_BYTES)
        try:
            yield from self._copy_to_file(path, offsets, partial(_copy_part, stored))
        except NotFound:
            raise replaced(self) from None

    def list_keys(
        self, prefix: str, *, first: str = "", last: str = "", recursive: bool = True
    ) -> Iterator[tuple[str, FileStatus]]:
        options: dict[str, Any] = {} if recursive else {"delimiter": "/"}
        token = None
        while True:
            # Page by page, so that only a failed page is requested again.
            def page(token: str | None = token) -> tuple[list[Any], str | None]:
                found = _client().list_blobs(
                    self.bucket,
                    prefix=prefix or None,
                    page_token=token,
                    start_offset=first or None,
                    timeout=request_seconds(),
                    retry=None,
                    **options,
                )
                return list(next(found.pages, ())), found.next_page_token

            with self._reading():
                blobs, token = self._retry(page)
            for blob in blobs:
                if last and blob.name > last:
                    return
                if blob.name >= first:
                    yield str(blob.name), _status(blob)
            if not token:
                return

    def children(self, limit: int | None = None) -> list[str]:
        def listed() -> list[str]:
            found = _client().list_blobs(
                self.bucket,
                prefix=self.prefix or None,
                delimiter="/",
                max_results=limit,
                timeout=request_seconds(),
                retry=None,
            )
            names = [blob.name for blob in found]
            below = (name.removeprefix(self.prefix) for name in [*names, *found.prefixes])
            return sorted(filter(None, below))[:limit]

        with self._reading():
            return self._retry(listed)

    def write(self, content: bytes) -> None:
        with self._writing():
            self._retry(
                lambda: _blob(self).upload_from_string(
                    content, content_type="application/octet-stream", timeout=request_seconds(), retry=None
                )
            )

    def upload(self, path: Path) -> None:
        with self._writing():
            self._retry(
                lambda: _blob(self).upload_from_filename(str(path), timeout=request_seconds(), retry=None)
            )

    def copy_to(self, target: Location) -> None:
        assert isinstance(target, CloudStorageLocation)  # noqa: S101 - in the same store

        def copy() -> None:
            token = None
            while True:
                # A large object may take several requests.
                token, _, _ = _blob(target).rewrite(
                    _blob(self), token=token, timeout=request_seconds(), retry=None
                )
                if token is None:
                    return

        with target._writing():
            self._retry(copy)

    def remove(self) -> None:
        from google.api_core.exceptions import NotFound

        with self._writing():
            try:
                self._retry(lambda: _blob(self).delete(timeout=request_seconds(), retry=None))
            except NotFound:
                return


def _client() -> Any:
    # One per process: connections do not survive a fork.
    return _client_of(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))


# The client of another process, or of an emulator that has ended, would keep its connections open.
@lru_cache(maxsize=1)
def _client_of(process: int, emulator: str) -> Any:  # noqa: ARG001 - the process is part of the cache's key
    # Imported here: the library takes 30 MB, and most runs do not need it.
    import requests.adapters
    from google.cloud import storage

    try:
        # An emulator needs no credentials.
        client = storage.Client(project=None, credentials=None if emulator else default_credentials()[0])
    except UnavailableError:
        if named_credentials():
            # Without the credentials that the user named, requests would fail for lack of permission.
            raise
        log_event("no_credentials", "no credentials for Cloud Storage: only public objects can be read")
        client = storage.Client.create_anonymous_client()
    adapter = requests.adapters.HTTPAdapter(
        pool_connections=2 * PARALLEL_DOWNLOADS, pool_maxsize=2 * PARALLEL_DOWNLOADS
    )
    # As the library's documentation shows.
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client


def _blob(location: ObjectLocation) -> Any:
    return _client().bucket(location.bucket).blob(location.key)


def _copy_part(stored: Any, file: IO[bytes], begin: int) -> None:
    """Writes a part of an object to a file.

    Not by the library's downloads: they write 8 KB at a time, or keep the whole part in memory.
    """
    from google.api_core.exceptions import from_http_response

    length = min(object_store.PART_BYTES, stored.size - begin)
    expected = f"{begin}-{begin + length - 1}"
    client = _client()
    # Not the object's media_link: it names another host than a private endpoint.
    response = client._http.get(
        f"{client.api_endpoint}/download/storage/v1{stored.path}",
        # Another generation is not found.
        params={"alt": "media", "generation": stored.generation},
        headers={"Range": f"bytes={expected}"},
        stream=True,
        timeout=request_seconds(),
    )
    with response:
        if not response.ok:
            raise from_http_response(response)
        if response.headers.get("Content-Range") != f"bytes {expected}/{stored.size}":
            raise BadAnswerError("the answer is not Cloud Storage's: it is not the part of the object")
        copied = sum(map(file.write, response.iter_content(object_store.READ_BYTES)))
    if copied != length:
        raise BadAnswerError(f"the answer had {copied:,} of {length:,} bytes")


def _check_is_object(blob: Any) -> None:
    # The library takes the page of a proxy, without Cloud Storage's headers, for the object.
    if blob.crc32c is None and blob.generation is None:
        raise BadAnswerError("the answer is not Cloud Storage's: it has no checksum and no generation")


def _status(blob: Any) -> FileStatus:
    checksum = int.from_bytes(base64.b64decode(blob.crc32c or ""), "big")
    return FileStatus(int(blob.size or 0), int(blob.generation or 0), checksum)
