"""Every engine gives the answers of TensorFlow, with each signature."""

import asyncio
import base64
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import yaml

from imgpipe.components.common import engines
from imgpipe.components.common.drift import make_sketch
from imgpipe.components.common.engines import (
    AUTO,
    BFLOAT16,
    DEFAULT_ENGINE,
    ENGINES,
    ONNX_FILE,
    ONNX_RUNTIME,
    OPENVINO,
    Engine,
    load_network,
    select_engine,
    usable_engines,
)
from imgpipe.components.common.errors import CheckFailedError, InvalidArgumentError, MissingInputError
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.tf_import import tf
from imgpipe.components.common.verification import write_verification
from imgpipe.components.export.onnx_format import convert_to_onnx
from imgpipe.components.serve.application import Server
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serve.live_model import LiveModel
from tests.command_line import run_python


class Colours:
    """A small network with a convolution, whose answers are not certain."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.kernel = tf.constant(draw.normal(size=(3, 3, 3, 8)), tf.float32)
        self.head = tf.constant(draw.normal(size=(8, 4)), tf.float32)
        self.variables = []

    def features(self, images, *, training):  # noqa: ARG002 - the interface of train's classifiers
        filtered = tf.nn.relu(tf.nn.conv2d(tf.cast(images, tf.float32) / 255, self.kernel, 1, "SAME"))
        return tf.reduce_mean(filtered, axis=[1, 2])

    def logits_of_features(self, features, *, training):  # noqa: ARG002
        return features @ self.head


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours") / "model"
    write_saved_model(Colours(), 16, ("a", "b", "c", "d"), folder, set_thresholds=(0.9,) * 4)
    (folder / ONNX_FILE).parent.mkdir()
    (folder / ONNX_FILE).write_bytes(convert_to_onnx(load_served_model(folder).network_outputs, 16))
    return folder


@pytest.fixture(scope="module")
def files(encode):
    draw = np.random.default_rng(0)
    return [encode(draw.integers(0, draw.integers(1, 257), (20, 30, 3))) for _ in range(5)]


@pytest.mark.parametrize(
    "engine",
    [Engine(ONNX_RUNTIME), Engine(OPENVINO), Engine(OPENVINO, BFLOAT16)],
    ids=str,
)
def test_an_engine_gives_the_answers_of_tensorflow(folder, files, engine):
    if engine not in usable_engines():
        pytest.skip(f"{engine} is not available on this machine")
    tolerance = 1e-5 if engine.precision != BFLOAT16 else 0.02
    plain, other = load_served_model(folder), load_served_model(folder, engine)
    assert (plain.engine, other.engine) == (DEFAULT_ENGINE, engine)
    assert "embeddings" in plain.signatures
    for name in plain.signatures:
        for images in (files, files[:1]):
            keys = [f"key {number}" for number in range(len(images))]
            expected, found = (model.call(images, keys, name) for model in (plain, other))
            assert found.keys() == expected.keys()
            with_embeddings, embeddings = other.call_with_embeddings(images, keys, name)
            assert with_embeddings.keys() == expected.keys()
            assert embeddings.shape == (len(images), 8)
            for output, values in expected.items():
                if values.dtype == np.float32:
                    np.testing.assert_allclose(found[output], values, atol=tolerance)
                else:
                    assert found[output].tolist() == values.tolist()


@pytest.mark.parametrize("engine", [Engine(ONNX_RUNTIME), Engine(OPENVINO)], ids=str)
def test_threads_that_call_a_network_at_the_same_time_get_their_own_answers(folder, engine):
    network = load_network(engine, folder)
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    expected = network(images)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: [network(images[[n]])[0] for n in range(40)], range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-5)


# As `imgpipe serve` does: it releases the previous model in another thread.
RELEASE_AND_TERMINATE = """
import gc, os, signal, sys, threading
from pathlib import Path
from imgpipe.components.common.engines import OPENVINO, Engine, load_network

network = load_network(Engine(OPENVINO), Path(sys.argv[1]))

def release():
    global network
    del network
    gc.collect()

