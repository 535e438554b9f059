"""Checks the trained model in a process of its own and publishes it."""

import dataclasses
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import CheckFailedError, MissingInputError
from imgpipe.components.common.log import log_event, log_result, parse_event
from imgpipe.components.common.published_model import check_model_target, publish_model
from imgpipe.components.common.reference_predictions import read_evaluation, read_reference
from imgpipe.components.export.arguments import ONNX, ExportArguments
from imgpipe.components.storage import parse_location, publish_folder

if TYPE_CHECKING:
    from imgpipe.components.export.formats import ModelFormat

# Largest differences of a probability: in the evaluation's batches the arithmetic is the same, so that only
# another processor or thread order explains one; one by one, sums are made in another order.
TOLERANCE = 1e-5
SINGLE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ServingMeasurements:
    """What the check of the served model measured, in a process of its own on this machine.

    Attributes:
        examples: Answers that were compared with the evaluation's.
        largest_difference: Of a probability from the evaluation's.
        latency_p50_ms: Median time of a request of one image, in milliseconds.
        latency_p99_ms: Its 99th percentile.
        start_seconds: From loading the model to its first answer.
        model_bytes: Of all files of the model folder.
    """

    examples: int
    largest_difference: float
    latency_p50_ms: float
    latency_p99_ms: float
    start_seconds: float
    model_bytes: int


@dataclass(frozen=True)
class Exported:
    """What the step came to.

    Attributes:
        measured: Of the SavedModel.
        formats: The further formats.
        top_1_accuracy: Of the SavedModel, on the images of ``split``, as the evaluation found it.
        split: The split of the data set on which everything was measured.
    """

    measured: ServingMeasurements
    formats: tuple["ModelFormat", ...]
    top_1_accuracy: float
    split: str

    def to_markdown(self) -> str:
        """Returns the report as a person reads it."""
        measured = self.measured
        lines = [
            f"{measured.examples:,} answers of a fresh process agree with the evaluation (largest difference "
            f"of a probability {measured.largest_difference:.1e}). A request of one image takes "
            f"{measured.latency_p50_ms:.1f} ms (median), {measured.latency_p99_ms:.1f} ms (99th percentile); "
            f"from the start to the first answer {measured.start_seconds:.1f} s.",
            "",
            f"| format | file | size | top-1 accuracy on {self.split} | accuracy lost |",
            "|---|---|---|---|---|",
            f"| SavedModel | | {measured.model_bytes / 1e6:.1f} MB | {self.top_1_accuracy:.4f} | |",
        ]
        lines += [
            f"| {one.format} | {one.file} | {one.bytes / 1e6:.1f} MB | {one.top_1_accuracy:.4f} | "
            f"{one.accuracy_loss:+.4f} |"
            for one in self.formats
        ]
        return "\n".join(lines) + "\n"


def export(
    dataset_folder: Path,
    model_folder: Path,
    evaluation_folder: Path,
    exported_folder: Path,
    arguments: ExportArguments,
) -> Exported:
    """Publishes the model if a fresh process answers with it as the evaluation did, and soon enough.

    Args:
        dataset_folder: Where the data set's manifest lies.
        model_folder: What the train step wrote.
        evaluation_folder: What the evaluate step wrote.
        exported_folder: Gets the model.
        arguments: With ``job_dir``, ``job_dir/model`` gets the model too; a model of ours that stood there
            is replaced. With ``max_latency_ms``, the 99th percentile of the time of a request of one image
            may not be larger. ``export_formats`` are made and measured too.

    Raises:
        CheckFailedError: if the model cannot be loaded, answers otherwise than in the evaluation, or is too
            slow, or a further format cannot be made.
        InvalidArgumentError: if what a further format needs is not installed.
        InvalidDataError: if a further format needs training images, and there are none.
        MissingInputError: if the model or the evaluation is not there.
        OutputError: if ``job_dir/model`` is somebody else's or cannot be written.
    """
    if arguments.job_dir:
        check_model_target(parse_location(arguments.job_dir))
    if not (model_folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(model_folder)!r}",
            remedy="give the folder that holds saved_model.pb",
        )
    if ONNX in arguments.formats():
        from imgpipe.components.export.onnx_format import check_onnx_is_installed

        check_onnx_is_installed()
    reference = read_reference(evaluation_folder)
    evaluation = read_evaluation(evaluation_folder)
    split = evaluation["split"]
    publish_folder(model_folder, exported_folder)
    with local_dataset(dataset_folder) as local_folder:
        answers = _answers_of_fresh_process(exported_folder, local_folder, split, len(reference))
        measured = _check(reference, answers, exported_folder, arguments)
        formats = _formats(exported_folder, local_folder, evaluation, reference, arguments)
    log_result(
        "export",
        f"{len(reference)} answers of a fresh process agree with the evaluation "
        f"(largest difference {measured.largest_difference:.1e}); one image takes "
        f"{measured.latency_p50_ms:.0f} ms, p99 {measured.latency_p99_ms:.0f} ms"
        + "".join(f"; {one.format} loses {one.accuracy_loss:.4f}" for one in formats),
        **dataclasses.asdict(measured),
        formats=[dataclasses.asdict(one) for one in formats],
    )
    if arguments.job_dir:
        target = publish_model(exported_folder, parse_location(arguments.job_dir))
        log_event("published", f"export: published to {target}")
    return Exported(measured, formats, evaluation["top_1_accuracy"], split)


