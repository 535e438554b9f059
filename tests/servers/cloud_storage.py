"""Cloud Storage on loopback: an emulator behind a proxy that injects faults."""

from collections.abc import Iterator

import pytest
from gcp_storage_emulator.server import create_server
from google.cloud import storage

from imgpipe.components.storage import remote_requests
from tests.servers.faulty_bucket import BUCKET, FaultyBucket, free_port, proxied


class Cloud(FaultyBucket):
    """A bucket of the emulator."""

    def put(self, name: str, content: bytes) -> str:
        self._bucket.blob(name).upload_from_string(content)
        return f"{self.uri}/{name}"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {
            blob.name.removeprefix(prefix): blob.download_as_bytes()
            for blob in self._bucket.list_blobs(prefix=prefix)
        }

    def reads(self, method: str, path: str) -> bool:
        return method == "GET" and "/download/" in path

    def writes(self, method: str, path: str) -> bool:
        return method in ("POST", "PUT") and "upload" in path

    @property
    def _bucket(self) -> storage.Bucket:
        return storage.Client(
            project="test",
            client_options={"api_endpoint": self.address},
            credentials=storage.Client.create_anonymous_client()._credentials,
        ).bucket(BUCKET)


@pytest.fixture(scope="session")
def emulator() -> Iterator[tuple[int, object]]:
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield port, server
    server.stop()


@pytest.fixture
def cloud(emulator: tuple[int, object], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Cloud Storage with an empty bucket ``photos``; the code under test reaches it through the proxy."""
    port, server = emulator
    server.wipe(keep_buckets=True)
    bucket = Cloud("gs", f"http://127.0.0.1:{port}")
    with proxied(bucket) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setattr(remote_requests, "FIRST_PAUSE_SECONDS", 0.01)
        yield bucket
