"""Conversions from and to an emulated Cloud Storage with failing requests."""

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
from imgpipe.components.storage import requests
from tests.components.convert.conversions import read_files

COUNT = 30


@pytest.fixture
def photos(tmp_path, photo, cloud):
    """Thirty images of two labels in a local folder and in the bucket, and lists of local or mixed paths."""
    folder = tmp_path / "images"
    lines = {"local": [], "mixed": []}
    for number in range(COUNT):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        # Bytes after the end of a JPEG are kept and are not damage.
        path.write_bytes(path.read_bytes() + bytes(100_000))
        name = f"{'ab'[number % 2]}/{number}.jpg"
        cloud.put(f"images/{name}", path.read_bytes())
        lines["local"].append(f"{name},{'ab'[number % 2]}\n")
        lines["mixed"].append(f"{f'gs://photos/images/{name}' if number % 3 else name},{'ab'[number % 2]}\n")
    for name, rows in lines.items():
        (folder / f"{name}.csv").write_text("".join(rows))
    cloud.put("images/local.csv", "".join(lines["local"]).encode())
    cloud.requests.clear()
    return folder


def shards_of(files):
    return {name: content for name, content in files.items() if "-of-" in name}


def test_bucket_and_folder_give_the_same_bytes(tmp_path, photos, cloud):
    for local, remote in (
        ({"images": str(photos)}, {"images": "gs://photos/images/"}),
        ({"train_csv": str(photos / "local.csv")}, {"train_csv": "gs://photos/images/local.csv"}),
        ({"images": f"{photos}/*/*.jpg"}, {"images": "gs://photos/images/*/*.jpg"}),
    ):
        name = "-".join(local)
        from_local = tmp_path / f"{name}-{len(cloud.requests)}-local"
        from_remote = tmp_path / f"{name}-{len(cloud.requests)}"
        convert(ConvertArguments(**local), from_local)
        convert(ConvertArguments(**remote), from_remote)
        assert shards_of(read_files(from_local)) == shards_of(read_files(from_remote))


def test_rows_may_mix_local_files_and_objects(tmp_path, photos, records_of):
    mixed = convert(ConvertArguments(train_csv=str(photos / "mixed.csv")), tmp_path / "mixed")
    local = convert(ConvertArguments(train_csv=str(photos / "local.csv")), tmp_path / "local")

    def all_images(folder, manifest):
        return sorted(
            (record.encoded, record.label)
            for name in manifest.splits
            for record in records_of(folder, manifest, name)
        )

    assert all_images(tmp_path / "mixed", mixed) == all_images(tmp_path / "local", local)


def test_objects_are_downloaded_in_parallel(tmp_path, photos, cloud):
    barrier = threading.Barrier(8, timeout=20)
    waiting = []

    def fault(_, path):
        if "/download/" in path and len(waiting) < 8:
            waiting.append(path)
            barrier.wait()
        return ""

    cloud.fault = fault
    convert(ConvertArguments(images="gs://photos/images"), tmp_path / "out", threads=1)


def test_failing_requests_do_not_change_the_output(tmp_path, photos, cloud):
    convert(ConvertArguments(images=str(photos), shard_megabytes=1), tmp_path / "local")
    generator = random.Random(3)  # noqa: S311
    cloud.fault = lambda *_: generator.choice(["503", "reset", "short", "", "", ""])
    arguments = ConvertArguments(images="gs://photos/images", shard_megabytes=1)
    manifest = convert(arguments, "gs://photos/out")
    written = cloud.contents("out/")
    assert shards_of(written) == shards_of(read_files(tmp_path / "local"))
    assert sorted(written) == sorted(read_files(tmp_path / "local"))
    assert manifest.made_by["written"] == COUNT


def test_conversion_resumes_after_an_outage_of_the_storage(tmp_path, photos, cloud, monkeypatch):
    monkeypatch.setattr(requests, "RETRY_SECONDS", 0.2)
    arguments = ConvertArguments(images=str(photos), shard_megabytes=1)
    uploads = []

    def fault(method, path):
        if method in ("POST", "PUT") and "upload" in path:
            uploads.append(path)
        return "503" if len(uploads) > 4 else ""

    cloud.fault = fault
    with pytest.raises(InterruptedRunError, match="start it again"):
        convert(arguments, "gs://photos/out")
    remaining = cloud.contents("out/")
    assert remaining
    assert all(name.startswith(".imgpipe-convert-unfinished/") for name in remaining)
    convert(arguments, "gs://photos/out")
    convert(arguments, tmp_path / "local")
    assert cloud.contents("out/") == read_files(tmp_path / "local")


def test_rows_without_an_object_are_rejected_with_the_reason(tmp_path, photos, cloud):
    lines = ["gs://photos/images/a/0.jpg,a", "gs://photos/images/a/gone.jpg,a", "gs://elsewhere/x.jpg,a"]
    lines += [f"gs://photos/images/a/{number}.jpg,a" for number in range(0, 60, 2)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(InvalidDataError, match="rejected 17 of 33 rows"):
        convert(ConvertArguments(train_csv=str(tmp_path / "list.csv")), tmp_path / "out")
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert "gs://photos/images/a/gone.jpg,a,there is no object 'gs://photos/images/a/gone.jpg'" in rejected
    assert "gs://elsewhere/x.jpg,a,there is no object" in rejected


def test_prefix_with_other_files_is_not_touched(photos, cloud):
    cloud.put("out/thesis.doc", b"precious")
    with pytest.raises(OutputError, match=r"thesis\.doc"):
        convert(ConvertArguments(images=str(photos)), "gs://photos/out")
    assert cloud.contents("out/") == {"thesis.doc": b"precious"}


def test_output_dir_gives_a_manifest_with_the_shards_locations(tmp_path, photos, cloud):
    convert(ConvertArguments(images=str(photos)), tmp_path / "plain")
    for output in ("gs://photos/out", str(tmp_path / "elsewhere")):
        artifact = tmp_path / f"artifact{len(output)}"
        manifest = convert(ConvertArguments(images=str(photos), output_dir=output), artifact)
        assert sorted(read_files(artifact)) == ["labels.txt", "manifest.json"]
        assert read_manifest(artifact) == manifest
        assert [shard.path for shard in manifest.splits["train"].shards] == [f"{output}/train-00000-of-00001"]
        assert manifest.digest() == read_manifest(tmp_path / "plain").digest()
        again = ConvertArguments(images=str(photos), output_dir=output)
        assert convert(again, tmp_path / f"again{len(output)}") == manifest
    assert cloud.contents("out/") == read_files(tmp_path / "elsewhere") == read_files(tmp_path / "plain")
    with pytest.raises(InvalidArgumentError, match="gs://photos/out/train-00000-of-00001"):
        shard_paths(tmp_path, read_manifest(tmp_path / "artifact15").splits["train"])


def test_tfrecord_files_in_a_bucket_are_described(tmp_path, photos, cloud):
    convert(ConvertArguments(images=str(photos)), "gs://photos/out")
    arguments = ConvertArguments(
        training_data_path="gs://photos/out/train-*",
        validation_data_path="gs://photos/out/validation-*",
        labels_file="gs://photos/out/labels.txt",
    )
    manifest = convert(arguments, tmp_path / "described")
    plain = convert(ConvertArguments(images=str(photos)), tmp_path / "plain")
    assert manifest.digest() == plain.digest()
    assert manifest.splits["train"].shards[0].path == "gs://photos/out/train-00000-of-00001"
