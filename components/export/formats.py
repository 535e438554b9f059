"""Further formats of the exported model: converted, measured on the evaluation's images, listed beside it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TRAIN, Manifest, Split, file_sha256, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import CheckFailedError, InvalidDataError
from imgpipe.components.common.log import Progress, log_event, timed
from imgpipe.components.common.provenance import FORMATS_FOLDER, add_formats
from imgpipe.components.common.records import label_to_class
from imgpipe.components.common.served_model import BATCH_SIZE, ServedModel, load_served_model
from imgpipe.components.common.tf_import import tf
from imgpipe.components.evaluate.metrics import compute_metrics
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics, compute_multi_label_metrics
from imgpipe.components.export.arguments import ONNX, TFLITE, TFLITE_INT8
from imgpipe.components.export.onnx_format import OnnxModel, convert_to_onnx
from imgpipe.components.export.tflite_format import TFLiteModel, convert_to_tflite
from imgpipe.components.images.graph.serving_decoder import decode_image_file

FILE_NAMES = {TFLITE: "model.tflite", TFLITE_INT8: "model-int8.tflite", ONNX: "model.onnx"}
# As TensorFlow's guide to quantization recommends; more hardly changes the ranges.
CALIBRATION_IMAGES = 200
# Of a large data set only so many images are read to find those.
_CALIBRATION_POOL = 20_000
# Largest difference of a probability from the evaluation's where nothing is quantized: other kernels sum in
# another order.
_FLOAT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ModelFormat:
    """A further format of the model.

    Attributes:
        format: Its name, one of ``FORMATS``.
        file: Where it lies, relative to the SavedModel's folder.
        bytes: Its size.
        sha256: Of the file, in hexadecimal.
        split: Of the data set, that it was measured on.
        examples: How many images that are.
        top_1_accuracy: On them.
        accuracy_loss: The SavedModel's top-1 accuracy on the same images less this one's; negative if the
            format happens to be better.
        mean_average_precision: Of a multi-label model, otherwise None.
        largest_difference: Of a probability from the evaluation's, on its first images.
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


def make_formats(
    names: tuple[str, ...],
    model_folder: Path,
    dataset_folder: Path,
    evaluation: dict[str, Any],
    reference: NDArray[np.float32],
) -> tuple[ModelFormat, ...]:
    """Writes the model's further formats into ``formats/`` of its folder and measures each.

    provenance.json and deployment_config.yaml list them.

    Args:
        names: Of ``FORMATS``.
        model_folder: Of the exported SavedModel.
        dataset_folder: Where the data set lies, its shards on this machine.
        evaluation: What the evaluate step measured of the SavedModel.
        reference: float32 [examples, N], the SavedModel's probabilities of the first images.

    Raises:
        MissingInputError: if the model was written by a version whose network cannot be taken out.
        InvalidDataError: if there are no training images to calibrate with.
        CheckFailedError: if a format cannot be made, or one without quantization answers otherwise than the
            SavedModel.
    """
    model = load_served_model(model_folder)
    manifest = read_manifest(dataset_folder)
    split = evaluation["split"]
    # Everything is made before anything is measured: what cannot be made is told at once.
    contents = {name: _converted(name, model, dataset_folder, manifest) for name in names}
    folder = model_folder / FORMATS_FOLDER
    folder.mkdir()
    made = []
    for name, content in contents.items():
        path = folder / FILE_NAMES[name]
        path.write_bytes(content)
        found, difference = _measured(name, content, model, dataset_folder, manifest, split, reference)
        made.append(
            ModelFormat(
                format=name,
                file=f"{FORMATS_FOLDER}/{path.name}",
                bytes=len(content),
                sha256=file_sha256(path),
                split=split,
                examples=found.examples,
                top_1_accuracy=found.top_1_accuracy,
                accuracy_loss=evaluation["top_1_accuracy"] - found.top_1_accuracy,
                mean_average_precision=found.mean_average_precision
                if isinstance(found, MultiLabelMetrics)
                else None,
                largest_difference=difference,
            )
        )
        log_event(
            "format_measured",
            f"export: {name}, {len(content) / 1e6:.1f} MB: top-1 accuracy {made[-1].top_1_accuracy:.4f}, "
            f"{made[-1].accuracy_loss:+.4f} lost on {made[-1].examples:,} images",
            **dataclasses.asdict(made[-1]),
        )
    add_formats(model_folder, [dataclasses.asdict(one) for one in made])
    return tuple(made)


