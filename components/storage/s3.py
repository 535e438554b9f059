"""S3: ``s3://bucket/key``, of AWS or of another server with its API (MinIO, SeaweedFS, Ceph).

Credentials, region and endpoint are those of all AWS tools: the variables ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_PROFILE``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` (or
``AWS_ENDPOINT_URL_S3``) and ``AWS_CA_BUNDLE``, the files in ``~/.aws``, or the identity of the machine or
pod. Without credentials, public objects can still be read. With an endpoint, the bucket is a part of the path
(`path style`), unless ``~/.aws/config`` says ``addressing_style = virtual``.

boto3 rather than obstore: it reads all of these, and its errors have codes, from which follow the remedies.
"""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import urlsplit

from imgpipe.components.common.errors import InvalidArgumentError, PipelineError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.storage import object_store
from imgpipe.components.storage.location import (
    PARALLEL_DOWNLOADS,
    FileStatus,
    Location,
    Observer,
    ignore_content,
)
from imgpipe.components.storage.object_store import ObjectLocation, map_parts, replaced
from imgpipe.components.storage.remote_requests import BadAnswerError, first_line, request_seconds

# Of servers that have no regions, and of AWS: it redirects to the bucket's region.
_DEFAULT_REGION = "us-east-1"
# Above, one more request is faster than an MD5.
_MOST_HASHED_BYTES = 1 << 20
_PAGE_KEYS = 1000
# Of an upload: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html.
_MAX_PARTS = 10_000
_CHECKSUM = "CRC32"
# Larger objects are copied in parts: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html.
_MOST_COPIED_BYTES = 5 << 30
_NO_CONTENT = 204
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
# Transient errors with another status.
_TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "InternalError")
_REFUSED_CREDENTIALS = {
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "InvalidAccessKeyId": "the access key is not known",
    "InvalidToken": "the session token is not valid",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}
_OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


