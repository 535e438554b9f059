"""Objects in Cloud Storage, by ``gs://bucket/name``: reading, listing, writing.

Credentials are the application's default ones; where there are none, public objects can still be read.
``STORAGE_EMULATOR_HOST`` names an emulator instead of the service. What can pass (an overloaded
server, a connection that breaks off, content whose checksum is wrong) is tried again, with growing
pauses; what cannot (no such object, no permission) is explained at once.
"""

import contextvars
import errno
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.google_credentials import (
    default_credentials,
    named_credentials,
    refused_credentials,
)

Result = TypeVar("Result")

SCHEME = "gs://"
# Objects that are fetched at the same time: one waits for the network, not for the processor.
DOWNLOADS_AT_ONCE = 32
# For how long a request that fails in a way that can pass is tried again.
RETRY_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
# Of the local disk; other errors of the system are of the connection.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_REQUEST_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 16.0
# Of who asks: see ``patience``.
_patience = contextvars.ContextVar("patience", default=math.inf)
_PATTERN_CHARACTER = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What Cloud Storage says of an object without sending it.

    Attributes:
        name: In its bucket.
        size: In bytes.
        generation: Changes whenever the object is written.
        checksum: CRC-32C of the content.
    """

    name: str
    size: int
    generation: int
    checksum: int


def nanoseconds(generation: int) -> int:
    """Returns when an object was written: its generation is that time in microseconds since 1970."""
    return generation * 1000


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Bounds in this thread how long a request is waited for, and for how long it is tried again."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def missing_credentials() -> UnavailableError | None:
    """Returns why Cloud Storage cannot be asked with credentials; None if it can. An emulator needs none."""
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return None
    try:
        default_credentials()
    except UnavailableError as error:
        return error
    return None


def is_cloud_path(text: str) -> bool:
    """Returns whether a path is one of Cloud Storage."""
    return text.startswith(SCHEME)


def bucket_and_name(uri: str) -> tuple[str, str]:
    """Returns the two parts of ``gs://bucket/name``; the name may be empty.

    Raises:
        InvalidArgumentError: if there is no bucket in it.
    """
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise InvalidArgumentError(f"{uri!r} names no bucket", remedy="write gs://bucket/name")
    return bucket, name


def read_object(uri: str) -> bytes:
    """Returns an object's content, its checksum verified.

    Raises:
        MissingInputError: if there is no such object, or it may not be read.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    with _explained_reading(uri):
        return _tried(lambda: bytes(_blob(uri).download_as_bytes(timeout=_request_seconds(), retry=None)))


def read_range(uri: str, begin: int, length: int) -> bytes:
    """Returns a part of an object's content, which may be shorter at its end.

    Raises:
        MissingInputError: if there is no such object, or it may not be read.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    with _explained_reading(uri):
        return _tried(
            lambda: bytes(
                _blob(uri).download_as_bytes(
                    start=begin, end=begin + length - 1, timeout=_request_seconds(), retry=None
                )
            )
        )


def download(uri: str, path: Path) -> None:
    """Writes an object's content to a local file, its checksum verified.

    Raises:
        MissingInputError: if there is no such object, or it may not be read.
        InterruptedRunError: if the service cannot be reached for two minutes.
        OutputError: if the file cannot be written.
    """
    with _explained_reading(uri):
        try:
            _tried(lambda: _blob(uri).download_to_filename(str(path), timeout=_request_seconds(), retry=None))
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise OutputError(
                f"cannot write the copy of {uri} to {str(path)!r}: {error.strerror}",
                remedy="free some space, or set TMPDIR to a folder with more",
            ) from None


def object_at(uri: str) -> StoredObject | None:
    """Returns what is known of an object; None if there is none.

    Raises:
        MissingInputError: if it may not be read, or there is no such bucket.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    bucket, name = bucket_and_name(uri)
    with _explained_reading(uri):
        blob = _tried(lambda: _client().bucket(bucket).get_blob(name, timeout=_request_seconds(), retry=None))
        return None if blob is None else _described(blob)


