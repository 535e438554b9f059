"""Conversions from and to a bucket of each kind of store, with failing requests."""

import os
import random
import threading

import pytest

from imgpipe.components.common.dataset import read_manifest, shard_paths
from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    InvalidDataError,
    OutputError,
)
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.storage import parse_location, remote_requests
from tests.components.convert.conversions import read_files
from tests.components.records import records_of

COUNT = 30


@pytest.fixture
def photos(tmp_path, photo, bucket):
    """Thirty images of two labels in a local folder and in the bucket, and lists of local or mixed paths."""
    folder = tmp_path / "images"
    lines = {"local": [], "mixed": []}
    for number in range(COUNT):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        # Bytes after the end of a JPEG are kept and are not damage.
        path.write_bytes(path.read_bytes() + bytes(100_000))
        name = f"{'ab'[number % 2]}/{number}.jpg"
        bucket.put(f"images/{name}", path.read_bytes())
        lines["local"].append(f"{name},{'ab'[number % 2]}\n")
        lines["mixed"].append(f"{f'{bucket.uri}/images/{name}' if number % 3 else name},{'ab'[number % 2]}\n")
    for name, rows in lines.items():
        (folder / f"{name}.csv").write_text("".join(rows))
    bucket.put("images/local.csv", "".join(lines["local"]).encode())
    bucket.requests.clear()
    return folder


def shards_of(files):
    return {name: content for name, content in files.items() if "-of-" in name}


def test_bucket_and_folder_give_the_same_bytes(tmp_path, photos, bucket):
    for local, remote in (
        ({"images": str(photos)}, {"images": f"{bucket.uri}/images/"}),
        ({"train_csv": str(photos / "local.csv")}, {"train_csv": f"{bucket.uri}/images/local.csv"}),
        ({"images": f"{photos}/*/*.jpg"}, {"images": f"{bucket.uri}/images/*/*.jpg"}),
    ):
        name = "-".join(local)
        from_local = tmp_path / f"{name}-{len(bucket.requests)}-local"
        from_remote = tmp_path / f"{name}-{len(bucket.requests)}"
        convert(ConvertArguments(**local), from_local)
        convert(ConvertArguments(**remote), from_remote)
        assert shards_of(read_files(from_local)) == shards_of(read_files(from_remote))


def test_each_image_is_downloaded_once(tmp_path, photos, bucket):
    convert(ConvertArguments(images=f"{bucket.uri}/images/*/*.jpg"), tmp_path / "data")
    read = [path for method, path in bucket.requests if bucket.reads(method, path) and ".jpg" in path]
    assert len(read) == len(set(read)) == COUNT


def test_shards_that_a_manifest_beside_them_describes_are_not_read_again(tmp_path, photos, bucket):
    convert(ConvertArguments(images=str(photos)), f"{bucket.uri}/data")
    bucket.requests.clear()
    arguments = ConvertArguments(
        training_data_path=f"{bucket.uri}/data/train-*",
        validation_data_path=f"{bucket.uri}/data/validation-*",
    )
    manifest = convert(arguments, tmp_path / "described")
    read = [path for method, path in bucket.requests if bucket.reads(method, path)]
    assert len(read) == 1
    assert "manifest.json" in read[0]
    parse_location(f"{bucket.uri}/data/manifest.json").remove()
    assert convert(arguments, tmp_path / "scanned") == manifest


def test_rows_may_mix_local_files_and_objects(tmp_path, photos):
    mixed = convert(ConvertArguments(train_csv=str(photos / "mixed.csv")), tmp_path / "mixed")
    local = convert(ConvertArguments(train_csv=str(photos / "local.csv")), tmp_path / "local")

    def all_images(folder, manifest):
        return sorted(
            (record.encoded, record.label)
            for name in manifest.splits
            for record in records_of(folder, manifest, name)
        )

    assert all_images(tmp_path / "mixed", mixed) == all_images(tmp_path / "local", local)


def test_objects_are_downloaded_in_parallel(tmp_path, photos, bucket):
    barrier = threading.Barrier(8, timeout=20)
    waiting = []

    def fault(method, path):
        if bucket.reads(method, path) and len(waiting) < 8:
            waiting.append(path)
            barrier.wait()
        return ""

    bucket.fault = fault
    convert(ConvertArguments(images=f"{bucket.uri}/images"), tmp_path / "out", threads=1)


def test_failing_requests_do_not_change_the_output(tmp_path, photos, bucket):
    convert(ConvertArguments(images=str(photos), shard_megabytes=1), tmp_path / "local")
    generator = random.Random(3)  # noqa: S311
    bucket.fault = lambda *_: generator.choice(["503", "reset", "short", "", "", ""])
    arguments = ConvertArguments(images=f"{bucket.uri}/images", shard_megabytes=1)
    manifest = convert(arguments, f"{bucket.uri}/out")
    written = bucket.contents("out/")
    assert shards_of(written) == shards_of(read_files(tmp_path / "local"))
    assert sorted(written) == sorted(read_files(tmp_path / "local"))
    assert manifest.made_by["written"] == COUNT