def calibration_images(folder: Path, manifest: Manifest, image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yields 200 training images, uint8 [size, size, 3], spread evenly over the first 20,000.

    Raises:
        InvalidDataError: if there are none, or one cannot be decoded.
    """
    split = manifest.splits.get(TRAIN)
    if split is None or not split.examples:
        raise InvalidDataError(
            "the data set has no training images to calibrate tflite-int8 with",
            where=str(folder),
            remedy="give a data set with training images, or leave tflite-int8 out of export_formats",
        )
    pool = min(split.examples, _CALIBRATION_POOL)
    chosen = np.unique(np.linspace(0, pool - 1, min(pool, CALIBRATION_IMAGES)).round().astype(int))
    wanted = set(chosen.tolist())
    records = islice(read_split(folder, split, multi_label=manifest.multi_label), pool)
    encoded = [record.encoded for number, record in enumerate(records) if number in wanted]
    for batch in _decoded(iter(encoded), image_size):
        yield from batch


def _converted(name: str, model: ServedModel, dataset_folder: Path, manifest: Manifest) -> bytes:
    network, image_size = model.network, model.image_size
    log_event("converting", f"export: converting the model to {name}, which can take a minute")
    calibration = (
        list(calibration_images(dataset_folder, manifest, image_size)) if name == TFLITE_INT8 else None
    )
    try:
        with timed("converted", f"export: converted to {name}"):
            if name == ONNX:
                return convert_to_onnx(network, image_size)
            return convert_to_tflite(network, image_size, calibration)
    except Exception as error:
        # Converters have no common exception; what they say is for their makers.
        raise CheckFailedError(
            f"the model cannot be converted to {name}: {type(error).__name__}: {error}",
            remedy=f"leave {name} out of export_formats, or choose another model_type",
        ) from error


def _measured(
    name: str,
    content: bytes,
    model: ServedModel,
    folder: Path,
    manifest: Manifest,
    split_name: str,
    reference: NDArray[np.float32],
) -> tuple[Any, float]:
    """Returns the metrics of a format on a split, and its largest difference from the reference."""
    split = manifest.splits[split_name]
    answers = _answers(name, content, model.image_size, folder, split, manifest)
    difference = float(np.abs(answers[: len(reference)] - reference).max())
    # Not difference > tolerance, which a NaN is not.
    if name != TFLITE_INT8 and not difference <= _FLOAT_TOLERANCE:
        raise CheckFailedError(
            f"as {name} the model answers otherwise than the SavedModel: a probability is off by "
            f"{difference:.2g}",
            remedy=f"leave {name} out of export_formats, and report this with the run's log",
        )
    # The serving check has made sure that the model's classes are the data set's.
    labels = [record.all_labels for record in read_split(folder, split, multi_label=manifest.multi_label)]
    if manifest.multi_label:
        targets = np.zeros(answers.shape, bool)
        for number, some in enumerate(labels):
            targets[number, [label_to_class(label) for label in some]] = True
        return compute_multi_label_metrics(targets, answers), difference
    return compute_metrics(np.array([label_to_class(label) for (label,) in labels]), answers), difference


def _answers(
    name: str, content: bytes, image_size: int, folder: Path, split: Split, manifest: Manifest
) -> NDArray[np.float32]:
    loaded = OnnxModel(content) if name == ONNX else TFLiteModel(content)
    progress, done = Progress(f"export, {name}", split.examples, "images"), 0
    records = read_split(folder, split, multi_label=manifest.multi_label)
    answers = []
    for images in _decoded((record.encoded for record in records), image_size):
        answers.append(loaded.probabilities(images))
        done += len(images)
        progress.update(done)
    return np.concatenate(answers)


def _decoded(encoded: Iterator[bytes], image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yields batches uint8 [n, size, size, 3] of image files, with the pixels that the served model sees."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(files: Any) -> Any:
        return tf.map_fn(
            lambda file: decode_image_file(file, image_size), files, fn_output_signature=tf.uint8
        )

    while batch := list(islice(encoded, BATCH_SIZE)):
        try:
            images = decode(tf.constant(batch, tf.string)).numpy()
        except tf.errors.InvalidArgumentError as error:
            reason = str(error.message).partition("[[")[0].strip().partition("\n")[0]
            raise InvalidDataError(
                f"an image cannot be decoded: {reason}",
                remedy="run the validate step on the data: it names the image",
            ) from None
        yield images