def list_objects(
    uri: str, *, first: str = "", last: str = "", within_folder: bool = False
) -> Iterator[StoredObject]:
    """Yields the objects whose names begin like the URI's, in the order of their names.

    Args:
        uri: ``gs://bucket/prefix``; the prefix may be empty.
        first: Names before this one are left out.
        last: Names after this one are left out.
        within_folder: Leaves out objects with a further ``/`` after the prefix.

    Raises:
        MissingInputError: if there is no such bucket, or it may not be listed.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    bucket, prefix = bucket_and_name(uri)
    options: dict[str, Any] = {"prefix": prefix or None, "timeout": _request_seconds(), "retry": None}
    if within_folder:
        options["delimiter"] = "/"
    token = None
    while True:
        # A page at a time, so that a page that fails is all that is asked for again.
        def page(token: str | None = token) -> tuple[list[Any], str | None]:
            found = _client().list_blobs(bucket, page_token=token, start_offset=first or None, **options)
            blobs = list(next(found.pages, ()))
            return blobs, found.next_page_token

        with _explained_reading(uri):
            blobs, token = _tried(page)
        for blob in blobs:
            if last and blob.name > last:
                return
            if blob.name >= first:
                yield _described(blob)
        if not token:
            return


def match_objects(pattern: str) -> list[StoredObject]:
    """Returns the objects that a pattern means, sorted by name.

    ``*`` and ``?`` do not mean a ``/``; ``[1-9]`` is a set of characters; a name that begins with a dot is
    matched only by a pattern that does. An object of exactly that name comes first.
    """
    bucket, name = bucket_and_name(pattern)
    wild = _PATTERN_CHARACTER.search(name)
    exact = object_at(pattern) if name and not name.endswith("/") else None
    if exact is not None or wild is None:
        return [exact] if exact is not None else []
    matches = re.compile(_expression(name)).fullmatch
    return [
        found for found in list_objects(f"{SCHEME}{bucket}/{name[: wild.start()]}") if matches(found.name)
    ]


def names_below(uri: str, most: int) -> list[str]:
    """Returns the names directly in a folder of a bucket, folders with a ``/``; at most ``most`` of them."""
    bucket, prefix = bucket_and_name(uri)

    def listed() -> list[str]:
        found = _client().list_blobs(
            bucket,
            prefix=prefix or None,
            delimiter="/",
            max_results=most,
            timeout=_request_seconds(),
            retry=None,
        )
        names = [blob.name for blob in found]
        return sorted(name.removeprefix(prefix) for name in [*names, *found.prefixes])[:most]

    with _explained_reading(uri):
        return _tried(listed)


def write_object(uri: str, content: bytes) -> None:
    """Writes an object, whole or not at all.

    Raises:
        OutputError: if it may not be written.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    with _explained_writing(uri):
        _tried(
            lambda: _blob(uri).upload_from_string(
                content, content_type="application/octet-stream", timeout=_request_seconds(), retry=None
            )
        )


