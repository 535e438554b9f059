"""Measures what can compute the model on this machine, and names the fastest of equal accuracy."""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.engines import (
    FLOAT32,
    TENSORFLOW,
    Engine,
    Network,
    load_network,
    usable_engines,
)
from imgpipe.components.common.errors import CheckFailedError
from imgpipe.components.common.log import Progress, log_event
from imgpipe.components.common.provenance import FORMATS_FOLDER
from imgpipe.components.common.records import label_to_class
from imgpipe.components.common.served_model import ServedModel
from imgpipe.components.common.tf_import import tf
from imgpipe.components.evaluate.comparison import compare
from imgpipe.components.export.arguments import ONNX, TFLITE_INT8
from imgpipe.components.export.tflite_format import TFLiteModel

SAVED_MODEL = "savedmodel"
_TFLITE, _INT8 = "tflite", "int8"
# By batch size, the timed calls of each candidate and the seconds after which no further series starts.
_CALLS = {1: (60, 15.0), 8: (12, 15.0), 32: (6, 20.0)}
_TURNS, _WARM_UP_CALLS = 3, 2
# Of n images without a changed answer, fewer than 3/n of all images have one, with 95% confidence.
_RULE_OF_THREE = 3


@dataclass(frozen=True)
class Candidate:
    """One way to compute the network, measured.

    Attributes:
        format: ``savedmodel`` or a name of ``FORMATS``.
        engine: ``tensorflow``, ``onnxruntime``, ``openvino`` or ``tflite``.
        precision: ``float32``, ``bfloat16`` or ``int8``.
        latency_p50_ms: Median milliseconds for one image, without the decoding.
        images_per_second_8: Speed with batches of 8.
        images_per_second_32: Speed with batches of 32.
        top_1_accuracy: Accuracy on the evaluation's split.
        accuracy_loss: The SavedModel's accuracy minus this one's.
        accuracy_loss_bound: The upper end of its 95% confidence interval.
        largest_difference: Largest difference of a probability from the SavedModel's.
        within_tolerance: Whether the accuracy counts as equal.
    """

    format: str
    engine: str
    precision: str
    latency_p50_ms: float
    images_per_second_8: float
    images_per_second_32: float
    top_1_accuracy: float
    accuracy_loss: float
    accuracy_loss_bound: float
    largest_difference: float
    within_tolerance: bool

    @property
    def served_by(self) -> Engine | None:
        """The engine with which ``imgpipe serve`` can serve it; None if it cannot."""
        return None if self.engine == _TFLITE else Engine(self.engine, self.precision)


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """Returns the candidate within tolerance that takes the least time for one image."""
    return min(
        (candidate for candidate in candidates if candidate.within_tolerance),
        key=lambda candidate: candidate.latency_p50_ms,
    )


def fastest_served(candidates: Sequence[Candidate]) -> Candidate:
    """Returns the fastest one that ``imgpipe serve`` can serve."""
    return fastest([candidate for candidate in candidates if candidate.served_by is not None])


