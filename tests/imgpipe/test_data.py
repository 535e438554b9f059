"""convert and validate from Python."""

import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import imgpipe
from imgpipe.errors import InvalidArgumentError, MissingInputError, OutputError
from tests.imgpipe.conftest import LABELS
from tests.servers.faulty_bucket import BUCKET


@pytest.fixture(scope="module")
def dataset(flowers, tmp_path_factory):
    return imgpipe.convert(tmp_path_factory.mktemp("data") / "shards", images=flowers, progress=False)


def test_convert_returns_what_it_made(dataset):
    assert dataset.labels == LABELS
    assert dataset.image_counts == {"train": 48, "validation": 12}
    assert dataset.images_per_label["validation"] == {"daisy": 4, "rose": 4, "tulip": 4}


def test_convert_shows_its_progress_on_stderr(flowers, tmp_path, capfd):
    imgpipe.convert(tmp_path / "shards", images=str(flowers))
    shown = capfd.readouterr()
    assert "60 rows = 60 written" in shown.err
    assert shown.out == ""


def test_convert_without_progress_is_silent(flowers, tmp_path, capfd):
    imgpipe.convert(tmp_path / "shards", images=str(flowers), progress=False)
    assert capfd.readouterr() == ("", "")


def test_convert_into_a_folder_with_other_files_raises(flowers, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        imgpipe.convert(tmp_path, images=flowers, progress=False)


def test_an_interrupt_of_this_process_alone_ends_the_step(tmp_path, monkeypatch):
    # As from the stop button of some notebooks, while the step waits for a server that never responds.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")

        def interrupt():
            server.accept()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            imgpipe.convert(tmp_path / "shards", images="s3://bucket/flowers", progress=False)
    assert time.monotonic() - started < 20


def test_a_wrong_option_is_refused_before_any_work(flowers, tmp_path):
    with pytest.raises(InvalidArgumentError, match="validation_fraction=2"):
        imgpipe.convert(tmp_path / "shards", images=flowers, validation_fraction=2.0)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("wrong", [None, 3, b"folder", ["folder"], ""])
def test_what_is_not_a_path_of_a_data_set_is_refused(wrong):
    for use in (
        imgpipe.Dataset,
        imgpipe.validate,
        imgpipe.audit,
        imgpipe.convert,
        imgpipe.Run,
        lambda path: imgpipe.run(dataset=path if path is not None else 3),
    ):
        with pytest.raises(InvalidArgumentError, match="is not a path") as raised:
            use(wrong)
        assert raised.value.remedy


def test_values_of_numpy_and_lists_are_accepted(flowers, tmp_path):
    dataset = imgpipe.convert(
        tmp_path / "shards",
        images=[f"{flowers}/daisy/*.png", f"{flowers}/rose/*.png"],
        seed=np.int64(3),
        validation_fraction=np.float32(0.25),
        progress=False,
    )
    assert dataset.image_counts == {"train": 30, "validation": 10}


def test_validate_finds_nothing_wrong_with_good_data(dataset):
    validation = imgpipe.validate(dataset, train_batch_size=8, progress=False)
    assert validation.ok
    assert validation.errors == ()
    assert validation._repr_html_().startswith("<iframe")


def test_validate_compares_the_batch_size_only_if_it_is_given(flowers, tmp_path):
    for label in ("daisy", "rose"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for number in range(4):
            shutil.copy(flowers / label / f"{number}.png", tmp_path / "few" / label)
    few = imgpipe.convert(tmp_path / "shards", images=tmp_path / "few", progress=False)
    assert imgpipe.validate(few, progress=False).ok
    [error] = imgpipe.validate(few, train_batch_size=32, progress=False).errors
    assert error["kind"] == "train_batch_size"


def test_validate_compares_the_size_of_the_images_only_if_that_of_the_training_is_given(dataset):
    assert imgpipe.validate(dataset, progress=False).warnings == ()
    for options in ({"model_type": "resnet-18"}, {"image_size": 600}):
        [warning] = imgpipe.validate(dataset, **options, progress=False).warnings
        assert warning["kind"] == "image_far_smaller"


def test_validate_returns_errors_instead_of_raising(dataset, tmp_path):
    page = tmp_path / "page.html"
    validation = imgpipe.validate(dataset.path, num_classes=7, report=page, progress=False)
    assert not validation.ok
    assert any("7" in finding["problem"] for finding in validation.errors)
    assert validation.report.path == page
    assert "<html" in page.read_text()


def test_validate_raises_where_there_is_no_data_set(tmp_path):
    with pytest.raises(MissingInputError, match=r"manifest\.json"):
        imgpipe.validate(tmp_path, progress=False)


def test_a_data_set_in_cloud_storage_is_read(dataset, cloud):
    cloud.put("shards/manifest.json", Path(dataset.path, "manifest.json").read_bytes())
    assert imgpipe.Dataset(f"gs://{BUCKET}/shards").labels == LABELS
