"""Verifies the trained model in a separate process and publishes it."""

import dataclasses
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TRAIN, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset, read_split
from imgpipe.components.common.drift import make_sketch
from imgpipe.components.common.errors import CheckFailedError, MissingInputError
from imgpipe.components.common.forking import can_fork, has_run_operations, run_in_fork
from imgpipe.components.common.labels import LABELS_ASSET, read_labels_file
from imgpipe.components.common.log import (
    json_environment,
    json_events,
    log_event,
    log_result,
    parse_event,
)
from imgpipe.components.common.plural import plural
from imgpipe.components.common.provenance import (
    SERVING_FORMATS,
    SERVING_FORMATS_WITH_WEBP,
    read_provenance,
)
from imgpipe.components.common.published_model import check_model_target, publish_model, publish_model_at
from imgpipe.components.common.reference_predictions import read_evaluation, read_reference
from imgpipe.components.common.verification import write_verification
from imgpipe.components.export.arguments import ONNX, TFLITE_INT8, ExportArguments
from imgpipe.components.images.preparation import prepare_image
from imgpipe.components.storage import parse_location

if TYPE_CHECKING:
    from imgpipe.components.export.candidates import Candidate
    from imgpipe.components.export.formats import ModelFormat
    from imgpipe.components.export.serving_check import ServingCheckArguments

# Maximum differences of a probability. In the evaluation's batches, the arithmetic is the same, and only
# another CPU or thread order makes a difference; with single images, the order of summation differs.
TOLERANCE = 1e-5
SINGLE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ServingMeasurements:
    """The measurements of the served model, in a separate process on this machine.

    Attributes:
        examples: Number of predictions that were compared with the evaluation.
        largest_difference: Maximum difference of a probability from the evaluation.
        latency_p50_ms: Median latency of a request with one image, in milliseconds.
        latency_p99_ms: 99th percentile of the latency.
        start_seconds: Time from loading the model to its first prediction.
        model_bytes: Total size of the files in the model folder.
    """

    examples: int
    largest_difference: float
    latency_p50_ms: float
    latency_p99_ms: float
    start_seconds: float
    model_bytes: int


@dataclass(frozen=True)
class Exported:
    """The result of the export.

    Attributes:
        measured: The measurements of the SavedModel.
        formats: The additional formats.
        top_1_accuracy: The accuracy of the SavedModel on ``split``, from the evaluation.
        split: The split of the dataset that everything was evaluated on.
        candidates: With ``export_formats=auto``, everything that can compute the model.
    """

    measured: ServingMeasurements
    formats: tuple["ModelFormat", ...]
    top_1_accuracy: float
    split: str
    candidates: tuple["Candidate", ...] = ()

    def to_markdown(self) -> str:
        """Returns the summary as Markdown."""
        measured = self.measured
        lines = [
            f"{measured.examples:,} predictions in a new process match the evaluation (maximum difference of "
            f"a probability: {measured.largest_difference:.1e}). A request with one image takes "
            f"{measured.latency_p50_ms:.1f} ms (median), {measured.latency_p99_ms:.1f} ms (99th percentile). "
            f"The first prediction is ready {measured.start_seconds:.1f} s after the start.",
            "",
            f"| format | file | size | top-1 accuracy on {self.split} | accuracy loss |",
            "|---|---|---|---|---|",
            f"| SavedModel | | {measured.model_bytes / 1e6:.1f} MB | {self.top_1_accuracy:.4f} | |",
        ]
        lines += [
            f"| {converted.format} | {converted.file} | {converted.bytes / 1e6:.1f} MB | "
            f"{converted.top_1_accuracy:.4f} | {converted.accuracy_loss:+.4f} |"
            for converted in self.formats
        ]
        text = "\n".join(lines) + "\n"
        if not self.candidates:
            return text
        # Imported here because it loads TensorFlow.
        from imgpipe.components.export.candidates import to_markdown

        return f"{text}\n{to_markdown(self.candidates)}"