def test_conversion_resumes_after_an_outage_of_the_storage(tmp_path, photos, bucket, monkeypatch):
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.2)
    arguments = ConvertArguments(images=str(photos), shard_megabytes=1)
    uploads = []

    def fault(method, path):
        if bucket.writes(method, path):
            uploads.append(path)
        return "503" if len(uploads) > 4 else ""

    bucket.fault = fault
    with pytest.raises(InterruptedRunError, match="start it again"):
        convert(arguments, f"{bucket.uri}/out")
    remaining = bucket.contents("out/")
    assert remaining
    assert all(name.startswith(".imgpipe-convert-unfinished/") for name in remaining)
    convert(arguments, f"{bucket.uri}/out")
    convert(arguments, tmp_path / "local")
    assert bucket.contents("out/") == read_files(tmp_path / "local")


def test_rows_without_an_object_are_rejected_with_the_reason(tmp_path, photos, bucket):
    lines = [
        f"{bucket.uri}/images/a/0.jpg,a",
        f"{bucket.uri}/images/a/gone.jpg,a",
        f"{bucket.scheme}://elsewhere/x.jpg,a",
    ]
    lines += [f"{bucket.uri}/images/a/{number}.jpg,a" for number in range(0, 60, 2)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(InvalidDataError, match="rejected 17 of 33 rows"):
        convert(ConvertArguments(train_csv=str(tmp_path / "list.csv")), tmp_path / "out")
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert f"{bucket.uri}/images/a/gone.jpg,a,there is no object '{bucket.uri}/images/a/gone.jpg'" in rejected
    assert f"{bucket.scheme}://elsewhere/x.jpg,a,there is no object" in rejected


def test_prefix_with_other_files_is_not_touched(photos, bucket):
    bucket.put("out/thesis.doc", b"precious")
    with pytest.raises(OutputError, match=r"thesis\.doc"):
        convert(ConvertArguments(images=str(photos)), f"{bucket.uri}/out")
    assert bucket.contents("out/") == {"thesis.doc": b"precious"}


def test_output_dir_gives_a_manifest_with_the_shards_locations(tmp_path, photos, bucket):
    convert(ConvertArguments(images=str(photos)), tmp_path / "plain")
    for output in (f"{bucket.uri}/out", str(tmp_path / "elsewhere")):
        artifact = tmp_path / f"artifact{len(output)}"
        manifest = convert(ConvertArguments(images=str(photos), output_dir=output), artifact)
        assert sorted(read_files(artifact)) == ["labels.txt", "manifest.json"]
        assert read_manifest(artifact) == manifest
        assert [shard.path for shard in manifest.splits["train"].shards] == [f"{output}/train-00000-of-00001"]
        assert manifest.digest() == read_manifest(tmp_path / "plain").digest()
        again = ConvertArguments(images=str(photos), output_dir=output)
        assert convert(again, tmp_path / f"again{len(output)}") == manifest
    assert bucket.contents("out/") == read_files(tmp_path / "elsewhere") == read_files(tmp_path / "plain")
    with pytest.raises(InvalidArgumentError, match=f"{bucket.uri}/out/train-00000-of-00001"):
        shard_paths(tmp_path, read_manifest(tmp_path / "artifact15").splits["train"])


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_local_image_of_the_second_of_the_manifest_has_not_changed_since(tmp_path, photos, bucket):
    arguments = ConvertArguments(images=str(photos), output_dir=f"{bucket.uri}/out")
    manifest = convert(arguments, tmp_path / "first")
    written = parse_location(f"{bucket.uri}/out/manifest.json")
    latest = written.written_ns(written.status().version) + written.time_step_ns - 1
    os.utime(photos / "a/0.jpg", ns=(latest, latest))
    assert convert(arguments, tmp_path / "same") == manifest
    os.utime(photos / "a/0.jpg", ns=(latest + 1, latest + 1))
    with pytest.raises(OutputError, match=r"a/0\.jpg has changed since"):
        convert(arguments, tmp_path / "changed")


def test_tfrecord_files_in_a_bucket_are_described(tmp_path, photos, bucket):
    convert(ConvertArguments(images=str(photos)), f"{bucket.uri}/out")
    arguments = ConvertArguments(
        training_data_path=f"{bucket.uri}/out/train-*",
        validation_data_path=f"{bucket.uri}/out/validation-*",
        labels_file=f"{bucket.uri}/out/labels.txt",
    )
    manifest = convert(arguments, tmp_path / "described")
    plain = convert(ConvertArguments(images=str(photos)), tmp_path / "plain")
    assert manifest.digest() == plain.digest()
    assert manifest.splits["train"].shards[0].path == f"{bucket.uri}/out/train-00000-of-00001"
