"""What the tests of the steps share; the expensive things are made once a session."""

import http.client
import http.server
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from google.cloud import storage
from PIL import Image

from components.common import cloud_storage
from components.common.dataset import TRAIN, VALIDATION, Manifest, Shard, Split, file_sha256, write_manifest
from components.common.records import ImageRecord, encode_example
from components.common.tfrecord import write_record

BUCKET = "photos"
# What a request may meet on its way: an overloaded server, a connection that is reset in the middle of the
# content, and content that ends early as if it were whole.
UNAVAILABLE, RESET, SHORT = "503", "reset", "short"


@dataclass
class Cloud:
    """An emulator of Cloud Storage behind a proxy that spoils requests.

    Attributes:
        fault: Called with the method and the path of each request; returns a fault or an empty text.
        requests: Method and path of every request.
    """

    address: str
    fault: Callable[[str, str], str] = lambda *_: ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        """Writes an object and returns its URI."""
        self._bucket.blob(name).upload_from_string(content)
        return f"gs://{BUCKET}/{name}"

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects below a prefix; from now on no request meets a fault."""
        self.fault = lambda *_: ""
        return {
            blob.name.removeprefix(prefix): blob.download_as_bytes()
            for blob in self._bucket.list_blobs(prefix=prefix)
        }

    @property
    def _bucket(self) -> storage.Bucket:
        return storage.Client(
            project="test",
            client_options={"api_endpoint": self.address},
            credentials=storage.Client.create_anonymous_client()._credentials,
        ).bucket(BUCKET)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def _emulator() -> Iterator[tuple[int, object]]:
    port = _free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield port, server
    server.stop()


@pytest.fixture
def cloud(_emulator: tuple[int, object], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Cloud Storage with an empty bucket ``photos``; the code under test reaches it through the proxy."""
    port, server = _emulator
    server.wipe(keep_buckets=True)
    made = Cloud(f"http://127.0.0.1:{port}")

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def handle_request(self) -> None:
            body = self._body()
            made.requests.append((self.command, self.path))
            fault = made.fault(self.command, self.path)
            if fault == UNAVAILABLE:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            onward = http.client.HTTPConnection("127.0.0.1", port)
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) // 2 if fault == SHORT else len(content)))
            self.end_headers()
            if fault:
                self.wfile.write(content[: len(content) // 2])
                if fault == RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        setattr(Proxy, f"do_{method}", Proxy.handle_request)
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setattr(cloud_storage, "FIRST_PAUSE_SECONDS", 0.01)
    yield made
    proxy.shutdown()
    proxy.server_close()


def _encode(pixels, image_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, image_format, **options)
    return buffer.getvalue()


def _write_dataset(folder, splits, labels, *, shards=1):
    written = {}
    for name, records in splits.items():
        entries = []
        for number in range(shards):
            path = folder / f"{name}-{number:05d}-of-{shards:05d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            chosen = records[number * len(records) // shards : (number + 1) * len(records) // shards]
            with path.open("wb") as file:
                for record in chosen:
                    write_record(file, encode_example(record))
            entries.append(Shard(path.name, len(chosen), path.stat().st_size, file_sha256(path)))
        counts = [sum(record.label == label for record in records) for label in range(1, len(labels) + 1)]
        written[name] = Split(tuple(entries), tuple(counts))
    write_manifest(folder, Manifest(tuple(labels), written, {}))
    return folder


@pytest.fixture(scope="session")
def encode():
    """``encode(pixels, "PNG")``: pixels to an image file's bytes."""
    return _encode


@pytest.fixture(scope="session")
def write_dataset():
    """``write_dataset(folder, {split: records}, labels)`` writes shards and a manifest."""
    return _write_dataset


@pytest.fixture(scope="session")
def coloured_dataset(write_dataset, encode):
    """``coloured_dataset(folder, labels)``: 12 and 6 small pictures, each label of another brightness."""

    def write(folder, labels=("dark", "bright"), train=12, validation=6, shards=1):
        def records(split, count, seed):
            draw = np.random.default_rng(seed)
            return [
                ImageRecord(
                    encode(draw.integers(0, 40, (8, 8, 3)) + 200 * (number % len(labels)) // len(labels)),
                    number % len(labels) + 1,
                    labels[number % len(labels)],
                    f"{split}/{number}.png",
                )
                for number in range(count)
            ]

        splits = {TRAIN: records(TRAIN, train, 1), VALIDATION: records(VALIDATION, validation, 2)}
        return write_dataset(folder, splits, labels, shards=shards)

    return write


@pytest.fixture(scope="session")
def digit_records():
    """scikit-learn's 1,797 digits as records, every fifth of them for validation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    records = [
        ImageRecord(_encode(np.round(pixels * 255 / 16)), int(digit) + 1, str(digit), f"digit_{number}.png")
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    train = [record for number, record in enumerate(records) if number % 5]
    return {TRAIN: train, VALIDATION: records[::5]}


@pytest.fixture(scope="session")
def digits_dataset(digit_records, write_dataset, tmp_path_factory):
    """The folder of a data set of the digits."""
    return write_dataset(tmp_path_factory.mktemp("digits"), digit_records, [str(n) for n in range(10)])


@pytest.fixture(scope="session")
def digits_training():
    """The arguments by which the digits are learnt in a few seconds, from random weights."""
    from components.train.arguments import TrainingArguments

    return TrainingArguments(
        max_steps=60,
        train_batch_size=64,
        model_type="resnet-18",
        image_size=32,
        weights="none",
        initial_learning_rate=0.05,
        warmup_steps=10,
        train_steps_per_eval=20,
        seed=6,
    )


@pytest.fixture(scope="session")
def trained_digits(digits_dataset, digits_training, tmp_path_factory):
    """A model folder that the train step wrote, and what the loop returned. Not to be changed."""
    from components.train.train import train

    folder = tmp_path_factory.mktemp("trained") / "model"
    return folder, train(digits_training, digits_dataset, folder)


@pytest.fixture(scope="session")
def linear_model():
    """``linear_model(folder, labels)`` writes a real SavedModel of one random layer on 8x8 pixels."""
    from components.common.provenance import write_deployment_config, write_provenance
    from components.common.quiet_tensorflow import keras, tf
    from components.common.saved_model import write_saved_model

    class Linear:
        def __init__(self, classes, seed):
            draw = np.random.default_rng(seed)
            self.kernel = keras.Variable(
                draw.normal(size=(8 * 8 * 3, classes)).astype(np.float32), name="kernel"
            )
            self.variables = [self.kernel]

        def logits(self, images, *, training):  # noqa: ARG002 - as the classifiers of train
            return tf.reshape(tf.cast(images, tf.float32) / 255, [-1, 8 * 8 * 3]) @ self.kernel

    def write(folder, labels=("dark", "bright"), seed=0):
        write_saved_model(Linear(len(labels), seed), 8, labels, folder)
        write_deployment_config(folder, global_step=1)
        write_provenance(folder, {"model_type": "linear", "best_step": 1})
        return folder

    return write
