"""Converting, publishing and reading in buckets, compared with plain calls of the SDKs; and the bytes moved.

``python -m benchmarks.storage`` needs rclone, 5 GB of memory, 8 GB of disk and an hour; ``--megabytes 100`` a
tenth of it. ``--stores``, ``--operations`` and ``--turns`` choose a part. The stores are on loopback: S3 by
rclone, Cloud Storage by an emulator in Python. A ratio is the time of the better of two plain ways, one call
after the other or in eight threads, divided by ours; what is done without a store, e.g. checking the images,
is the same. Ours also compares the SHA-256 of what it reads, and the sizes of what it has published. The
result is the median of the turns' ratios; the table has the smallest and the largest, too. Before each
measurement, what earlier ones have written is on the disk: else it is written during the next ones.

``bytes_ratio`` are the bytes that a server on loopback sent to a training run, an evaluation and an export,
divided by the sizes of the shards that they use: training and validation, validation, validation.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.corpus import LABELS, write_corpus
from benchmarks.measure import in_turns, print_result, print_table
from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.evaluate.arguments import NO_CHAMPION, EvaluateArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from tests.servers.cloud_storage import Cloud
from tests.servers.faulty_bucket import BUCKET, FaultyBucket, free_port, proxied
from tests.servers.s3 import KEY, SECRET, S3Bucket, serve_rclone
from tests.waiting import wait_until

_THREADS = 8
_PHOTOS = 500
_SMALL_PHOTOS = 400
_STORES, _BYTES = ("s3", "gs"), "bytes"
_OPERATIONS = ("convert", "publish", "read", _BYTES)
_OURS, _ONE_BY_ONE, _IN_THREADS = "ours", "SDK, one by one", "SDK, 8 threads"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the data; default 1000")
    parser.add_argument("--stores", nargs="+", default=_STORES, choices=_STORES)
    parser.add_argument("--operations", nargs="+", default=_OPERATIONS, choices=_OPERATIONS)
    parser.add_argument("--turns", type=int, default=3, help="of which the median counts; default 3")
    arguments = parser.parse_args()
    megabytes, turns = arguments.megabytes, arguments.turns
    print(f"moves {megabytes:,} MB {turns} times per store, side and operation: see --help", flush=True)
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name, _servers(Path(name)) as buckets:
        photos = _write_photos(Path(name) / "photos", megabytes)
        model = _write_model(Path(name) / "model", megabytes)
        buckets = [bucket for bucket in buckets if bucket.scheme in arguments.stores]
        for bucket in buckets:
            results |= _compare(bucket, photos, model, Path(name) / "work", arguments.operations, turns)
        if _BYTES in arguments.operations:
            ratios = [_bytes_ratio(bucket, photos, Path(name) / "work") for bucket in buckets]
            results["bytes_ratio"] = max(ratios)
    print_result(**results)


@contextmanager
def _servers(folder: Path) -> Iterator[list[FaultyBucket]]:
    port = free_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    with ExitStack() as stack:
        # Without ETags: S3 stores them; rclone reads a whole object for its MD5 at the first question for it.
        address = stack.enter_context(serve_rclone(folder / "rclone", "--etag-hash", ""))
        # A process of its own: in this one, it would stop while our threads run.
        emulator = [sys.executable, "-m", "tests.servers.cloud_storage_process", str(port), BUCKET]
        stack.enter_context(_running(emulator))
        wait_until(lambda: _accepts_connections(port))
        yield [S3Bucket("s3", address), Cloud("gs", f"http://127.0.0.1:{port}")]


@contextmanager
def _running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def _accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write_photos(folder: Path, megabytes: int) -> dict[str, Path]:
    """Writes distinct JPEG files and returns them by their names in a bucket."""
    others = folder.with_name("originals")
    originals = [(others / name).read_bytes() for name in write_corpus(others, _PHOTOS)]
    files: dict[str, Path] = {}
    size = number = 0
    while size < megabytes * 1e6:
        encoded = originals[number % len(originals)]
        # A comment makes it another file.
        encoded = encoded[:2] + b"\xff\xfe\x00\x0a" + f"{number:08d}".encode() + encoded[2:]
        path = folder / LABELS[number % len(LABELS)] / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        files[f"photos/{path.relative_to(folder)}"] = path
        size, number = size + len(encoded), number + 1
    return files


def _write_model(folder: Path, megabytes: int) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(os.urandom(1_000_000))
    with (folder / "variables" / "variables.data-00000-of-00001").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    return folder


# ---------------------------------------------------------------- speed


def _compare(
    bucket: FaultyBucket,
    photos: dict[str, Path],
    model: Path,
    work: Path,
    chosen: Sequence[str],
    count: int,
) -> dict[str, float]:
    """Prints a table and returns the ratios of one store."""
    _use(bucket, bucket.address)
    store = Plain(bucket)
    if "convert" in chosen:
        _in_threads(store.upload, photos.items())
    results: dict[str, float] = {}
    rows: list[tuple[str, ...]] = []
    operations: dict[str, dict[str, Callable[[], object]]] = {
        "convert": {
            _OURS: partial(_convert, f"{bucket.uri}/photos", f"{bucket.uri}/converted"),
            _ONE_BY_ONE: partial(_convert_plain, store, photos, work, _one_by_one),
            _IN_THREADS: partial(_convert_plain, store, photos, work, _in_threads),
        },
        "publish": {
            _OURS: partial(parse_location(f"{bucket.uri}/ours").publish_folder, model),
            _ONE_BY_ONE: partial(_upload_folder, store, model, "plain", _one_by_one),
            _IN_THREADS: partial(_upload_folder, store, model, "plain", _in_threads),
        },
    }
    for operation, sides in operations.items():
        if operation in chosen:
            results |= _measure(bucket, operation, sides, rows, store, count)
    if "read" in chosen:
        # As a conversion in the bucket writes it; that one takes minutes.
        _convert(str(next(iter(photos.values())).parents[1]), str(work / "data"))
        _upload_folder(store, work / "data", "data", _in_threads)
        results |= _compare_reading(bucket, store, work, rows, count)
    print_table(("store", "operation", "seconds, or ratio", "median", "least", "most"), rows)
    store.remove("")
    shutil.rmtree(work, ignore_errors=True)
    return results


def _compare_reading(
    bucket: FaultyBucket, store: "Plain", work: Path, rows: list[tuple[str, ...]], count: int
) -> dict[str, float]:
    manifest = _copy_of_manifest(f"{bucket.uri}/data", work / "manifest")
    names = [f"data/{shard.path}" for name in (TRAIN, VALIDATION) for shard in manifest.splits[name].shards]
    sides: dict[str, Callable[[], object]] = {
        _OURS: partial(_read, work / "manifest"),
        _ONE_BY_ONE: partial(_download, store, names, work / "plain", _one_by_one),
        _IN_THREADS: partial(_download, store, names, work / "plain", _in_threads),
    }
    return _measure(bucket, "read", sides, rows, store, count)


def _measure(
    bucket: FaultyBucket,
    operation: str,
    sides: dict[str, Callable[[], object]],
    rows: list[tuple[str, ...]],
    store: "Plain",
    count: int,
) -> dict[str, float]:
    def timed(side: Callable[[], object]) -> float:
        os.sync()
        started = time.monotonic()
        side()
        seconds = time.monotonic() - started
        for prefix in ("converted/", "ours/", "plain/"):
            store.remove(prefix)
        return seconds

    measured = in_turns({name: partial(timed, side) for name, side in sides.items()}, count)
    rows += [(bucket.scheme, operation, name, *_spread(found)) for name, found in measured.items()]
    turns = zip(*measured.values(), strict=True)
    ratios = [min(one_by_one, in_threads) / ours for ours, one_by_one, in_threads in turns]
    rows.append((bucket.scheme, operation, "ratio", *_spread(ratios)))
    return {f"{operation}_{bucket.scheme}": statistics.median(ratios)}


def _spread(values: Sequence[float]) -> tuple[str, ...]:
    """Returns the median, the smallest and the largest value as text."""
    return tuple(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values)))


class Plain:
    """Plain calls of a store's SDK."""

    def __init__(self, bucket: FaultyBucket) -> None:
        self._s3 = bucket.client if isinstance(bucket, S3Bucket) else None
        self._cloud: Any = bucket._bucket if isinstance(bucket, Cloud) else None

    def upload(self, name: str, path: Path) -> None:
        """Uploads a file."""
        if self._s3:
            self._s3.upload_file(str(path), BUCKET, name)
        else:
            self._cloud.blob(name).upload_from_filename(str(path))

    def download(self, name: str, path: Path) -> None:
        """Downloads an object."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._s3:
            self._s3.download_file(BUCKET, name, str(path))
        else:
            self._cloud.blob(name).download_to_filename(str(path))

    def remove(self, prefix: str) -> None:
        """Removes all objects with a prefix."""
        if self._s3:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            for key in [item["Key"] for page in pages for item in page.get("Contents", ())]:
                self._s3.delete_object(Bucket=BUCKET, Key=key)
        else:
            for blob in list(self._cloud.list_blobs(prefix=prefix)):
                blob.delete()


def _one_by_one(call: Callable[[str, Path], None], files: Iterable[tuple[str, Path]]) -> None:
    for name, path in files:
        call(name, path)


def _in_threads(call: Callable[[str, Path], None], files: Iterable[tuple[str, Path]]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda file: call(*file), files):
            pass


def _convert(images: str, output: str) -> None:
    convert(ConvertArguments(images=images, group_near_duplicates=False), output)


def _convert_plain(store: Plain, photos: dict[str, Path], work: Path, move: Callable[..., None]) -> None:
    move(store.download, [(name, work / name) for name in photos])
    _convert(str(work / "photos"), str(work / "converted"))
    _upload_folder(store, work / "converted", "plain", move)
    shutil.rmtree(work)


def _upload_folder(store: Plain, folder: Path, prefix: str, move: Callable[..., None]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    move(store.upload, [(f"{prefix}/{path.relative_to(folder)}", path) for path in paths])


def _download(store: Plain, names: list[str], folder: Path, move: Callable[..., None]) -> None:
    move(store.download, [(name, folder / name) for name in names])
    shutil.rmtree(folder)


def _read(folder: Path) -> None:
    with local_dataset(folder, TRAIN, VALIDATION):
        pass


def _copy_of_manifest(dataset: str, folder: Path) -> Manifest:
    """Writes the manifest with absolute paths to a local folder, as a job does; returns the original one."""
    from imgpipe.components.train.__main__ import JobArguments

    JobArguments(dataset=dataset).write_dataset(folder, multi_label=False)
    location = parse_location(dataset) / "manifest.json"
    (folder / "original").mkdir()
    location.link_or_download(folder / "original" / "manifest.json")
    return read_manifest(folder / "original")


# ---------------------------------------------------------------- bytes


def _bytes_ratio(bucket: FaultyBucket, photos: dict[str, Path], work: Path) -> float:
    """Trains, evaluates and exports with a data set in the bucket; returns bytes moved / bytes needed."""
    from imgpipe.components.evaluate.evaluate import evaluate
    from imgpipe.components.export.export import export
    from imgpipe.components.train.train import train

    _use(bucket, bucket.address)
    _in_threads(Plain(bucket).upload, list(photos.items())[:_SMALL_PHOTOS])
    _convert(f"{bucket.uri}/photos", f"{bucket.uri}/data")
    with proxied(bucket) as address:
        _use(bucket, address)
        manifest = _copy_of_manifest(f"{bucket.uri}/data", work / "manifest")
        arguments = TrainingArguments(
            max_steps=2, train_batch_size=4, model_type="resnet-18", weights="none", image_size=32
        )
        train(arguments, work / "manifest", work / "model")
        chosen = EvaluateArguments(evaluation_split=VALIDATION, champion=NO_CHAMPION)
        evaluate(work / "manifest", work / "model", work / "evaluation", chosen)
        export(work / "manifest", work / "model", work / "evaluation", work / "exported", ExportArguments())
    splits = manifest.splits
    used = chain(splits[TRAIN].shards, *(splits[VALIDATION].shards for _ in range(3)))
    shutil.rmtree(work)
    needed = sum(shard.bytes for shard in used)
    return float(sum(bucket.sent) / needed)


def _use(bucket: FaultyBucket, address: str) -> None:
    os.environ["AWS_ENDPOINT_URL" if bucket.scheme == "s3" else "STORAGE_EMULATOR_HOST"] = address


if __name__ == "__main__":
    main()