def to_markdown(candidates: Sequence[Candidate]) -> str:
    """Returns a table of the candidates, the fastest first, and names the fastest."""
    lines = [
        "| format | engine | precision | one image | batches of 8 | batches of 32 | accuracy loss "
        "(95% at most) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for candidate in sorted(candidates, key=lambda candidate: candidate.latency_p50_ms):
        lines.append(
            f"| {candidate.format} | {candidate.engine} | {candidate.precision} "
            f"| {candidate.latency_p50_ms:.2f} ms | {candidate.images_per_second_8:.1f} images/s "
            f"| {candidate.images_per_second_32:.1f} images/s "
            f"| {candidate.accuracy_loss:+.4f} ({candidate.accuracy_loss_bound:+.4f}) "
            f"| {'' if candidate.within_tolerance else 'not of equal accuracy'} |"
        )
    best, served = fastest(candidates), fastest_served(candidates)
    lines += [
        "",
        f"The fastest of equal accuracy is {best.format} with {best.engine} in {best.precision}; "
        f"`imgpipe serve` uses {served.served_by}. Times are of the network alone, on this step's machine.",
    ]
    return "\n".join(lines) + "\n"


def measure_candidates(
    model: ServedModel,
    model_folder: Path,
    dataset_folder: Path,
    split_name: str,
    formats: Sequence[str],
    max_accuracy_loss: float,
) -> tuple[Candidate, ...]:
    """Measures the SavedModel and its other formats with every installed engine.

    All candidates get the same decoded images, in turns, so that a change of the machine's speed affects all.

    Args:
        model: The loaded SavedModel.
        model_folder: Its folder, with the other formats.
        dataset_folder: The dataset's folder, with local shards.
        split_name: The split of the evaluation.
        formats: The formats in the folder.
        max_accuracy_loss: A candidate's accuracy counts as equal if the 95% confidence interval of its loss
            contains 0 or a gain, and ends at most here. The interval is that of ``compare``. In less than
            float32, the bound is at least 3/n for n images: few images cannot show that nothing is lost.

    Raises:
        InvalidDataError: if an image cannot be decoded.
    """
    networks = networks_of(model, model_folder, formats)
    manifest = read_manifest(dataset_folder)
    split = manifest.splits[split_name]
    progress = Progress("export, engines", split.examples, "images")
    labels: list[list[int]] = []
    predictions: dict[tuple[str, str, str], list[NDArray[np.float32]]] = {key: [] for key in networks}
    sample = np.zeros((0, model.image_size, model.image_size, 3), np.uint8)

    def files() -> Iterator[bytes]:
        for record in read_split(dataset_folder, split, multi_label=manifest.multi_label):
            labels.append([label_to_class(label) for label in record.all_labels])
            yield record.encoded

    for images in model.decode_batches(files()):
        sample = images if len(sample) == 0 else sample
        for key, network in networks.items():
            predictions[key].append(network(images))
        progress.add(len(images))
    seconds = measure_seconds(networks, sample, _CALLS)
    probabilities = {key: np.concatenate(values) for key, values in predictions.items()}
    correct = {key: _correct(values, labels) for key, values in probabilities.items()}
    reference = (SAVED_MODEL, TENSORFLOW, FLOAT32)
    candidates = []
    for key, values in probabilities.items():
        comparison = compare(correct[reference], correct[key])
        bound = -comparison.lower
        if key[2] != FLOAT32:
            bound = max(bound, _RULE_OF_THREE / comparison.examples)
        is_equal = key == reference or (comparison.upper >= 0 and bound <= max_accuracy_loss)
        candidates.append(
            Candidate(
                *key,
                latency_p50_ms=1000 * seconds[key][1],
                images_per_second_8=8 / seconds[key][8],
                images_per_second_32=32 / seconds[key][32],
                top_1_accuracy=comparison.challenger_top_1_accuracy,
                accuracy_loss=-comparison.difference,
                accuracy_loss_bound=bound,
                largest_difference=float(np.abs(values - probabilities[reference]).max()),
                within_tolerance=is_equal,
            )
        )
    best = fastest(candidates)
    log_event(
        "engines_measured",
        f"export: the fastest of equal accuracy is {best.format} with {best.engine} in {best.precision}: "
        f"{best.latency_p50_ms:.1f} ms for one image; the SavedModel takes "
        f"{candidates[0].latency_p50_ms:.1f} ms",
        candidates=[dataclasses.asdict(candidate) for candidate in candidates],
    )
    return tuple(candidates)


def networks_of(
    model: ServedModel, model_folder: Path, formats: Sequence[str]
) -> dict[tuple[str, str, str], Network]:
    """Returns the networks by format, engine and precision, the SavedModel first.

    An engine that cannot load the ONNX file is reported and left out.
    """

    def tensorflow(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = model.network(tf.constant(images)).numpy()
        return values

    networks: dict[tuple[str, str, str], Network] = {(SAVED_MODEL, TENSORFLOW, FLOAT32): tensorflow}
    if ONNX in formats:
        for engine in usable_engines():
            try:
                networks[ONNX, engine.name, engine.precision] = load_network(engine, model_folder)
            except CheckFailedError as error:
                log_event("engine_left_out", f"export: {error.problem}; it is left out", severity="WARNING")
    if TFLITE_INT8 in formats:
        content = (model_folder / FORMATS_FOLDER / "model-int8.tflite").read_bytes()
        networks[TFLITE_INT8, _TFLITE, _INT8] = TFLiteModel(content).probabilities
    return networks


def measure_seconds(
    networks: Mapping[tuple[str, str, str], Network],
    images: NDArray[np.uint8],
    calls: Mapping[int, tuple[int, float]],
) -> dict[tuple[str, str, str], dict[int, float]]:
    """Returns the median seconds of a call, by batch size.

    The networks take turns, each with a series of calls: a server has one engine. The threads of an engine
    that was just called wait for more work without sleeping; in turns of single calls, OpenVINO after ONNX
    Runtime took 2.5 times as long on two cores as alone.

    Args:
        networks: What is measured.
        images: Repeated to make the batches.
        calls: By batch size, the most timed calls of each network, with the seconds after which no further
            series of calls starts.
    """
    measured: dict[tuple[str, str, str], dict[int, list[float]]] = {
        key: {size: [] for size in calls} for key in networks
    }
    for size, (limit, seconds) in calls.items():
        batch = np.resize(images, (size, *images.shape[1:]))
        begin = time.perf_counter()
        for _ in range(_TURNS):
            for key, network in networks.items():
                measured[key][size] += _seconds_of_calls(network, batch, limit // _TURNS)
            if time.perf_counter() - begin > seconds:
                break
    return {
        key: {size: statistics.median(values) for size, values in by_size.items()}
        for key, by_size in measured.items()
    }


def _seconds_of_calls(network: Network, batch: NDArray[np.uint8], calls: int) -> list[float]:
    """Returns the seconds of each call, after some that are not timed: the first ones are slower."""
    for _ in range(_WARM_UP_CALLS):
        network(batch)
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        network(batch)
        seconds.append(time.perf_counter() - started)
    return seconds


def _correct(probabilities: NDArray[np.float32], labels: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Returns for each image with a label whether its most probable class is one of its labels."""
    pairs = zip(probabilities.argmax(axis=1), labels, strict=True)
    return np.array([best in classes for best, classes in pairs if classes], bool)
