"""The emulator of Cloud Storage as a process that serves requests in parallel, for measurements.

``python -m tests.servers.cloud_storage_process PORT BUCKET``. As it comes, the emulator serves one request at
a time, writes a list of all objects after each change, keeps deleted objects, and parses the content of an
upload as an e-mail: what it then measures is itself.
"""

import json
import sys
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage


class MemoryStorage(Storage):  # type: ignore[misc]
    """Objects in memory; deleted ones are not kept."""

    def _write_config_to_file(self) -> None:
        """Does nothing: the list is not used."""

    def _bucket_soft_delete_retention_seconds(self, bucket_name: str) -> int:  # noqa: ARG002
        return 0

    def _list_live_candidates(self, bucket_name: str, prefix: str | None = None) -> list[tuple[str, Any]]:
        # A copy: other threads write meanwhile.
        objects = list(self.objects.get(bucket_name, {}).items())
        return [(name, found) for name, found in objects if prefix is None or name.startswith(prefix)]

    def get_file(self, bucket_name: str, file_name: str, show_error: bool = True) -> memoryview:
        """Returns a view, so that a part of an object is not copied."""
        return memoryview(super().get_file(bucket_name, file_name, show_error))

    def add_to_resumable_upload(
        self, file_id: str, content: bytes, total_size: int | None = None, expected_start: int | None = None
    ) -> bytes | None:
        """Appends a chunk to an upload, without copying the earlier ones."""
        name = self._object_path("_resumable", self.safe_id(file_id))
        received = self._store._files.setdefault(name, bytearray())
        if expected_start is not None and expected_start != len(received):
            raise server.objects.BadRequest(f"expected a chunk from {len(received)}, not {expected_start}")
        received += content or b""
        return None if total_size is None or len(received) < total_size else bytes(received)


class Handler(server.RequestHandler):  # type: ignore[misc]
    """Answers requests."""

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        if code == HTTPStatus.PARTIAL_CONTENT:
            # As Cloud Storage does, and the emulator does not.
            self.send_header("X-Goog-Generation", "1")


class ParallelServer(ThreadingHTTPServer):
    """Serves requests in parallel."""

    # More than a client opens at the same time: a connection too many waits for a second.
    request_queue_size = 256


def _read_data(handler: Any, query: Any) -> Any:
    content_type = handler.headers.get("Content-Type") or ""
    if not content_type.startswith("multipart/related"):
        return _read_other_data(handler, query)
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    content = server._read_raw_data(handler)
    _, meta, rest = content.split(b"--" + boundary, 2)
    headers, _, media = rest.partition(b"\r\n\r\n")
    return {
        "meta": json.loads(meta.partition(b"\r\n\r\n")[2]),
        "content": media[: media.rindex(b"\r\n--" + boundary)],
        "content-type": headers.partition(b"content-type: ")[2].partition(b"\r\n")[0].decode(),
    }


def _crc32c(content: Any) -> str:
    # The library accepts no views.
    return str(_crc32c_of_bytes(bytes(content)))


_read_other_data, _crc32c_of_bytes = server._read_data, server.objects._crc32c


def main() -> None:
    """Serves until it is terminated."""
    port, bucket = int(sys.argv[1]), sys.argv[2]
    server._read_data, server.objects._crc32c = _read_data, _crc32c
    storage = MemoryStorage(use_memory_fs=True)
    buckets.create_bucket(bucket, storage)
    ParallelServer(("127.0.0.1", port), partial(Handler, storage)).serve_forever()


if __name__ == "__main__":
    main()
