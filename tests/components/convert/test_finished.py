"""Repeated conversions into a finished data set."""

import os

import pytest

from imgpipe.components.common.dataset import MANIFEST_NAME
from imgpipe.components.common.errors import InvalidDataError, OutputError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.storage import LocalLocation
from tests.components.convert.conversions import read_files


@pytest.fixture
def arguments(flowers, tmp_path):
    return {"images": str(flowers), "output_dir": str(tmp_path / "data")}


def read_no_image(file, read=LocalLocation.read):
    assert not file.name.endswith((".jpg", ".png")), f"{file} was read again"
    return read(file)


def read_nothing(*_, **__):
    raise AssertionError("the records were read again")


def test_repeated_conversion_reads_no_image(tmp_path, arguments, monkeypatch, capsys):
    first = convert(ConvertArguments(**arguments), tmp_path / "one")
    before = read_files(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(LocalLocation, "read", read_no_image)
        second = convert(ConvertArguments(**arguments), tmp_path / "two")
    assert second == first
    assert read_files(tmp_path / "data") == before
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")
    assert "already contains the complete data set" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"shard_megabytes": 1}, {"max_image_pixels": 1000}, {"validation_fraction": 0.3}]
)
def test_other_arguments_are_rejected_and_nothing_is_changed(tmp_path, arguments, change):
    convert(ConvertArguments(**arguments), tmp_path / "one")
    before = read_files(tmp_path / "data")
    with pytest.raises(OutputError, match="a different finished data set"):
        convert(ConvertArguments(**arguments, **change), tmp_path / "two")
    assert read_files(tmp_path / "data") == before


def add_image(flowers):
    (flowers / "rose" / "new.jpg").write_bytes((flowers / "rose" / "0.jpg").read_bytes())


def remove_image(flowers):
    (flowers / "rose" / "0.jpg").unlink()


def change_image_of_the_same_size(flowers):
    path = flowers / "rose" / "0.jpg"
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("change", [add_image, remove_image, change_image_of_the_same_size])
def test_other_images_are_rejected(tmp_path, flowers, arguments, change):
    convert(ConvertArguments(**arguments), tmp_path / "one")
    # The timestamps of a file system may change only every few milliseconds.
    os.utime(
        tmp_path / "data" / MANIFEST_NAME, ns=(1, (tmp_path / "data" / MANIFEST_NAME).stat().st_mtime_ns)
    )
    later = (tmp_path / "data" / MANIFEST_NAME).stat().st_mtime_ns + 10**9
    change(flowers)
    if (flowers / "rose" / "0.jpg").exists():
        os.utime(flowers / "rose" / "0.jpg", ns=(later, later))
    with pytest.raises(OutputError, match="a different finished data set"):
        convert(ConvertArguments(**arguments), tmp_path / "two")


def test_data_set_with_a_missing_or_truncated_shard_is_not_finished(tmp_path, arguments):
    convert(ConvertArguments(**arguments), tmp_path / "one")
    shard = tmp_path / "data" / "train-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(OutputError):
        convert(ConvertArguments(**arguments), tmp_path / "two")
    shard.unlink()
    with pytest.raises(OutputError, match="train-00000-of-00001 is missing"):
        convert(ConvertArguments(**arguments), tmp_path / "two")


def test_stricter_max_rejected_fraction_is_checked(tmp_path, flowers, arguments):
    (flowers / "rose" / "bad.jpg").write_bytes(b"no image")
    convert(ConvertArguments(**arguments, max_rejected_fraction=0.5), tmp_path / "one")
    assert convert(ConvertArguments(**arguments, max_rejected_fraction=0.4), tmp_path / "two")
    with pytest.raises((OutputError, InvalidDataError), match="rejected"):
        convert(ConvertArguments(**arguments), tmp_path / "three")


def test_described_records_are_not_read_again(tmp_path, flowers, monkeypatch):
    convert(ConvertArguments(images=str(flowers)), tmp_path / "made")
    patterns = {
        "training_data_path": str(tmp_path / "made" / "train-*"),
        "validation_data_path": str(tmp_path / "made" / "validation-*"),
    }
    first = convert(ConvertArguments(**patterns), tmp_path / "described")
    with monkeypatch.context() as patched:
        patched.setattr("imgpipe.components.convert.convert.scan_records", read_nothing)
        assert convert(ConvertArguments(**patterns), tmp_path / "described") == first
    with pytest.raises(OutputError, match="it describes other files"):
        convert(
            ConvertArguments(**{**patterns, "training_data_path": patterns["validation_data_path"]}),
            tmp_path / "described",
        )
