"""Serving and batch prediction, compared with the model alone, and the engines, compared with TensorFlow.

``python -m benchmarks.serve``. Takes about three minutes on two cores, with mobilenet-v2 at 224 pixels and
random weights, which are as fast as any others. The photos have 224 x 224 pixels; the cost of decoding
larger ones is a line of its own. Speeds are in images per second.

* ``decode_cost``: time of a batch of 32 JPEG files, decoded inside the served graph, divided by the time of
  the network alone on decoded pixels.
* ``server_efficiency``: speed of ``imgpipe serve`` with a client in another process, one image per request,
  divided by the speed of the served graph in its own process, in batches of 32. The client shares the
  cores.
* ``predict_efficiency``: speed of batch prediction, from files to lines, divided by the speed of the
  network with the training input pipeline and TFRecord files.
* ``predict_vs_keras``: the same, divided by the speed of a loop of Keras' ``load_img`` and ``predict``.
* ``engine_speedup_mobilenet_v2``, ``engine_speedup_resnet_50``: median time for one image of the network in
  TensorFlow, divided by that of the fastest engine in float32, in turns. ``..._bfloat16`` is that of OpenVINO
  in bfloat16, if it and the processor have it; whether that loses accuracy depends on the model.

``python -m benchmarks.serve engines`` measures the last ones alone.
"""

import asyncio
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.corpus import write_corpus
from benchmarks.measure import REPOSITORY, print_result, print_table
from benchmarks.needs import check_needs

MODEL_TYPE, IMAGE_SIZE, BATCH, CLASSES = "mobilenet-v2", 224, 32, 5
IMAGES = 320
# Concurrent requests: the server collects batches while the model computes another one.
CONNECTIONS = 3 * BATCH
SECONDS = 10.0
ENGINE_MODEL_TYPES = ("mobilenet-v2", "resnet-50")
ROUNDS = 3

_PACKAGES = ("tf2onnx", "onnxruntime", "openvino")