def export(
    dataset_folder: Path,
    model_folder: Path,
    evaluation_folder: Path,
    exported_folder: Path,
    arguments: ExportArguments,
) -> Exported:
    """Publishes the model if its predictions in a new process match the evaluation and are fast enough.

    Args:
        dataset_folder: The folder that contains the dataset's manifest.
        model_folder: The model from the train step.
        evaluation_folder: The evaluation from the evaluate step.
        exported_folder: The folder for the model.
        arguments: With ``job_dir``, the model is also written to ``job_dir/model``, where it replaces an
            earlier model of ours. ``max_latency_ms`` limits the 99th percentile of the latency of a request
            with one image. ``export_formats`` are converted and evaluated.

    Raises:
        CheckFailedError: if the model cannot be loaded, here or by TensorFlow 2.6, its predictions do not
            match the evaluation, it is too slow, or a format cannot be converted.
        InvalidArgumentError: if a package that a format needs is not installed.
        InvalidDataError: if a format needs training images, and there are none.
        MissingInputError: if the model or the evaluation does not exist.
        OutputError: if ``job_dir/model`` contains other files or cannot be written.
    """
    if arguments.job_dir:
        check_model_target(parse_location(arguments.job_dir))
    if not (model_folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(model_folder)!r}",
            remedy="use the folder that contains saved_model.pb",
        )
    if ONNX in arguments.formats():
        from imgpipe.components.export.onnx_format import check_onnx_is_installed

        check_onnx_is_installed()
    _check_operations(model_folder)
    reference = read_reference(evaluation_folder)
    evaluation = read_evaluation(evaluation_folder)
    split = evaluation["split"]
    publish_model_at(model_folder, parse_location(exported_folder))
    # tflite-int8 is calibrated with training images.
    calibrates = arguments.is_auto() or TFLITE_INT8 in arguments.formats()
    splits = (split, TRAIN) if calibrates else (split,)
    with local_dataset(dataset_folder, *splits) as local_folder:
        served = _predict_in_new_process(exported_folder, local_folder, split, len(reference))
        measured = _check(reference, served, exported_folder, arguments)
        if (sketch := make_sketch(served["embeddings"])) is not None:
            sketch.save(exported_folder)
        formats: tuple[ModelFormat, ...] = ()
        candidates: tuple[Candidate, ...] = ()
        if arguments.export_formats:
            # Imported here because it loads TensorFlow.
            from imgpipe.components.export.formats import convert_formats

            formats, candidates = convert_formats(
                arguments, exported_folder, local_folder, evaluation, reference
            )
        # Last: it has the digests of all files.
        _write_verification(exported_folder, local_folder, split, reference)
    log_result(
        "export",
        f"the evaluation matches {plural(len(reference), 'prediction')} of a new process "
        f"(maximum difference {measured.largest_difference:.1e}); latency of one image: median "
        f"{measured.latency_p50_ms:.0f} ms, p99 {measured.latency_p99_ms:.0f} ms"
        + "".join(f"; {converted.format} loses {converted.accuracy_loss:.4f}" for converted in formats),
        **dataclasses.asdict(measured),
        formats=[dataclasses.asdict(converted) for converted in formats],
    )
    if arguments.job_dir:
        target = publish_model(exported_folder, parse_location(arguments.job_dir))
        log_event("published", f"export: published to {target}")
    return Exported(measured, formats, evaluation["top_1_accuracy"], split, candidates)


def _check_operations(model_folder: Path) -> None:
    """Rejects a model that TensorFlow 2.6 cannot load, unless it was trained to decode WebP."""
    # Imported here because it loads TensorFlow.
    from imgpipe.components.common.tensorflow_2_6 import unknown_operations

    unknown = unknown_operations(model_folder)
    arguments = read_provenance(model_folder).get("arguments", {})
    if arguments.get("serving_formats") == SERVING_FORMATS_WITH_WEBP:
        unknown = [name for name in unknown if name != "DecodeWebP"]
    if unknown:
        raise CheckFailedError(
            f"servers with TensorFlow 2.6 cannot load the model, because it has {', '.join(unknown)}",
            where=str(model_folder / "saved_model.pb"),
            remedy=f"train again with serving_formats={SERVING_FORMATS_WITH_WEBP} if your server has "
            f"TensorFlow 2.20 or later, else with {SERVING_FORMATS}"
            if unknown == ["DecodeWebP"]
            else "report this bug in imgpipe with the log of the run",
        )


def _write_verification(
    exported_folder: Path, dataset_folder: Path, split: str, reference: NDArray[np.float32]
) -> None:
    manifest = read_manifest(dataset_folder)
    records = read_split(dataset_folder, manifest.splits[split], multi_label=manifest.multi_label)
    # As in the evaluation: few models decode WebP.
    images = [
        prepare_image(record.encoded).encoded if record.encoded.startswith(b"RIFF") else record.encoded
        for record in islice(records, len(reference))
    ]
    labels = read_labels_file(exported_folder / "assets" / LABELS_ASSET)
    write_verification(exported_folder, labels, images, reference.tolist())