thread = threading.Thread(target=release)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_is_handled_after_a_model_of_openvino_was_released(folder):
    if Engine(OPENVINO) not in usable_engines():
        pytest.skip("openvino is not available on this machine")
    ended = run_python(RELEASE_AND_TERMINATE, str(folder))
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_the_engine_that_the_export_found_the_fastest_is_used_where_it_can_be(tmp_path, monkeypatch):
    assert select_engine("auto", tmp_path) == DEFAULT_ENGINE
    measured = {
        "servingEngine": {
            "format": "onnx",
            "engine": OPENVINO,
            "precision": BFLOAT16,
            "largestDifference": 0.02,
        }
    }
    (tmp_path / "deployment_config.yaml").write_text(yaml.safe_dump(measured))
    fastest = Engine(OPENVINO, BFLOAT16)
    assert select_engine(OPENVINO, tmp_path).largest_difference == 0.02
    monkeypatch.setattr(engines, "usable_engines", lambda: [fastest])
    assert [select_engine(name, tmp_path) for name in ("auto", *ENGINES)] == [
        fastest,
        DEFAULT_ENGINE,
        Engine(ONNX_RUNTIME),
        fastest,
    ]
    monkeypatch.setattr(engines, "usable_engines", lambda: [Engine(ONNX_RUNTIME)])
    assert select_engine("auto", tmp_path) == DEFAULT_ENGINE


def test_a_missing_package_or_file_is_reported(folder, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match=r"(?s)needs formats/model.onnx.*export_formats=onnx"):
        load_network(Engine(ONNX_RUNTIME), tmp_path)
    (tmp_path / "formats").mkdir()
    (tmp_path / ONNX_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckFailedError, match=r"onnxruntime cannot load formats/model\.onnx"):
        load_network(Engine(ONNX_RUNTIME), tmp_path)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InvalidArgumentError, match=r"(?s)not installed.*install .*\[openvino\]"):
        load_network(Engine(OPENVINO), folder)
    assert usable_engines() == []


def test_an_engine_with_other_answers_does_not_serve(folder, files, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    probabilities = load_served_model(folder).predict(files).probabilities
    write_verification(model, "abcd", files, probabilities.tolist())
    assert LiveModel(model, ONNX_RUNTIME).engine == Engine(ONNX_RUNTIME)
    write_verification(model, "abcd", files, np.roll(probabilities, 1, axis=1).tolist())
    assert LiveModel(model).engine == DEFAULT_ENGINE
    with pytest.raises(MissingInputError, match=r"(?s)answers are not those of .*engine=tensorflow"):
        LiveModel(model, ONNX_RUNTIME)


def test_tensorflow_takes_the_place_of_the_fastest_engine_if_that_cannot_load_the_model(
    folder, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    (model / ONNX_FILE).write_bytes(b"damaged")
    measured = {"format": "onnx", "engine": ONNX_RUNTIME, "precision": "float32", "largestDifference": 0.0}
    (model / "deployment_config.yaml").write_text(yaml.safe_dump({"servingEngine": measured}))
    assert LiveModel(model, AUTO).engine == DEFAULT_ENGINE
    assert "onnxruntime cannot load formats/model.onnx" in capsys.readouterr().out
    with pytest.raises(MissingInputError, match="onnxruntime cannot load"):
        LiveModel(model, ONNX_RUNTIME)


def test_served_images_are_compared_with_the_evaluation(folder, encode, tmp_path):
    """Through the application, with its metrics; 200 images are a window."""
    draw = np.random.default_rng(0)
    clean = [encode(draw.integers(0, draw.integers(1, 257), (6, 6, 3))) for _ in range(400)]
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    served = load_served_model(model)
    keys = [str(number) for number in range(len(clean))]
    make_sketch(served.call(clean[:200], keys[:200], "embeddings")["embeddings"]).save(model)
    server = Server(ServeArguments(model=str(model), max_images_per_request=200), LiveModel(model))
    transport = httpx.ASGITransport(server.application())

    async def send(*batches):
        """Sends images in one request for each batch, and returns the metrics of the drift."""
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for images in batches:
                rows = [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]
                response = await client.post("/v1/models/model:predict", json={"instances": rows})
                np.testing.assert_allclose(
                    [row["probabilities"] for row in response.json()["predictions"]],
                    served.predict(images).probabilities,
                    atol=1e-5,
                )
            lines = (await client.get("/metrics")).text.splitlines()
        pairs = (line.split() for line in lines if line.startswith("imgpipe_drift"))
        return {name.removeprefix("imgpipe_drift_"): float(value) for name, value in pairs}

    async def scenario():
        grey = [encode(draw.integers(100, 120, (6, 6, 3))) for _ in range(200)]
        return await send(clean[200:399]), await send(clean[399:]), await send(grey)

    before, first, second = asyncio.run(scenario())
    assert np.isnan(before["distance"])
    assert (first["windows_total"], first["alarms_total"]) == (1, 0)
    assert first["p_value"] > 0.01
    assert (second["windows_total"], second["alarms_total"]) == (2, 1)
    assert second["p_value"] <= 0.01
    assert second["distance"] > first["distance"]
