"""Additional formats of the exported model: converted, evaluated and listed in its provenance."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TRAIN, Manifest, Split, file_sha256, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.engines import ONNX_FILE, ONNX_RUNTIME, Engine, Network, load_network
from imgpipe.components.common.errors import CheckFailedError, InvalidDataError
from imgpipe.components.common.log import Progress, log_event, timed
from imgpipe.components.common.provenance import FORMATS_FOLDER, add_candidates, add_formats
from imgpipe.components.common.records import label_to_class
from imgpipe.components.common.served_model import ServedModel, load_served_model
from imgpipe.components.evaluate.metrics import Metrics, compute_metrics
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics, compute_multi_label_metrics
from imgpipe.components.export.arguments import ONNX, TFLITE, TFLITE_INT8, ExportArguments
from imgpipe.components.export.candidates import Candidate, fastest, fastest_served, measure_candidates
from imgpipe.components.export.onnx_format import convert_to_onnx, missing_packages
from imgpipe.components.export.tflite_format import TFLiteModel, convert_to_tflite

FILES = {
    TFLITE: f"{FORMATS_FOLDER}/model.tflite",
    TFLITE_INT8: f"{FORMATS_FOLDER}/model-int8.tflite",
    ONNX: ONNX_FILE,
}
# As recommended in TensorFlow's quantization guide; more images hardly change the ranges.
CALIBRATION_IMAGES = 200
# Calibration images are selected from this many images of a large dataset.
_CALIBRATION_POOL = 20_000
# Maximum difference of a probability from the evaluation without quantization: other kernels have another
# order of summation.
_FLOAT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ModelFormat:
    """An additional format of the model.

    Attributes:
        format: Its name, one of ``FORMATS``.
        file: The file, relative to the SavedModel's folder.
        bytes: Size of the file.
        sha256: Digest of the file, in hexadecimal.
        split: The split of the dataset that it was evaluated on.
        examples: Number of images in the split.
        top_1_accuracy: Accuracy on the split.
        accuracy_loss: The SavedModel's top-1 accuracy on the split minus this format's; negative if the
            format is better.
        mean_average_precision: For a multi-label model; otherwise None.
        largest_difference: Maximum difference of a probability from the evaluation, on its first images.
    """

    format: str
    file: str
    bytes: int
    sha256: str
    split: str
    examples: int
    top_1_accuracy: float
    accuracy_loss: float
    mean_average_precision: float | None
    largest_difference: float


def convert_formats(
    arguments: ExportArguments,
    model_folder: Path,
    dataset_folder: Path,
    evaluation: dict[str, Any],
    reference: NDArray[np.float32],
) -> tuple[tuple[ModelFormat, ...], tuple[Candidate, ...]]:
    """Writes the model's additional formats to the folder ``formats/`` of the model and evaluates each.

    They are listed in provenance.json and deployment_config.yaml. With ``export_formats=auto``, these are the
    formats that are installed, and everything that can compute the model is measured, see
    ``measure_candidates``; a format that cannot be converted, or does not have the SavedModel's predictions,
    is reported and left out.

    Args:
        arguments: The formats.
        model_folder: The folder of the exported SavedModel.
        dataset_folder: The dataset's folder, with local shards.
        evaluation: The evaluation of the SavedModel.
        reference: float32 [examples, N], the SavedModel's probabilities for the first images.

    Returns:
        The formats, and with ``export_formats=auto`` what was measured.

    Raises:
        MissingInputError: if the model is from a version that does not store the network separately.
        InvalidDataError: if there are no training images for the calibration.
        CheckFailedError: if a format cannot be converted, or the predictions of a format without quantization
            do not match the SavedModel.
    """
    model = load_served_model(model_folder)
    manifest = read_manifest(dataset_folder)
    optional = _installed_formats(manifest) if arguments.is_auto() else ()
    # Convert everything first, so that a failed conversion is reported early.
    contents = {}
    for name in dict.fromkeys((*arguments.formats(), *optional)):
        with _left_out_on_failure(is_optional=name not in arguments.formats()):
            contents[name] = _convert(name, model, dataset_folder, manifest)
    (model_folder / FORMATS_FOLDER).mkdir()
    formats = []
    for name, content in contents.items():
        path = model_folder / FILES[name]
        path.write_bytes(content)
        with _left_out_on_failure(is_optional=name not in arguments.formats()):
            formats.append(
                _evaluate_format(name, model_folder, model, dataset_folder, manifest, evaluation, reference)
            )
            continue
        path.unlink()
    add_formats(model_folder, [dataclasses.asdict(converted) for converted in formats])
    if not arguments.is_auto():
        return tuple(formats), ()
    candidates = measure_candidates(
        model,
        model_folder,
        dataset_folder,
        evaluation["split"],
        tuple(converted.format for converted in formats),
        arguments.export_max_accuracy_loss,
    )
    add_candidates(
        model_folder,
        [dataclasses.asdict(candidate) for candidate in candidates],
        fastest=dataclasses.asdict(fastest(candidates)),
        served=dataclasses.asdict(fastest_served(candidates)),
    )
    return tuple(formats), candidates


@contextmanager
def _left_out_on_failure(*, is_optional: bool) -> Iterator[None]:
    """Reports the failure of a format that was not asked for by name, instead of raising it."""
    try:
        yield
    except CheckFailedError as error:
        if not is_optional:
            raise
        log_event("format_left_out", f"export: {error.problem}; it is left out", severity="WARNING")


def _installed_formats(manifest: Manifest) -> tuple[str, ...]:
    """Returns the formats that ``auto`` converts to here: those whose packages and data are at hand."""
    formats = () if missing_packages() else (ONNX,)
    split = manifest.splits.get(TRAIN)
    return (*formats, TFLITE_INT8) if split is not None and split.examples else formats


def calibration_images(folder: Path, manifest: Manifest, model: ServedModel) -> Iterator[NDArray[np.uint8]]:
    """Yields 200 training images, uint8 [size, size, 3], evenly spaced in the first 20,000.

    Raises:
        InvalidDataError: if there are none, or an image cannot be decoded.
    """
    split = manifest.splits.get(TRAIN)
    if split is None or not split.examples:
        raise InvalidDataError(
            "the dataset has no training images to calibrate tflite-int8 with",
            where=str(folder),
            remedy="use a dataset with training images, or remove tflite-int8 from export_formats",
        )
    pool = min(split.examples, _CALIBRATION_POOL)
    selected = set(np.linspace(0, pool - 1, min(pool, CALIBRATION_IMAGES)).round().astype(int).tolist())
    records = islice(read_split(folder, split, multi_label=manifest.multi_label), pool)
    encoded = [record.encoded for index, record in enumerate(records) if index in selected]
    for batch in model.decode_batches(encoded):
        yield from batch


def _convert(name: str, model: ServedModel, dataset_folder: Path, manifest: Manifest) -> bytes:
    image_size = model.image_size
    log_event("converting", f"export: converting the model to {name}, which may take a minute")
    calibration = list(calibration_images(dataset_folder, manifest, model)) if name == TFLITE_INT8 else None
    try:
        with timed("converted", f"export: converted to {name}"):
            if name == ONNX:
                return convert_to_onnx(model.network_outputs, image_size)
            return convert_to_tflite(model.network, image_size, calibration)
    except Exception as error:
        # Converters have no common exception class.
        raise CheckFailedError(
            f"the model cannot be converted to {name}: {type(error).__name__}: {error}",
            remedy=f"remove {name} from export_formats, or use another model_type",
        ) from error


def _evaluate_format(
    name: str,
    model_folder: Path,
    model: ServedModel,
    dataset_folder: Path,
    manifest: Manifest,
    evaluation: dict[str, Any],
    reference: NDArray[np.float32],
) -> ModelFormat:
    """Returns what the evaluation of a converted format finds.

    Raises:
        CheckFailedError: if it cannot be loaded, or without quantization does not match the SavedModel.
    """
    split = manifest.splits[evaluation["split"]]
    path = model_folder / FILES[name]
    network = _load(name, path, model_folder)
    probabilities = _predict(name, network, model, dataset_folder, split, manifest)
    difference = float(np.abs(probabilities[: len(reference)] - reference).max())
    # Written so that NaN fails.
    if name != TFLITE_INT8 and not difference <= _FLOAT_TOLERANCE:
        raise CheckFailedError(
            f"the predictions of the {name} model do not match the SavedModel: a probability differs by "
            f"{difference:.2g}",
            remedy=f"remove {name} from export_formats, and report this bug with the log of the run",
        )
    metrics = _metrics(probabilities, dataset_folder, split, manifest)
    measured = ModelFormat(
        format=name,
        file=FILES[name],
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        split=evaluation["split"],
        examples=metrics.examples,
        top_1_accuracy=metrics.top_1_accuracy,
        accuracy_loss=evaluation["top_1_accuracy"] - metrics.top_1_accuracy,
        mean_average_precision=metrics.mean_average_precision
        if isinstance(metrics, MultiLabelMetrics)
        else None,
        largest_difference=difference,
    )
    log_event(
        "format_measured",
        f"export: {name}, {measured.bytes / 1e6:.1f} MB: top-1 accuracy {measured.top_1_accuracy:.4f} "
        f"on {measured.examples:,} images, accuracy loss {measured.accuracy_loss:+.4f}",
        **dataclasses.asdict(measured),
    )
    return measured


def _metrics(
    probabilities: NDArray[np.float32], folder: Path, split: Split, manifest: Manifest
) -> Metrics | MultiLabelMetrics:
    # The serving check has verified that the model's classes are the dataset's.
    labels = [record.all_labels for record in read_split(folder, split, multi_label=manifest.multi_label)]
    if manifest.multi_label:
        targets = np.zeros(probabilities.shape, bool)
        for index, image_labels in enumerate(labels):
            targets[index, [label_to_class(label) for label in image_labels]] = True
        return compute_multi_label_metrics(targets, probabilities)
    classes = np.array([label_to_class(label) for (label,) in labels])
    return compute_metrics(classes, probabilities)


def _load(name: str, path: Path, model_folder: Path) -> Network:
    if name == ONNX:
        return load_network(Engine(ONNX_RUNTIME), model_folder)
    return TFLiteModel(path.read_bytes()).probabilities


def _predict(
    name: str, network: Network, model: ServedModel, folder: Path, split: Split, manifest: Manifest
) -> NDArray[np.float32]:
    progress = Progress(f"export, {name}", split.examples, "images")
    records = read_split(folder, split, multi_label=manifest.multi_label)
    probabilities = []
    for images in model.decode_batches(record.encoded for record in records):
        probabilities.append(network(images))
        progress.add(len(images))
    return np.concatenate(probabilities)
