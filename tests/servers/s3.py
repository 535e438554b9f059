"""S3 on loopback: the servers of rclone and of moto, each behind a proxy that injects faults."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from imgpipe.components.storage import remote_requests
from tests.servers.faulty_bucket import BUCKET, FaultyBucket, proxied

KEY, SECRET = "test-key", "test-secret"


class S3Bucket(FaultyBucket):
    """A bucket of one of the servers."""

    def put(self, name: str, content: bytes) -> str:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)
        return f"{self.uri}/{name}"

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {
            key.removeprefix(prefix): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in self.list_keys(prefix)
        }

    def reads(self, method: str, path: str) -> bool:
        return method == "GET" and "list-type" not in path

    def writes(self, method: str, path: str) -> bool:
        return method == "PUT" and bool(path)

    def list_keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    @cached_property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


@contextmanager
def serve_rclone(folder: Path, *options: str) -> Iterator[str]:
    """Yields the address of rclone's server, whose buckets are folders."""
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    program = shutil.which("rclone") or str(Path(sys.executable).parent / "rclone")
    command = [program, "serve", "s3", "--addr", "127.0.0.1:0", "--config", "/dev/null"]
    command += ["--auth-key", f"{KEY},{SECRET}", *options, str(folder / "buckets")]
    log = folder / "log"
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        while not (found := re.search(r"Starting s3 server on \[(http://[^/]+)/\]", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield found[1]
        process.terminate()


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of rclone's server."""
    with serve_rclone(tmp_path_factory.mktemp("rclone")) as address:
        yield address


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(rclone: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """S3 by rclone with an empty bucket ``photos``; the code under test reaches it through the proxy."""
    yield from _reached_by_proxy(_emptied(S3Bucket("s3", rclone)), monkeypatch)


@pytest.fixture
def s3_of_moto(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """S3 by moto with an empty bucket ``photos``; the code under test reaches it through the proxy."""
    bucket = S3Bucket("s3", moto)
    with suppress(bucket.client.exceptions.BucketAlreadyOwnedByYou):
        bucket.client.create_bucket(Bucket=BUCKET)
    yield from _reached_by_proxy(_emptied(bucket), monkeypatch)


def _emptied(bucket: S3Bucket) -> S3Bucket:
    for key in bucket.list_keys():
        bucket.client.delete_object(Bucket=BUCKET, Key=key)
    return bucket


def _reached_by_proxy(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_requests, "FIRST_PAUSE_SECONDS", 0.01)
    with proxied(bucket) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield bucket