@dataclass(frozen=True, repr=False)
class S3Location(ObjectLocation):
    """An object, a folder or a pattern in a bucket of S3.

    Every operation raises:
        MissingInputError: on reading, if there is no such object or bucket, or access is denied.
        OutputError: on writing, if there is no such bucket, or access is denied.
        UnavailableError: if the settings or the credentials cannot be used.
        InterruptedRunError: if the service cannot be reached for two minutes.
    """

    scheme: ClassVar[str] = "s3"
    service: ClassVar[str] = "S3"
    address_setting: ClassVar[str] = "AWS_ENDPOINT_URL"
    time_step_ns: ClassVar[int] = 1_000_000_000

    @classmethod
    def missing_credentials(cls) -> UnavailableError | None:
        try:
            found = _session().get_credentials()
        except UnavailableError as error:
            return error
        if found is not None:
            return None
        return UnavailableError(
            "there are no credentials for S3",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run: aws configure",
        )

    @staticmethod
    def is_transient(error: BaseException) -> bool:
        import urllib3
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return status in _TRANSIENT_STATUS or _code(error) in _TRANSIENT_CODES
        if isinstance(error, exceptions.SSLError):
            return False
        return isinstance(
            error,
            # The library's ConnectionError is not the built-in one.
            exceptions.ConnectionError
            | exceptions.HTTPClientError
            | exceptions.IncompleteReadError
            | exceptions.ResponseStreamingError
            | BadAnswerError
            # An answer that is not S3's, e.g. the page of a proxy.
            | _parser_error()
            | urllib3.exceptions.HTTPError
            | ConnectionError,
        )

    def explained(
        self, error: Exception, verb: str, error_class: type[PipelineError]
    ) -> PipelineError | None:
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            return _refusal(self, verb, error_class, error)
        if isinstance(error, exceptions.ParamValidationError):
            return InvalidArgumentError(
                f"{self!r} is not a valid path in S3: {_last_line(error)}",
                remedy="write s3://BUCKET/KEY, the bucket in lower-case letters, digits, - and .",
            )
        if isinstance(error, exceptions.SSLError):
            return _refused_certificate(self, error)
        if isinstance(error, exceptions.BotoCoreError):
            return _unusable_settings(error)
        return None

    def status(self) -> FileStatus | None:
        with self._reading():
            try:
                return _status(self._request("head_object", "LastModified", Key=self.key))
            except _client_error() as error:
                if _code(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                # The answer to HEAD has no reason.
                self._request("get_object", "ETag", Key=self.key, Range="bytes=0-0")
                raise

    def read(self) -> bytes:
        """Returns the content and verifies it.

        The ETag of an object that was uploaded in one part is its MD5, but not if it is encrypted with a
        user's key, and not on all servers. Then the length is compared; also for a large object, whose MD5
        takes as long as its download.
        """

        def read() -> bytes:
            found = _client().get_object(Bucket=self.bucket, Key=self.key)
            content = bytes(found["Body"].read())
            version = _field(found, "ETag").strip('"')
            if len(content) > _MOST_HASHED_BYTES or version != _md5(content):
                _field(found, "LastModified")
                found = _client().head_object(Bucket=self.bucket, Key=self.key)
                _check_length(len(content), found["ContentLength"])
            return content

        with self._reading():
            return self._retry(read)

    def read_range(self, begin: int, length: int) -> bytes:
        content = io.BytesIO()

        def read() -> None:
            content.seek(0)
            content.truncate()
            self._copy_part(content, begin, length)

        with self._reading():
            self._retry(read)
        return content.getvalue()

    def download(self, path: Path, observe: Observer = ignore_content) -> None:
        """Downloads the object to a local file and compares the length of every part."""
        self._download_parts(path, self._copy_parts(path), observe)

    def _copy_parts(self, path: Path) -> Iterator[None]:
        copy = partial(self._copy_part, length=object_store.PART_BYTES)
        # The first part returns the size, so that a small object takes one request.
        ((size, version),) = self._copy_to_file(path, [0], copy)
        yield
        offsets = range(object_store.PART_BYTES, size, object_store.PART_BYTES)
        for _, found in self._copy_to_file(path, offsets, copy):
            if found != version:
                raise replaced(self)
            yield

    def _copy_part(self, file: IO[bytes], begin: int, length: int) -> tuple[int, str]:
        """Writes a part of the content to a file.

        Returns:
            The size and the ETag of the object; 0 and "" if the part begins after the end.
        """
        try:
            found = _client().get_object(
                Bucket=self.bucket, Key=self.key, Range=f"bytes={begin}-{begin + length - 1}"
            )
        except _client_error() as error:
            if _code(error) == "InvalidRange":
                return 0, ""
            raise
        size = int(_field(found, "ContentRange").rpartition("/")[2])
        copied = sum(map(file.write, found["Body"].iter_chunks(object_store.READ_BYTES)))
        _check_length(copied, min(begin + length, size) - begin)
        return size, _field(found, "ETag")

    def list_keys(
        self, prefix: str, *, first: str = "", last: str = "", recursive: bool = True
    ) -> Iterator[tuple[str, FileStatus]]:
        options: dict[str, Any] = {} if recursive else {"Delimiter": "/"}
        if first:
            # The listing begins after this key.
            options["StartAfter"] = first[:-1]
        for page in self._pages(Prefix=prefix, MaxKeys=_PAGE_KEYS, **options):
            for item in page.get("Contents", ()):
                if last and item["Key"] > last:
                    return
                if item["Key"] >= first:
                    yield item["Key"], _status(item)

    def children(self, limit: int | None = None) -> list[str]:
        below: list[str] = []
        most = _PAGE_KEYS if limit is None else min(limit + 1, _PAGE_KEYS)
        for page in self._pages(Prefix=self.prefix, Delimiter="/", MaxKeys=most):
            keys = [item["Key"] for item in page.get("Contents", ())]
            folders = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            below += filter(None, (name.removeprefix(self.prefix) for name in [*keys, *folders]))
            if limit is not None and len(below) >= limit:
                break
        return sorted(below)[:limit]

    def _pages(self, **options: Any) -> Iterator[Any]:
        # Page by page, so that only a failed page is requested again.
        while True:
            with self._reading():
                page = self._request("list_objects_v2", "Name", **options)
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def write(self, content: bytes) -> None:
        with self._writing():
            self._request(
                "put_object", "ETag", Key=self.key, Body=content, ContentType="application/octet-stream"
            )

    def upload(self, path: Path) -> None:
        size = path.stat().st_size

        def upload() -> None:
            with path.open("rb") as file:
                _field(_client().put_object(Bucket=self.bucket, Key=self.key, Body=file), "ETag")

        with self._writing():
            if size <= object_store.PART_BYTES:
                self._retry(upload)
            else:
                self._upload_parts(path, size)

    def _upload_parts(self, path: Path, size: int) -> None:
        """Uploads a file in parts, several at a time; a part that fails is uploaded again, not the file."""
        # As boto3 does it: only with the algorithm at both places, AWS checks the parts.
        calculates = _client().meta.config.request_checksum_calculation == "when_supported"
        checksum = {"ChecksumAlgorithm": _CHECKSUM} if calculates else {}
        created = self._request("create_multipart_upload", "UploadId", Key=self.key, **checksum)
        upload = {"Key": self.key, "UploadId": created["UploadId"]}
        part_bytes = max(object_store.PART_BYTES, -(-size // _MAX_PARTS))

        # A buffer of each thread is faster than new memory, and the client copies bytes once more.
        of_thread = threading.local()

        def read_part(number: int) -> bytearray | bytes:
            if not hasattr(of_thread, "buffer"):
                of_thread.buffer = bytearray(part_bytes)
            with path.open("rb", buffering=0) as file:
                file.seek((number - 1) * part_bytes)
                length = file.readinto(of_thread.buffer)
            return of_thread.buffer if length == part_bytes else bytes(memoryview(of_thread.buffer)[:length])

        def upload_part(number: int) -> dict[str, Any]:
            content = read_part(number)
            answer = self._request(
                "upload_part", "ETag", **upload, **checksum, PartNumber=number, Body=content
            )
            found = {name: answer[name] for name in ("ETag", f"Checksum{_CHECKSUM}") if name in answer}
            return {"PartNumber": number, **found}

        try:
            numbers = range(1, -(-size // part_bytes) + 1)
            parts = list(map_parts(upload_part, numbers))
            self._complete_upload(upload, parts, size)
        except BaseException:
            # Parts that are left over are paid for.
            with suppress(Exception):
                _client().abort_multipart_upload(Bucket=self.bucket, **upload)
            raise

    def _complete_upload(self, upload: dict[str, str], parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._request("complete_multipart_upload", "ETag", **upload, MultipartUpload={"Parts": parts})
        except _client_error() as error:
            if _code(error) != "NoSuchUpload":
                raise
            # A request whose answer was lost may have completed it.
            found = self.status()
            if found is None or found.size != size:
                raise

    def copy_to(self, target: Location) -> None:
        assert isinstance(target, S3Location)  # noqa: S101 - in the same store
        source = {"Bucket": self.bucket, "Key": self.key}

        def copy() -> None:
            found = _client().head_object(**source)
            _field(found, "LastModified")
            if found["ContentLength"] > _MOST_COPIED_BYTES:
                _client().copy(source, target.bucket, target.key)
            else:
                copied = _client().copy_object(CopySource=source, Bucket=target.bucket, Key=target.key)
                _field(_field(copied, "CopyObjectResult"), "ETag")

        with target._writing():
            self._retry(copy)

    def remove(self) -> None:
        def remove() -> None:
            answer = _client().delete_object(Bucket=self.bucket, Key=self.key)
            if answer["ResponseMetadata"]["HTTPStatusCode"] != _NO_CONTENT:
                raise BadAnswerError("the answer is not S3's: it has content")

        with self._writing():
            self._retry(remove)

    def _request(self, operation: str, expected: str, **options: Any) -> Any:
        """Returns the answer, which must have the expected field."""

        def request() -> Any:
            answer = getattr(_client(), operation)(Bucket=self.bucket, **options)
            _field(answer, expected)
            return answer

        return self._retry(request)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _field(answer: Any, name: str) -> Any:
    # boto3 reads the page of a proxy, which has none of the fields, as an answer without values.
    if name not in answer:
        raise BadAnswerError(f"the answer is not S3's: it has no {name}")
    return answer[name]


def _check_length(length: int, expected: int) -> None:
    if length != expected:
        raise BadAnswerError(f"the answer had {length:,} of {expected:,} bytes")


def _client() -> Any:
    # One per process: connections do not survive a fork. Settings may change between tests and in notebooks.
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client_of(os.getpid(), settings, request_seconds())


@lru_cache(maxsize=2)
def _client_of(process: int, settings: tuple[tuple[str, str], ...], seconds: float) -> Any:  # noqa: ARG001
    from botocore import UNSIGNED

    session = _session()
    options: dict[str, Any] = {
        "connect_timeout": min(seconds, 10.0),
        "read_timeout": seconds,
        "max_pool_connections": 2 * PARALLEL_DOWNLOADS,
        # `retry` decides, as for the other stores.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    }
    if session.get_credentials() is None:
        log_event("no_credentials", "no credentials for S3: only public objects can be read")
        options["signature_version"] = UNSIGNED
    client = _new_client(session, options)
    if str(urlsplit(client.meta.endpoint_url).hostname).endswith(_AWS_HOSTS):
        return client
    # Many servers other than AWS do not know the checksums that AWS introduced in 2025.
    options |= {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return _new_client(session, options)


def _new_client(session: Any, options: dict[str, Any]) -> Any:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    region = os.environ.get("AWS_REGION") or session.region_name or _DEFAULT_REGION
    try:
        return session.client("s3", region_name=region, config=Config(**options))
    except (BotoCoreError, ValueError) as error:
        raise _unusable_settings(error) from None


def _session() -> Any:
    # Imported here: most runs do not need the library.
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.session.Session()
        session.get_credentials()
    except (BotoCoreError, ValueError) as error:
        raise _unusable_settings(error) from None
    return session


def _unusable_settings(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"the settings for S3 cannot be used: {first_line(error)}",
        remedy="correct the variables AWS_... or the files in ~/.aws",
    )


def _status(found: Any) -> FileStatus:
    # The time has whole seconds.
    written = int(found["LastModified"].timestamp()) * 1_000_000_000
    # The ETag is not a checksum: equal contents have different ones if they are encrypted with a user's key.
    return FileStatus(int(found["ContentLength"] if "ContentLength" in found else found["Size"]), written)


def _client_error() -> Any:
    from botocore.exceptions import ClientError

    return ClientError


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _parser_error() -> Any:
    from botocore.parsers import ResponseParserError

    return ResponseParserError


def _refused_certificate(location: S3Location, error: Exception) -> UnavailableError:
    if "WRONG_VERSION_NUMBER" in str(error):
        return UnavailableError(
            f"S3's server does not answer by https: {first_line(error)}",
            where=str(location),
            remedy="write http:// in place of https:// in AWS_ENDPOINT_URL, or the port that has https",
        )
    return UnavailableError(
        f"the certificate of S3's server is not accepted: {first_line(error)}",
        where=str(location),
        remedy="set AWS_CA_BUNDLE to the file with the certificate of its authority",
    )


def _refusal(location: S3Location, verb: str, error_class: type[PipelineError], error: Any) -> PipelineError:
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket" or (status == 404 and verb == "write"):
        return error_class(
            f"there is no bucket {location.bucket!r}",
            remedy="check the path: bucket, key and AWS_ENDPOINT_URL",
        )
    if status == 404:
        return error_class(f"there is no object {location!r}", remedy="check the path: bucket and key")
    if code in _REFUSED_CREDENTIALS:
        return error_class(
            f"S3 refuses the credentials: {_REFUSED_CREDENTIALS[code]} ({code})",
            where=str(location),
            remedy="correct this machine's clock"
            if code == "RequestTimeTooSkewed"
            else "renew the credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or "
            "the profile in ~/.aws",
        )
    if code in _OTHER_REGION:
        return error_class(
            f"the bucket {location.bucket!r} is in another region: {first_line(error)}",
            remedy="set AWS_REGION to the bucket's region",
        )
    if code == "InvalidObjectState":
        return error_class(
            f"{location!r} is archived: {first_line(error)}",
            remedy="restore it (aws s3api restore-object), or copy the data to another storage class",
        )
    if "kms" in str(error).lower():
        action = "kms:Decrypt" if verb == "read" else "kms:GenerateDataKey"
        return error_class(
            f"no permission to use the key of {location!r}: {first_line(error)}",
            remedy=f"grant the account that runs this the permission {action} on the bucket's key",
        )
    if status in (401, 403):
        actions = "s3:GetObject and s3:ListBucket" if verb == "read" else "s3:PutObject and s3:DeleteObject"
        return error_class(
            f"no permission to {verb} {location!r}: {first_line(error)}",
            remedy=f"grant the account that runs this the permissions {actions}"
            + ("; without s3:ListBucket, S3 answers the same for a missing object" * (verb == "read")),
        )
    return error_class(
        f"S3 rejected the request to {verb} {location!r}: {first_line(error)}",
        remedy="check the path, the bucket and its settings, and AWS_ENDPOINT_URL",
    )


def _last_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[-1][:300]
