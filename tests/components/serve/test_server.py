import base64
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest

from imgpipe.components.common.engines import ONNX_FILE
from imgpipe.components.common.log import json_environment, parse_event
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.export.onnx_format import convert_to_onnx
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def images(encode):
    draw = np.random.default_rng(0)
    return [encode(draw.integers(0, 256, (8, 8, 3))) for _ in range(20)]


@pytest.fixture(scope="module")
def expected(server, images):
    return load_served_model(server.folder).predict(images)


def test_rows_are_predicted_in_order_as_by_the_model(server, images, expected, row):
    response = server.predict({"instances": [row(image, f"größe {n}") for n, image in enumerate(images)]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    predictions = response.json()["predictions"]
    assert [prediction["key"] for prediction in predictions] == [f"größe {n}" for n in range(20)]
    assert [prediction["classes"] for prediction in predictions] == expected.classes.tolist()
    np.testing.assert_allclose(
        [prediction["probabilities"] for prediction in predictions], expected.probabilities, atol=1e-6
    )


def test_columns_get_a_response_by_column(server, images, expected):
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    response = server.predict({"inputs": {"image_bytes": encoded, "key": [str(n) for n in range(20)]}})
    outputs = response.json()["outputs"]
    assert outputs["classes"] == expected.classes.tolist()
    assert outputs["key"] == [str(n) for n in range(20)]


def test_a_signature_can_be_selected(server, images, expected, row):
    body = {"signature_name": "top_labels", "instances": [row(images[0])]}
    prediction = server.predict(body).json()["predictions"][0]
    names = ["dark", "größer", "bright"]
    order = np.argsort(-expected.probabilities[0], kind="stable")
    assert prediction["labels"] == [names[number] for number in order]
    assert prediction["classes"] == order.tolist()


def test_an_uploaded_file_is_predicted_with_labels(server, images, expected):
    response = httpx.post(f"{server.url}:predict", files={"image": ("photo.png", images[0])})
    assert response.status_code == 200
    (prediction,) = response.json()["predictions"]
    assert prediction["key"] == "photo.png"
    assert prediction["labels"][0] == ["dark", "größer", "bright"][expected.classes[0]]
    raw = httpx.post(f"{server.url}:predict", content=images[0], headers={"Content-Type": "image/png"})
    assert raw.json()["predictions"][0]["labels"] == prediction["labels"]
    broken = httpx.post(f"{server.url}:predict", files={"image": ("photo.png", images[0][:40])})
    assert broken.status_code == 400
    assert "photo.png" in broken.json()["error"]


def test_the_page_to_drop_pictures_on_names_the_model_and_loads_nothing_from_elsewhere(server):
    response = httpx.get(server.address)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert f'data-model="{server.name}"' in response.text
    assert "default-src 'none'" in response.text
    assert "//" not in response.text.replace("// ", "")


def test_concurrent_clients_each_get_their_own_response(server, images, expected, row):
    def predict(number):
        body = {"instances": [row(images[number % 20], str(number))]}
        return number, server.predict(body).json()["predictions"][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number, prediction in pool.map(predict, range(200)):
            assert prediction["key"] == str(number)
            assert prediction["classes"] == expected.classes[number % 20]
    metrics = httpx.get(f"{server.address}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    batches, images = (float(values[f"imgpipe_batch_images_{name}"]) for name in ("count", "sum"))
    # Some batches had more than one image.
    assert images > batches


def test_a_damaged_image_fails_its_own_request_only_and_is_named(server, images, row):
    good = {"instances": [row(images[0])]}
    bad = {"instances": [row(images[1]), row(images[2][:-30], "the bad one")]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(server.predict, [good, bad] * 20))
    assert {response.status_code for response in responses[::2]} == {200}
    assert {response.status_code for response in responses[1::2]} == {400}
    for response in responses[1::2]:
        error = response.json()["error"]
        assert error.startswith("image 1: the model cannot decode an image: ")
        assert "Graph execution" not in error
        assert "PNG" in error


def test_status_metadata_health_and_metrics(server):
    assert httpx.get(server.url).json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert httpx.get(f"{server.url}/versions/1").status_code == 200
    metadata = httpx.get(f"{server.url}/metadata").json()
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "classify", "top_labels"}
    assert signatures["serving_default"]["outputs"]["probabilities"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1"}, {"size": "3"}]},
    }
    assert metadata["metadata"]["labels"] == ["dark", "größer", "bright"]
    assert httpx.get(f"{server.address}/healthz").json() == {"status": "ok", "version": 1}
    assert 'imgpipe_requests_total{status="200"}' in httpx.get(f"{server.address}/metrics").text


def test_a_method_that_no_path_allows_gets_a_json_error(server):
    with httpx.Client() as client:
        for method in ("DELETE", "PUT", "PATCH", "OPTIONS"):
            for url in (f"{server.url}:predict", f"{server.address}/healthz", f"{server.address}/nowhere"):
                response = client.request(method, url, content=b"{}")
                assert response.status_code == 405
                assert response.json() == {"error": f"{method} is not allowed here; use GET or POST"}
                assert set(response.headers["allow"].split(", ")) == {"GET", "POST"}
        # The connection stays open.
        assert client.get(server.url).status_code == 200


def version_of(server):
    return httpx.get(f"{server.address}/healthz").json()["version"]


def test_a_new_version_takes_over_and_a_damaged_one_does_not(started, linear_model, images, row, tmp_path):
    base = tmp_path / "flowers"
    linear_model(base / "1")
    (base / "notes").mkdir()
    server = started(f"--model={base}", "--poll_seconds=0.1")
    assert version_of(server) == 1
    linear_model(tmp_path / "new", seed=1)
    os.replace(tmp_path / "new", base / "2")
    wait_until(lambda: version_of(server) == 2)
    (base / "3").mkdir()
    (base / "3" / "saved_model.pb").write_bytes(b"damaged")
    wait_until(lambda: len(httpx.get(server.url).json()["model_version_status"]) == 2)
    statuses = httpx.get(server.url).json()["model_version_status"]
    assert [(status["version"], status["state"]) for status in statuses] == [("2", "AVAILABLE"), ("3", "END")]
    assert "cannot be loaded" in statuses[1]["status"]["error_message"]
    expected = load_served_model(base / "2").predict(images[:1]).probabilities[0]
    prediction = server.predict({"instances": [row(images[0])]}).json()["predictions"][0]
    np.testing.assert_allclose(prediction["probabilities"], expected, atol=1e-6)
    # The new version is withdrawn: the previous one is served again.
    os.replace(base / "2", tmp_path / "withdrawn")
    wait_until(lambda: version_of(server) == 1)


def test_requests_in_progress_are_completed_on_sigterm(started, linear_model, images, row, tmp_path):
    server = started(f"--model={linear_model(tmp_path / 'model')}")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(server.predict, {"instances": [row(images[0])]}) for _ in range(40)]
        futures[0].result()
        server.process.send_signal(signal.SIGTERM)
        statuses = []
        for future in futures:
            try:
                statuses.append(future.result().status_code)
            except httpx.HTTPError:
                statuses.append(0)
    # Accepted requests get a response; later ones are refused the connection.
    assert set(statuses) <= {200, 0}
    assert server.process.wait(20) == 0


def test_the_port_opens_when_the_model_is_loaded_and_not_before(linear_model, tmp_path):
    model, log = linear_model(tmp_path / "colours"), tmp_path / "log"
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    command = [sys.executable, "-m", "imgpipe.components.serve", f"--model={model}", f"--port={port}"]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, env=json_environment()) as process:
        try:
            wait_until(lambda: is_open(port), 120)
            # The line is written when the model is loaded and has answered.
            assert '"version_served"' in log.read_text()
            status = httpx.get(f"http://127.0.0.1:{port}/v1/models/colours", timeout=30).json()
        finally:
            process.terminate()
    (version,) = status["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    assert process.returncode == 0


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 64, "model is missing"),
        (["--model=nowhere"], 66, "there is no folder 'nowhere'"),
        (["--model=nowhere", "--port=70000"], 64, "port=70000"),
        (["--model=nowhere", "--engine=tensorrt"], 64, "engine='tensorrt'"),
        (["--model=nowhere", "--modle=x"], 64, "did you mean --model?"),
    ],
)
def test_a_failed_start_is_explained(flags, status, message):
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe.components.serve", *flags], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == status
    assert message in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["remedy"]


def test_the_folder_of_a_run_is_served_with_another_engine(started, linear_model, images, row, tmp_path):
    folder = linear_model(tmp_path / "run" / "model", ("dark", "bright"))
    model = load_served_model(folder)
    (folder / ONNX_FILE).parent.mkdir()
    (folder / ONNX_FILE).write_bytes(convert_to_onnx(model.network, 8))
    server = started(f"--model={tmp_path / 'run'}", "--engine=onnxruntime")
    assert server.name == "run"
    assert parse_event(server.lines[-1])["engine"] == "onnxruntime"
    predictions = server.predict({"instances": [row(image) for image in images]}).json()["predictions"]
    np.testing.assert_allclose(
        [prediction["probabilities"] for prediction in predictions],
        model.predict(images).probabilities,
        atol=1e-6,
    )