def _check(
    reference: NDArray[np.float32],
    served: dict[str, NDArray[Any]],
    exported_folder: Path,
    arguments: ExportArguments,
) -> ServingMeasurements:
    """Compares the predictions of the new process with the evaluation, and returns the measurements."""
    difference = check_predictions(reference, served["classes"], served["probabilities"], TOLERANCE)
    singles = served["single_probabilities"]
    check_predictions(reference[: len(singles)], served["single_classes"], singles, SINGLE_TOLERANCE)
    p50, p99 = np.percentile(served["latency_seconds"], [50, 99]) * 1000
    measured = ServingMeasurements(
        examples=len(reference),
        largest_difference=difference,
        latency_p50_ms=float(p50),
        latency_p99_ms=float(p99),
        start_seconds=float(served["start_seconds"]),
        model_bytes=sum(path.stat().st_size for path in exported_folder.rglob("*") if path.is_file()),
    )
    check_latency(measured, arguments.max_latency_ms)
    return measured


def check_latency(measured: ServingMeasurements, max_latency_ms: float) -> None:
    """Rejects a model that is too slow; 0 = no limit.

    Raises:
        CheckFailedError: with the measured latency.
    """
    if max_latency_ms and not measured.latency_p99_ms <= max_latency_ms:
        raise CheckFailedError(
            f"a request with one image takes {measured.latency_p99_ms:.1f} ms at the 99th percentile "
            f"(median {measured.latency_p50_ms:.1f} ms), more than max_latency_ms={max_latency_ms:g}",
            where="signature serving_default",
            remedy="use a smaller model_type or image_size, or a faster machine, or raise max_latency_ms",
        )


def check_predictions(
    reference: NDArray[np.float32],
    classes: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    tolerance: float,
) -> float:
    """Compares served predictions with the evaluation.

    Args:
        reference: float32 [n, N], the evaluation's probabilities.
        classes: int64 [n], the served classes.
        probabilities: float32 [n, N], the served probabilities.
        tolerance: The maximum allowed difference of a probability.

    Returns:
        The maximum difference of a probability.

    Raises:
        CheckFailedError: if a probability differs by more than ``tolerance``, or a class is not the most
            probable one in the evaluation (unless they are equally probable within the tolerance).
    """
    if probabilities.shape != reference.shape:
        raise CheckFailedError(
            f"the served model returned probabilities of shape {probabilities.shape}, "
            f"the evaluation has {reference.shape}",
            remedy="run the pipeline again from the train step",
        )
    differences = np.abs(probabilities - reference).max(axis=1)
    of_class = np.take_along_axis(reference, classes[:, None], axis=1)[:, 0]
    # Written so that NaN is wrong.
    wrong = ~(differences <= tolerance) | (of_class < reference.max(axis=1) - 2 * tolerance)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise CheckFailedError(
            f"the predictions of the served model do not match the evaluation for {wrong.sum()} of "
            f"{plural(len(reference), 'image')}, first for image {first}: class {classes[first]}, "
            f"probabilities differ by {differences[first]:.2g}",
            where="signature serving_default",
            remedy="do not deploy this model; report this bug in imgpipe with the log of the run",
        )
    return float(differences.max())


def _predict_in_new_process(
    model_folder: Path, dataset_folder: Path, split: str, examples: int
) -> dict[str, NDArray[Any]]:
    # Imported here because it loads TensorFlow.
    from imgpipe.components.export.serving_check import ServingCheckArguments

    with tempfile.TemporaryDirectory() as folder:
        predictions, output = Path(folder) / "predictions.npz", Path(folder) / "output.txt"
        arguments = ServingCheckArguments(
            str(model_folder), str(dataset_folder), split, examples, str(predictions)
        )
        # A process that has only imported TensorFlow is as good as a new one, and three seconds faster.
        run = _run_forked if can_fork() and not has_run_operations() else _run_started
        code = run(arguments, output)
        if code != 0:
            text = output.read_text(encoding="utf-8", errors="replace")
            raise CheckFailedError(
                f"the model cannot be served in a new process: {_failure_reason(code, text)}",
                where=str(model_folder),
                remedy="do not deploy this model; run the pipeline again from the train step",
            )
        with np.load(predictions) as arrays:
            return dict(arrays)


def _run_forked(arguments: "ServingCheckArguments", output: Path) -> int:
    from imgpipe.components.export.serving_check import check_serving

    def check() -> None:
        with json_events():
            check_serving(arguments)

    return run_in_fork(check, output)


def _run_started(arguments: "ServingCheckArguments", output: Path) -> int:
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(arguments).items()]
    # -P: the current folder may contain a package with the name of one of ours.
    command = [sys.executable, "-P", "-m", "imgpipe.components.export.serving_check", *flags]
    with output.open("wb") as file:
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=json_environment(), check=False
        ).returncode


def _failure_reason(code: int, output: str) -> str:
    for line in reversed(output.splitlines()):
        event = parse_event(line)
        if event is not None and event["event"] == "step_failed":
            return str(event["problem"])
    lines = output.strip().splitlines()
    return f"exit code {code}" + (f": {lines[-1]}" if lines else "")