def _formats(
    exported_folder: Path,
    dataset_folder: Path,
    evaluation: dict[str, Any],
    reference: NDArray[np.float32],
    arguments: ExportArguments,
) -> tuple["ModelFormat", ...]:
    if not arguments.formats():
        return ()
    # Only now: it loads TensorFlow into this process.
    from imgpipe.components.export.formats import make_formats

    return make_formats(arguments.formats(), exported_folder, dataset_folder, evaluation, reference)


def _check(
    reference: NDArray[np.float32],
    answers: dict[str, NDArray[Any]],
    exported_folder: Path,
    arguments: ExportArguments,
) -> ServingMeasurements:
    """Compares the answers of a fresh process with the evaluation's, and returns what it measured."""
    difference = check_answers(reference, answers["classes"], answers["probabilities"], TOLERANCE)
    singles = answers["single_probabilities"]
    check_answers(reference[: len(singles)], answers["single_classes"], singles, SINGLE_TOLERANCE)
    p50, p99 = np.percentile(answers["latency_seconds"], [50, 99]) * 1000
    measured = ServingMeasurements(
        examples=len(reference),
        largest_difference=difference,
        latency_p50_ms=float(p50),
        latency_p99_ms=float(p99),
        start_seconds=float(answers["start_seconds"]),
        model_bytes=sum(path.stat().st_size for path in exported_folder.rglob("*") if path.is_file()),
    )
    check_latency(measured, arguments.max_latency_ms)
    return measured


def check_latency(measured: ServingMeasurements, max_latency_ms: float) -> None:
    """Refuses a model that is too slow; 0 = any will do.

    Raises:
        CheckFailedError: with what was measured.
    """
    if max_latency_ms and not measured.latency_p99_ms <= max_latency_ms:
        raise CheckFailedError(
            f"a request of one image takes {measured.latency_p99_ms:.1f} ms at the 99th percentile "
            f"(median {measured.latency_p50_ms:.1f} ms), more than max_latency_ms={max_latency_ms:g}",
            where="signature serving_default",
            remedy="choose a smaller model_type or image_size, serve on a faster machine, or raise the bound",
        )


def check_answers(
    reference: NDArray[np.float32],
    classes: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    tolerance: float,
) -> float:
    """Compares what was served with what was evaluated.

    Args:
        reference: float32 [n, N], the evaluation's probabilities.
        classes: int64 [n], served.
        probabilities: float32 [n, N], served.
        tolerance: The largest difference of a probability that is let pass.

    Returns:
        The largest difference of a probability.

    Raises:
        CheckFailedError: if a probability differs by more than ``tolerance``, or a class is not the one
            that the evaluation found most probable (unless two are equally probable to tolerance).
    """
    if probabilities.shape != reference.shape:
        raise CheckFailedError(
            f"the served model gave probabilities of shape {probabilities.shape}, "
            f"the evaluation {reference.shape}",
            remedy="run the pipeline again from the train step",
        )
    differences = np.abs(probabilities - reference).max(axis=1)
    of_class = np.take_along_axis(reference, classes[:, None], axis=1)[:, 0]
    # Not differences > tolerance, which a NaN is not.
    wrong = ~(differences <= tolerance) | (of_class < reference.max(axis=1) - 2 * tolerance)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise CheckFailedError(
            f"served in a fresh process the model answers otherwise than in the evaluation for "
            f"{wrong.sum()} of {len(reference)} images, first for image {first}: "
            f"class {classes[first]}, probabilities off by {differences[first]:.2g}",
            where="signature serving_default",
            remedy="do not deploy this model; report this with the run's log: it is a mistake in imgpipe",
        )
    return float(differences.max())


def _answers_of_fresh_process(
    model_folder: Path, dataset_folder: Path, split: str, examples: int
) -> dict[str, NDArray[Any]]:
    """Returns the arrays that ``serving_check`` wrote in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npz"
        result = subprocess.run(
            [
                sys.executable,
                # The current folder may hold a folder `components` of the user's own.
                "-P",
                "-m",
                "imgpipe.components.export.serving_check",
                f"--model={model_folder}",
                f"--dataset={dataset_folder}",
                f"--split={split}",
                f"--examples={examples}",
                f"--answers={answers}",
            ],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if result.returncode != 0:
            raise CheckFailedError(
                f"a fresh process could not serve the model: {_reason(result)}",
                where=str(model_folder),
                remedy="do not deploy this model; run the pipeline again from the train step",
            )
        with np.load(answers) as arrays:
            return dict(arrays)


def _reason(result: "subprocess.CompletedProcess[str]") -> str:
    for line in reversed(result.stdout.splitlines()):
        event = parse_event(line)
        if event is not None and event["event"] == "step_failed":
            return str(event["problem"])
    lines = (result.stdout + result.stderr).strip().splitlines()
    return f"it ended with status {result.returncode}" + (f": {lines[-1]}" if lines else "")
