import base64
import concurrent.futures
import json
import os
import signal
import subprocess
import sys

import httpx
import numpy as np
import pytest

from imgpipe.components.common.served_model import load_served_model


@pytest.fixture(scope="module")
def images(encode):
    draw = np.random.default_rng(0)
    return [encode(draw.integers(0, 256, (8, 8, 3))) for _ in range(20)]


@pytest.fixture(scope="module")
def expected(server, images):
    return load_served_model(server.folder).predict(images)


def test_rows_are_answered_in_order_as_the_model_answers(server, images, expected, row):
    answer = server.predict({"instances": [row(image, f"größe {n}") for n, image in enumerate(images)]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    predictions = answer.json()["predictions"]
    assert [one["key"] for one in predictions] == [f"größe {n}" for n in range(20)]
    assert [one["classes"] for one in predictions] == expected.classes.tolist()
    np.testing.assert_allclose(
        [one["probabilities"] for one in predictions], expected.probabilities, atol=1e-6
    )


def test_columns_are_answered_in_columns(server, images, expected):
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    answer = server.predict({"inputs": {"image_bytes": encoded, "key": [str(n) for n in range(20)]}})
    outputs = answer.json()["outputs"]
    assert outputs["classes"] == expected.classes.tolist()
    assert outputs["key"] == [str(n) for n in range(20)]


def test_a_signature_with_names_can_be_asked_for(server, images, expected, row):
    body = {"signature_name": "top_labels", "instances": [row(images[0])]}
    prediction = server.predict(body).json()["predictions"][0]
    names = ["dark", "größer", "bright"]
    order = np.argsort(-expected.probabilities[0], kind="stable")
    assert prediction["labels"] == [names[number] for number in order]
    assert prediction["classes"] == order.tolist()


def test_many_clients_at_once_each_get_their_own_answer(server, images, expected, row):
    def ask(number):
        body = {"instances": [row(images[number % 20], str(number))]}
        return number, server.predict(body).json()["predictions"][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number, prediction in pool.map(ask, range(200)):
            assert prediction["key"] == str(number)
            assert prediction["classes"] == expected.classes[number % 20]
    metrics = httpx.get(f"{server.address}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    batches, taken = (float(values[f"imgpipe_batch_images_{name}"]) for name in ("count", "sum"))
    # Some went through the model together.
    assert taken > batches


def test_a_damaged_image_fails_its_own_request_and_is_named(server, images, row):
    good = {"instances": [row(images[0])]}
    bad = {"instances": [row(images[1]), row(images[2][:-30], "the bad one")]}

    def ask(body):
        return server.predict(body)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [good, bad] * 20))
    assert {answer.status_code for answer in answers[::2]} == {200}
    assert {answer.status_code for answer in answers[1::2]} == {400}
    for answer in answers[1::2]:
        error = answer.json()["error"]
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


def test_a_method_that_no_path_takes_is_refused_in_json_like_everything_else(server):
    with httpx.Client() as client:
        for method in ("DELETE", "PUT", "PATCH", "OPTIONS"):
            for url in (f"{server.url}:predict", f"{server.address}/healthz", f"{server.address}/nowhere"):
                answer = client.request(method, url, content=b"{}")
                assert answer.status_code == 405
                assert answer.json() == {"error": f"{method} is not allowed here; use GET or POST"}
                assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}
        # The connection goes on.
        assert client.get(server.url).status_code == 200


def version_of(server):
    return httpx.get(f"{server.address}/healthz").json()["version"]


def test_a_new_version_takes_over_and_a_damaged_one_does_not(
    started, linear_model, images, row, until, tmp_path
):
    base = tmp_path / "flowers"
    linear_model(base / "1")
    (base / "notes").mkdir()
    server = started(f"--model={base}", "--poll_seconds=0.1")
    assert version_of(server) == 1
    linear_model(tmp_path / "new", seed=1)
    os.replace(tmp_path / "new", base / "2")
    until(lambda: version_of(server) == 2)
    (base / "3").mkdir()
    (base / "3" / "saved_model.pb").write_bytes(b"damaged")
    until(lambda: len(httpx.get(server.url).json()["model_version_status"]) == 2)
    statuses = httpx.get(server.url).json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in statuses] == [("2", "AVAILABLE"), ("3", "END")]
    assert "cannot be loaded" in statuses[1]["status"]["error_message"]
    expected = load_served_model(base / "2").predict(images[:1]).probabilities[0]
    answer = server.predict({"instances": [row(images[0])]}).json()["predictions"][0]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    # Taken back: what served before serves again.
    os.replace(base / "2", tmp_path / "withdrawn")
    until(lambda: version_of(server) == 1)


def test_what_is_asked_before_the_end_is_answered(started, linear_model, images, row, tmp_path):
    server = started(f"--model={linear_model(tmp_path / 'model')}")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.predict, {"instances": [row(images[0])]}) for _ in range(40)]
        answers[0].result()
        server.process.send_signal(signal.SIGTERM)
        statuses = []
        for answer in answers:
            try:
                statuses.append(answer.result().status_code)
            except httpx.HTTPError:
                statuses.append(0)
    # Those that were taken are answered; what came later was not let in.
    assert set(statuses) <= {200, 0}
    assert server.process.wait(20) == 0


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ([], 64, "--model is missing"),
        (["--model=nowhere"], 66, "no SavedModel"),
        (["--model=nowhere", "--port=70000"], 64, "port=70000"),
        (["--model=nowhere", "--modle=x"], 64, "did you mean --model?"),
    ],
)
def test_a_wrong_start_is_explained(flags, status, said, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe.components.serve", *flags], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == status
    assert said in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["remedy"]
