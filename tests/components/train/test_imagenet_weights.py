"""ImageNet weights from this machine or a download."""

import hashlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from imgpipe.components.common.errors import EXIT_CODE_INTERRUPTED, UnavailableError
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.train import imagenet_weights
from imgpipe.components.train.imagenet_weights import link_weight_files
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import build_classifier
from imgpipe.components.train.weight_files import weights_file_name

MOBILENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
PRETRAINED = Path(__file__).parents[4] / "shared" / "data" / "pretrained"


def build(model_type="mobilenet-v2", weights="imagenet", size=32, seed=0):
    return build_classifier(model_type, num_classes=2, image_size=size, weights=weights, seed=seed)


@pytest.fixture
def silent_proxy(monkeypatch):
    """A proxy that accepts a connection, calls ``on_connect`` and never responds."""

    @contextmanager
    def proxy(on_connect=lambda: None):
        with socket.create_server(("127.0.0.1", 0)) as server:
            connections = []

            def accept():
                connections.append(server.accept()[0])
                on_connect()

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            # urllib caches an opener made from the environment variables.
            monkeypatch.setattr(urllib.request, "_opener", None)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            for name in ("https_proxy", "HTTPS_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
            yield
            thread.join(timeout=5)
            assert connections
            connections[0].close()

    return proxy


# Where Keras has the digests of the published files.
HASHES = {
    "mobilenet-v3-small": ("mobilenet_v3", "small_224_1.0_float"),
    "convnext-tiny": ("convnext", "convnext_tiny"),
}


@pytest.mark.parametrize(
    "model_type",
    ["mobilenet-v2", "mobilenet-v3-small", pytest.param("convnext-tiny", marks=pytest.mark.proof)],
)
def test_weights_are_loaded_from_keras_cache(model_type, keras_models, monkeypatch):
    published = getattr(keras.applications, MODEL_TYPES[model_type].keras_name)(
        include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    rng = np.random.default_rng(0)
    for variable in published.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = keras_models / weights_file_name(model_type, 32)
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, published)
    if model_type in HASHES:
        module, name = HASHES[model_type]
        hashes = importlib.import_module(f"keras.src.applications.{module}").WEIGHTS_HASHES
        monkeypatch.setitem(hashes, name, ("", hashlib.sha256(path.read_bytes()).hexdigest()))
    loaded = build(model_type, seed=1).backbone
    assert len(loaded.variables) == len(published.variables)
    for variable, value in zip(loaded.variables, published.variables, strict=True):
        assert np.array_equal(variable.numpy(), value.numpy()), variable.path
    random = build(model_type, weights="none", seed=1).backbone
    assert not np.array_equal(random.variables[0].numpy(), loaded.variables[0].numpy())


@pytest.mark.skipif(not PRETRAINED.is_dir(), reason="../shared/data/pretrained is not here")
def test_the_published_weights_recognize_photos(keras_models):
    photos = sorted((PRETRAINED.parent / "flowers_224" / "val" / "daisy").glob("*"))[:8]
    if not photos:
        pytest.skip("../shared/data/flowers_224 is not here")
    shutil.copy(PRETRAINED / MOBILENET_FILE, keras_models)
    # The published last layer on top of our backbone. ImageNet's class 985 is daisy.
    top = PRETRAINED / MOBILENET_FILE.replace("_no_top", "")
    last = keras.applications.MobileNetV2(weights=str(top)).layers[-1]
    images = tf.stack([decode_image(tf.constant(path.read_bytes()), 224) for path in photos])
    classes = last(build(size=224).backbone(tf.cast(images, tf.float32))).numpy().argmax(axis=1)
    assert np.mean(classes == 985) >= 0.75


def test_a_download_times_out_with_a_remedy(keras_models, silent_proxy, monkeypatch):
    monkeypatch.setattr(imagenet_weights, "_DOWNLOAD_TIMEOUT_SECONDS", 0.5)
    started = time.monotonic()
    with silent_proxy(), pytest.raises(UnavailableError) as caught:
        build("mobilenet-v2")
    assert time.monotonic() - started < 15
    assert "mobilenet-v2" in caught.value.problem
    assert caught.value.where == str(keras_models / MOBILENET_FILE)
    assert "set weights to none" in caught.value.remedy
    assert socket.getdefaulttimeout() is None


def test_a_damaged_weights_file_is_unavailable(keras_models):
    (keras_models / MOBILENET_FILE).write_bytes(b"not an HDF5 file")
    with pytest.raises(UnavailableError, match="of mobilenet-v2 is damaged") as caught:
        build()
    assert caught.value.where == str(keras_models / MOBILENET_FILE)


def test_a_file_of_another_network_is_reported_with_its_path(keras_models):
    with h5py.File(keras_models / MOBILENET_FILE, "w") as file:
        save_weights_to_hdf5_group(file, keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    with pytest.raises(UnavailableError, match="damaged or of another network") as caught:
        build()
    assert caught.value.where == str(keras_models / MOBILENET_FILE)


def test_sigterm_during_the_download_interrupts_the_run(tmp_path, silent_proxy):
    code = (
        "from imgpipe.components.common.step import run_command\n"
        "from imgpipe.components.train.models import build_classifier\n"
        "run_command('train', lambda: build_classifier(\n"
        "    'mobilenet-v2', num_classes=2, image_size=32, weights='imagenet', seed=0))"
    )
    started = []
    with silent_proxy(lambda: started[0].send_signal(signal.SIGTERM)):
        environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
        started.append(
            subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        )
        shown, _ = started[0].communicate(timeout=120)
    assert started[0].returncode == EXIT_CODE_INTERRUPTED
    assert "train was terminated by SIGTERM" in shown


@pytest.fixture
def home(keras_models):
    (keras_models / "some_weights.h5").write_bytes(b"weights")
    return keras_models.parent


@pytest.fixture
def read_only_home(home, monkeypatch):
    # Simulates a read-only mount, since root may write anywhere.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home) and access(path, mode))
    return home


def test_weights_in_a_read_only_home_are_linked_in_keras_fallback_folder(read_only_home, tmp_path):
    link_weight_files(tmp_path / "fallback")
    link_weight_files(tmp_path / "fallback")
    assert (tmp_path / "fallback" / "models" / "some_weights.h5").read_bytes() == b"weights"


def test_an_existing_file_is_kept(read_only_home, tmp_path):
    existing = tmp_path / "fallback" / "models" / "some_weights.h5"
    existing.parent.mkdir(parents=True)
    existing.write_bytes(b"another")
    link_weight_files(tmp_path / "fallback")
    assert existing.read_bytes() == b"another"


def test_a_writable_home_needs_no_links(home, tmp_path):
    link_weight_files(tmp_path / "fallback")
    assert not (tmp_path / "fallback").exists()