def main() -> None:
    """Runs the benchmark; with the argument ``client`` or ``model``, that part of it in its own process."""
    if sys.argv[1:2] == ["client"]:
        address, folder, rate = sys.argv[2:]
        print(json.dumps(asyncio.run(_send(address, Path(folder), float(rate)))))
        return
    if sys.argv[1:2] == ["model"]:
        print(json.dumps(_model_rates(Path(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["engine"]:
        print(json.dumps(_engine_milliseconds(sys.argv[2], Path(sys.argv[3]))))
        return
    if sys.argv[1:2] == ["engines"]:
        check_needs(minutes=2, disk_gb=0.5, packages=_PACKAGES)
        print_result(**_engine_speedups())
        return
    check_needs(minutes=3, disk_gb=0.5, packages=_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        _benchmark(Path(name))


def _benchmark(folder: Path) -> None:
    names = write_corpus(folder / "large", IMAGES)
    (folder / "images").mkdir()
    for name in names:
        with Image.open(folder / "large" / name) as photo:
            photo.resize((IMAGE_SIZE, IMAGE_SIZE)).save(folder / "images" / name, quality=90)
    size = sum((folder / "images" / name).stat().st_size for name in names) / len(names) / 1e3
    print(f"{len(names)} JPEG files of {size:.0f} KB on average; {MODEL_TYPE} at {IMAGE_SIZE} pixels")
    _write_model(folder / "model")
    rates = _in_process("model", str(folder))
    served, in_process = [], []
    with _server(folder / "model") as address:
        # A warm-up: the first batches of each size are slower.
        _in_process("client", address, str(folder), "0")
        for _ in range(ROUNDS):
            in_process.append(_in_process("model", str(folder), "graph")["graph"])
            served.append(_in_process("client", address, str(folder), "0")["rate"])
        half = statistics.median(served) / 2
        latencies = _in_process("client", address, str(folder), str(half))
    print_table(
        ("side", "images/s"),
        [
            ("network alone, decoded pixels, batch 32", f"{rates['network']:.1f}"),
            ("served graph, JPEG files, batch 32", f"{statistics.median(in_process):.1f}"),
            ("imgpipe serve, one image per request", f"{statistics.median(served):.1f}"),
            ("network with the training input pipeline", f"{rates['pipeline']:.1f}"),
            ("batch prediction, files to lines", f"{rates['predict']:.1f}"),
            ("Keras: load_img and predict, in a loop", f"{rates['keras']:.1f}"),
        ],
    )
    print(f"decoding photos of 500 x 375 pixels: {rates['decode_cost_large']:.3f} times the network alone")
    print(
        f"imgpipe serve at half load, {latencies['rate']:.1f} requests/s: p50 {latencies['p50_ms']:.0f} ms, "
        f"p99 {latencies['p99_ms']:.0f} ms"
    )
    print_result(
        decode_cost=rates["decode_cost"],
        server_efficiency=statistics.median(
            ours / theirs for ours, theirs in zip(served, in_process, strict=True)
        ),
        predict_efficiency=rates["predict"] / rates["pipeline"],
        predict_vs_keras=rates["predict"] / rates["keras"],
        half_load_p50_ms=latencies["p50_ms"],
        half_load_p99_ms=latencies["p99_ms"],
        **_engine_speedups(),
    )


def _engine_speedups() -> dict[str, float]:
    results, rows = {}, []
    for model_type in ENGINE_MODEL_TYPES:
        with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as folder:
            milliseconds = _in_process("engine", model_type, str(Path(folder) / "model"))
        rows += [(model_type, name, f"{value:.2f}") for name, value in milliseconds.items()]
        key = f"engine_speedup_{model_type.replace('-', '_')}"
        tensorflow = milliseconds.pop("tensorflow")
        rounded = milliseconds.pop("openvino in bfloat16", None)
        results[key] = tensorflow / min(milliseconds.values())
        if rounded is not None:
            results[f"{key}_bfloat16"] = tensorflow / rounded
    print_table(("network", "engine", "ms for one image"), rows)
    return results


def _in_process(*arguments: str) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(result.stdout[-1000:] + result.stderr[-3000:])
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def _write_model(folder: Path) -> None:
    code = (
        "import pathlib, sys; from benchmarks.serve import classifier; "
        "from imgpipe.components.common.saved_model import write_saved_model; "
        f"write_saved_model(classifier(), {IMAGE_SIZE}, [str(n) for n in range({CLASSES})], "
        "pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, check=True, capture_output=True)


def classifier(model_type: str = MODEL_TYPE) -> Any:
    """Returns the network, with reproducible random weights."""
    from imgpipe.components.train.models import build_classifier

    return build_classifier(model_type, num_classes=CLASSES, image_size=IMAGE_SIZE, weights="none", seed=0)


# ---------------------------------------------------------------- in its own process


def _model_rates(folder: Path) -> dict[str, float]:
    """Measures the model without a server, all variants in turns."""
    from imgpipe.components.batch_predict.arguments import BatchPredictArguments
    from imgpipe.components.batch_predict.inputs import list_inputs
    from imgpipe.components.batch_predict.predictor import Predictor
    from imgpipe.components.common.served_model import load_served_model

    paths = sorted((folder / "images").iterdir())
    images = [path.read_bytes() for path in paths]
    model = load_served_model(folder / "model")

    def graph() -> None:
        for start in range(0, len(images), BATCH):
            model.predict(images[start : start + BATCH])

    model.predict(images[:BATCH])
    if sys.argv[3:] == ["graph"]:
        # For as long as the client sends requests.
        return {"graph": _rate(graph, len(images), SECONDS)}
    from imgpipe.components.common.tf_import import keras, tf
    from imgpipe.components.images.graph.training_decoder import decode_image
    from imgpipe.components.train.input_pipeline import evaluation_batches

    built = classifier()

    @tf.function(input_signature=[tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.uint8)])
    def network(pixels: Any) -> Any:
        return tf.nn.softmax(built.logits(pixels, training=False))

    pixels = [
        tf.stack([decode_image(tf.constant(image), IMAGE_SIZE) for image in images[start : start + BATCH]])
        for start in range(0, 4 * BATCH, BATCH)
    ]
    shard = _write_shard(folder, images)
    arguments = BatchPredictArguments(model="-", images=str(folder / "images"))
    files = list_inputs(arguments)
    predictor = Predictor(model, arguments)
    whole = keras.Sequential([keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3)), built.backbone, built.head])

    def from_pipeline() -> None:
        for batch, _ in evaluation_batches(
            [shard], shard_examples=[len(images)], image_size=IMAGE_SIZE, batch_size=BATCH
        ):
            network(batch).numpy()

    def keras_loop() -> None:
        for path in paths[:BATCH]:
            image = keras.utils.load_img(path, target_size=(IMAGE_SIZE, IMAGE_SIZE))
            whole.predict(keras.utils.img_to_array(image)[None], verbose=0)

    def from_pixels() -> None:
        for batch in pixels:
            network(batch).numpy()

    large = [path.read_bytes() for path in sorted((folder / "large").iterdir())[: 4 * BATCH]]

    def from_files(encoded: Sequence[bytes]) -> None:
        for start in range(0, 4 * BATCH, BATCH):
            model.predict(encoded[start : start + BATCH])

    variants: dict[str, tuple[Callable[[], object], int]] = {
        "network": (from_pixels, 4 * BATCH),
        "decoded": (lambda: from_files(images), 4 * BATCH),
        "large": (lambda: from_files(large), 4 * BATCH),
        "pipeline": (from_pipeline, len(images)),
        "predict": (lambda: list(predictor.lines(files)), len(images)),
        "keras": (keras_loop, BATCH),
    }
    for function, _ in variants.values():
        function()  # warm-up
    rounds = [
        {name: _rate(function, count, 0) for name, (function, count) in variants.items()}
        for _ in range(ROUNDS)
    ]
    predictor.close()
    result = {name: statistics.median(rates[name] for rates in rounds) for name in variants}
    for key, name in (("decode_cost", "decoded"), ("decode_cost_large", "large")):
        result[key] = statistics.median(rates["network"] / rates[name] for rates in rounds)
    return result


def _engine_milliseconds(model_type: str, folder: Path) -> dict[str, float]:
    """Returns the median milliseconds for one decoded image, by engine, all in turns."""
    from imgpipe.components.common.engines import ONNX_FILE, Engine
    from imgpipe.components.common.saved_model import write_saved_model
    from imgpipe.components.common.served_model import load_served_model
    from imgpipe.components.export.arguments import ONNX
    from imgpipe.components.export.candidates import measure_seconds, networks_of
    from imgpipe.components.export.onnx_format import convert_to_onnx

    labels = [str(number) for number in range(CLASSES)]
    write_saved_model(classifier(model_type), IMAGE_SIZE, labels, folder)
    model = load_served_model(folder)
    (folder / ONNX_FILE).parent.mkdir()
    (folder / ONNX_FILE).write_bytes(convert_to_onnx(model.network, IMAGE_SIZE))
    images = np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    measured = measure_seconds(networks_of(model, folder, [ONNX]), images, {1: (60, 30.0)})
    return {str(Engine(name, precision)): 1000 * by[1] for (_, name, precision), by in measured.items()}


def _rate(function: Callable[[], object], images: int, seconds: float) -> float:
    """Returns images per second of calls for ``seconds``, at least one call."""
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        function()
        calls += 1
    return calls * images / (time.perf_counter() - started)


def _write_shard(folder: Path, images: Sequence[bytes]) -> Path:
    from imgpipe.components.common.records import ImageRecord, encode_example
    from imgpipe.components.common.tfrecord import write_record

    with (folder / "shard").open("wb") as file:
        for image in images:
            write_record(file, encode_example(ImageRecord(image, 1)))
    return folder / "shard"


# ---------------------------------------------------------------- server and client


@contextmanager
def _server(model: Path) -> Iterator[str]:
    from imgpipe.components.common.log import json_environment, parse_event

    process = subprocess.Popen(
        [sys.executable, "-m", "imgpipe.components.serve", f"--model={model}", "--name=m", "--port=0"],
        cwd=REPOSITORY,
        env=json_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        events = (event for line in process.stdout if (event := parse_event(line)))
        port = next(event["port"] for event in events if event["event"] == "serving")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _send(address: str, folder: Path, rate: float) -> dict[str, float]:
    """Sends requests of one image for ``SECONDS``.

    Args:
        address: host:port.
        folder: The folder that holds ``images``.
        rate: Requests per second, at random times; 0 = as many as the server responds to.
    """
    host, _, port = address.partition(":")
    requests = [_request(path.read_bytes()) for path in sorted((folder / "images").iterdir())]
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + SECONDS
    if rate:
        draw = np.random.default_rng(0)
        times = iter(begin + np.cumsum(draw.exponential(1 / rate, int(2 * rate * SECONDS))))

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while True:
            due = next(times) if rate else time.perf_counter()
            if due > end:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(requests[(number + len(latencies)) % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            # Includes the time that a request waited for a free connection.
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))
    seconds = time.perf_counter() - begin
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {"rate": len(latencies) / seconds, "p50_ms": float(p50), "p99_ms": float(p99)}


def _request(image: bytes) -> bytes:
    body = json.dumps(
        {"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}, "key": "k"}]}
    ).encode()
    head = f"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


if __name__ == "__main__":
    main()