def upload(path: Path, uri: str) -> None:
    """Writes an object from a local file, whole or not at all; the service verifies its checksum.

    Raises:
        OutputError: if it may not be written.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    with _explained_writing(uri):
        _tried(lambda: _blob(uri).upload_from_filename(str(path), timeout=_request_seconds(), retry=None))


def move_object(source: str, target: str) -> None:
    """Gives an object of a bucket another name; the service copies it, nothing is sent.

    Raises:
        OutputError: if it may not be written.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """
    bucket_name, name = bucket_and_name(target)

    def copy() -> None:
        bucket = _client().bucket(bucket_name)
        token = None
        while True:
            # A large object may take several requests.
            token, _, _ = bucket.blob(name).rewrite(
                _blob(source), token=token, timeout=_request_seconds(), retry=None
            )
            if token is None:
                return

    with _explained_writing(target):
        _tried(copy)
        delete_object(source)


def delete_object(uri: str) -> None:
    """Deletes an object, if there is one."""
    from google.api_core.exceptions import NotFound

    with _explained_writing(uri):
        try:
            _tried(lambda: _blob(uri).delete(timeout=_request_seconds(), retry=None))
        except NotFound:
            return


def _expression(pattern: str) -> str:
    """Returns a glob as a regular expression."""
    words = []
    begins = True
    place = 0
    while place < len(pattern):
        character = pattern[place]
        hidden = r"(?!\.)" if begins and character in "*?[" else ""
        closing = pattern.find("]", place + 2)
        if character == "*":
            words.append(hidden + "[^/]*")
        elif character == "?":
            words.append(hidden + "[^/]")
        elif character == "[" and closing > 0:
            inside = pattern[place + 1 : closing].replace("\\", r"\\")
            words.append(f"{hidden}[{'^' + inside[1:] if inside.startswith('!') else inside}]")
            place = closing
        else:
            words.append(re.escape(character))
        begins = character == "/"
        place += 1
    return "".join(words)


def _client() -> Any:
    # By process: connections do not survive a fork.
    return _client_of(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))


@cache
def _client_of(process: int, emulator: str) -> Any:  # noqa: ARG001 - the process is of the key
    # Only here: the library takes 30 MB, and most runs need no object of Cloud Storage.
    import requests.adapters
    from google.cloud import storage

    try:
        # An emulator needs none.
        client = storage.Client(project=None, credentials=None if emulator else default_credentials()[0])
    except UnavailableError:
        if named_credentials():
            # Somebody meant them: without, what follows would be a lack of permission.
            raise
        log_event("no_credentials", "no credentials for Cloud Storage were found: public objects only")
        client = storage.Client.create_anonymous_client()
    adapter = requests.adapters.HTTPAdapter(
        pool_connections=2 * DOWNLOADS_AT_ONCE, pool_maxsize=2 * DOWNLOADS_AT_ONCE
    )
    # The way that the library's own documentation shows.
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client


def _blob(uri: str) -> Any:
    bucket, name = bucket_and_name(uri)
    return _client().bucket(bucket).blob(name)


def _described(blob: Any) -> StoredObject:
    import base64

    checksum = int.from_bytes(base64.b64decode(blob.crc32c or ""), "big")
    return StoredObject(str(blob.name), int(blob.size or 0), int(blob.generation or 0), checksum)


def _tried(function: Callable[[], Result]) -> Result:
    from google.api_core.retry import Retry

    retry = Retry(
        predicate=_can_pass,
        initial=FIRST_PAUSE_SECONDS,
        maximum=_LONGEST_PAUSE_SECONDS,
        multiplier=2,
        timeout=_retry_seconds(),
    )
    result: Result = retry(function)()
    return result


def _retry_seconds() -> float:
    return min(RETRY_SECONDS, _patience.get())


def _request_seconds() -> float:
    return min(_REQUEST_SECONDS, _patience.get())


def _can_pass(error: BaseException) -> bool:
    import requests
    import urllib3
    from google.api_core import exceptions
    from google.auth.exceptions import TransportError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    if isinstance(error, InvalidResponse):
        # The form that errors of an upload take, when they did not pass through the client's own calls.
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return isinstance(
        error,
        exceptions.TooManyRequests
        | exceptions.ServerError
        | DataCorruption
        | TransportError
        | requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError
        | requests.exceptions.ContentDecodingError
        | requests.exceptions.JSONDecodeError
        | urllib3.exceptions.HTTPError
        | ConnectionError,
    )


@contextmanager
def _explained_reading(uri: str) -> Iterator[None]:
    with _explained(uri, "read", MissingInputError):
        yield


@contextmanager
def _explained_writing(uri: str) -> Iterator[None]:
    with _explained(uri, "write", OutputError):
        yield


@contextmanager
def _explained(uri: str, verb: str, error_class: type[PipelineError]) -> Iterator[None]:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except exceptions.NotFound:
        bucket, name = bucket_and_name(uri)
        missing = (
            f"there is no object {uri!r}" if verb == "read" and name else f"there is no bucket {bucket!r}"
        )
        raise error_class(missing, remedy="check the path: bucket and object") from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise error_class(
            f"no permission to {verb} {uri!r}: {_first_line(error)}",
            remedy="give the account that runs this the role Storage Object "
            + ("Viewer" if verb == "read" else "User")
            + " on the bucket, or log in with: gcloud auth application-default login",
        ) from None
    except exceptions.RetryError as error:
        raise _unreachable(uri, verb, error.cause or error) from None
    except GoogleAuthError as error:
        if isinstance(error, TransportError):
            raise _unreachable(uri, verb, error) from None
        refused = refused_credentials(error)
        raise error_class(refused.problem, where=uri, remedy=refused.remedy) from None
    except exceptions.GoogleAPICallError as error:
        raise error_class(
            f"Cloud Storage refuses to {verb} {uri!r}: {_first_line(error)}",
            remedy="check the path, the bucket and its settings",
        ) from None


def _unreachable(uri: str, verb: str, error: BaseException) -> InterruptedRunError:
    return InterruptedRunError(
        f"cannot {verb} {uri!r}: Cloud Storage did not answer rightly for {_retry_seconds():g} seconds; "
        f"the last answer: {_first_line(error)}",
        remedy="start it again: what is finished is not done again",
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:300]
