"""Loads a SavedModel as a server does, and predicts with its signatures."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.engines import (
    DEFAULT_ENGINE,
    EMBEDDINGS,
    PROBABILITIES,
    TENSORFLOW,
    Engine,
    OnnxNetwork,
    load_network,
)
from imgpipe.components.common.errors import CheckFailedError, InvalidDataError, MissingInputError
from imgpipe.components.common.labels import LABELS_ASSET, read_labels_file
from imgpipe.components.common.records import class_to_label
from imgpipe.components.common.saved_model import (
    CLASSIFY_SIGNATURE,
    DEFAULT_SIGNATURE,
    EMBEDDINGS_SIGNATURE,
    answer_function,
)
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.preparation import prepare_image
from imgpipe.components.images.probe_image import probe_image
from imgpipe.components.storage import LocalLocation, read_unchanged

# Images per call, in the evaluation and in the check of an exported model.
BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """Predictions for a batch: classes int64 [n] of 0..N-1, probabilities float32 [n, N]."""

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class ServedModel:
    """A loaded SavedModel with the signatures of ``saved_model``.

    Args:
        loaded: The SavedModel.
        labels: Its labels.
        engine: What computes the network.
        network: Computes it in place of TensorFlow; decoding and outputs remain the SavedModel's.
    """

    def __init__(
        self,
        loaded: Any,
        labels: tuple[str, ...],
        engine: Engine = DEFAULT_ENGINE,
        network: OnnxNetwork | None = None,
    ) -> None:
        self.engine = engine
        self._network_of_engine = network
        # Kept, because the signatures' variables are deleted with it.
        self._loaded = loaded
        self.signatures = dict(loaded.signatures)
        self.labels = labels

    @property
    def network(self) -> Any:
        """The network without the decoding: a function of uint8 [n, size, size, 3] to float32 [n, N].

        It is valid as long as this object exists.

        Raises:
            MissingInputError: if the SavedModel has only signatures: imgpipe did not train it.
        """
        return self._function("probabilities_of_pixels")

    @property
    def network_outputs(self) -> Any:
        """The network with all outputs by name: ``probabilities``, and ``embeddings`` if it has them.

        Raises as ``network`` does.
        """
        return self._function("outputs_of_pixels")

    @property
    def image_size(self) -> int:
        """The side in pixels of the network's input images; raises as ``network`` does."""
        return int(self.network.concrete_functions[0].inputs[0].shape[1])

    def decode(self, images: Sequence[bytes]) -> NDArray[np.uint8]:
        """Returns what the network gets of image files, uint8 [n, size, size, 3].

        Raises:
            InvalidDataError: if an image cannot be decoded; TensorFlow does not say which.
        """
        with self._explain_undecodable(images):
            pixels: NDArray[np.uint8] = self._function("pixels_of_files")(_as_files(images)).numpy()
        return pixels

    def decode_batches(self, images: Iterable[bytes]) -> Iterator[NDArray[np.uint8]]:
        """Yields what the network gets of image files in batches; raises as ``decode`` does."""
        remaining = iter(images)
        while batch := list(islice(remaining, BATCH_SIZE)):
            yield self.decode(batch)

    def predict(self, images: Sequence[bytes]) -> Prediction:
        """Returns the predictions for image files, in the same order.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded; TensorFlow does not say which.
            CheckFailedError: if the returned keys differ from ``keys``.
        """
        outputs = self.call(images, [str(number) for number in range(len(images))])
        return Prediction(outputs["classes"], outputs["probabilities"])

    def call(
        self, images: Sequence[bytes], keys: Sequence[str], signature: str = DEFAULT_SIGNATURE
    ) -> dict[str, NDArray[Any]]:
        """Calls a signature and returns its outputs by name, each with one entry per image, in order.

        WebP, TIFF and AVIF files are converted as the convert step does: few models decode the first, none
        the others.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded; TensorFlow does not say which.
            CheckFailedError: if the returned keys differ from ``keys``.
        """
        return self._call(images, keys, signature)[0]

    def call_with_embeddings(
        self, images: Sequence[bytes], keys: Sequence[str], signature: str = DEFAULT_SIGNATURE
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Calls a signature like ``call``, and returns the embeddings of the images, from the same pass.

        Only for a model that has the signature ``embeddings``.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded; TensorFlow does not say which.
            CheckFailedError: if the returned keys differ from ``keys``.
        """
        outputs, network = self._call(images, keys, signature, with_network=True)
        return outputs, np.asarray(network[EMBEDDINGS])

    def _call(
        self, images: Sequence[bytes], keys: Sequence[str], signature: str, *, with_network: bool = False
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Returns the outputs of a signature and, ``with_network``, those of the network."""
        encoded_keys = [key.encode() for key in keys]
        network: dict[str, Any] = {}
        with self._explain_undecodable(images):
            files, key = _as_files(images), tf.constant(encoded_keys, tf.string)
            if with_network or self._network_of_engine is not None:
                network = self._network_outputs(files)
                outputs = self._answer(signature, network, key)
            else:
                outputs = self.signatures[signature](image_bytes=files, key=key)
        if outputs["key"].numpy().tolist() != encoded_keys:
            raise CheckFailedError(
                "the model does not return the keys unchanged", remedy="export the model again"
            )
        return {name: value.numpy() for name, value in outputs.items()}, network

    @contextmanager
    def _explain_undecodable(self, images: Sequence[bytes]) -> Iterator[None]:
        try:
            yield
        except tf.errors.CancelledError:
            # One image could not be decoded, and TensorFlow reports another that it then did not decode.
            if len(images) > 1:
                for image in images:
                    self.call([image], [""])
            raise
        except (ImageError, tf.errors.InvalidArgumentError) as error:
            reason = str(error) if isinstance(error, ImageError) else _reason(str(error.message))
            raise InvalidDataError(
                f"the model cannot decode an image: {reason}",
                remedy="run the validate step on the data, which reports the image",
            ) from None

    def _network_outputs(self, files: Any) -> dict[str, Any]:
        pixels = self._function("pixels_of_files")(files)
        if self._network_of_engine is not None:
            return dict(self._network_of_engine.outputs(pixels.numpy()))
        return dict(self.network_outputs(pixels))

    def _answer(self, signature: str, network: dict[str, Any], keys: Any) -> dict[str, Any]:
        if signature == EMBEDDINGS_SIGNATURE:
            return {EMBEDDINGS: tf.constant(network[EMBEDDINGS]), "key": keys}
        answer = answer_function(DEFAULT_SIGNATURE if signature == CLASSIFY_SIGNATURE else signature)
        return dict(self._function(answer)(tf.constant(network[PROBABILITIES]), keys))

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._loaded, name)
        except AttributeError:
            raise MissingInputError(
                f"the SavedModel has no function {name}: another program, or another version "
                "of imgpipe, wrote it",
                remedy="use a model that the train step of this version wrote",
            ) from None


def _as_decodable(image: bytes) -> bytes:
    # AVIF files, and HEIC files, whose error has their name, begin with a box of the type ftyp.
    is_other = image.startswith((b"RIFF", b"II*\0", b"MM\0*")) or image[4:8] == b"ftyp"
    return prepare_image(image).encoded if is_other else image


def _reason(message: str) -> str:
    """Extracts the reason from a TensorFlow message; its other lines are locations in the graph."""
    lines = [line.strip() for line in message.partition("[[")[0].splitlines() if line.strip()]
    if not lines:
        return "TensorFlow reports no reason"
    # If several operations failed, each reason is preceded by a number and an error code.
    reason = re.sub(r"^\(\d+\) [A-Z_]+: ", "", lines[-1])
    before, assertion, values = reason.partition("assertion failed: ")
    return re.sub(r"\[([^]]*)\]", r"\1", values) if assertion and not before else reason


def _as_files(images: Sequence[bytes]) -> Any:
    return tf.constant([_as_decodable(image) for image in images], tf.string)


def load_served_model(folder: Path, engine: Engine = DEFAULT_ENGINE) -> ServedModel:
    """Loads a model folder that the train or export step wrote.

    Args:
        folder: The folder.
        engine: What computes the network.

    Raises:
        MissingInputError: if there is no SavedModel, or one without the signature serving_default.
        InvalidArgumentError: if the engine cannot be used here or for this model.
        CheckFailedError: if it is damaged.
    """
    return read_unchanged(LocalLocation(str(folder)), lambda _: _load(folder, engine))


def _load(folder: Path, engine: Engine) -> ServedModel:
    if not (folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(folder)!r}",
            remedy="use the folder that contains saved_model.pb",
        )
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        # Each kind of damage raises another class: OSError, IndexError, DataLossError, ...
        raise CheckFailedError(
            f"the SavedModel cannot be loaded: {error}", where=str(folder), remedy=_REMEDY
        ) from None
    labels_file = folder / "assets" / LABELS_ASSET
    for name, is_there in (
        ("signature serving_default", DEFAULT_SIGNATURE in loaded.signatures),
        (f"assets/{LABELS_ASSET}", labels_file.is_file()),
    ):
        if not is_there:
            raise MissingInputError(
                f"the SavedModel in {str(folder)!r} has no {name}: another program wrote it",
                remedy="use a model that the train step wrote",
            )
    labels = read_labels_file(labels_file)
    outputs = loaded.signatures[DEFAULT_SIGNATURE].structured_outputs["probabilities"].shape[-1]
    if outputs != len(labels):
        raise CheckFailedError(
            f"the SavedModel returns {outputs} probabilities, its assets/{LABELS_ASSET} has {len(labels)}",
            where=str(folder),
            remedy=_REMEDY,
        )
    if engine.name == TENSORFLOW:
        return ServedModel(loaded, labels)
    return ServedModel(loaded, labels, engine, load_network(engine, folder))


def check_labels(model: ServedModel, labels: Sequence[str], *, where: str) -> None:
    """Checks that the model's classes are the data set's labels, in the same order.

    Args:
        model: The loaded model.
        labels: The data set's labels.
        where: The model's folder, for the error message.

    Raises:
        InvalidDataError: with both lists, if they differ.
    """
    if model.labels == tuple(labels):
        return
    first = next(
        (index for index, pair in enumerate(zip(model.labels, labels, strict=False)) if pair[0] != pair[1]),
        min(len(model.labels), len(labels)),
    )
    raise InvalidDataError(
        f"the model's labels ({_summarize(model.labels)}) differ from the data set's ({_summarize(labels)}); "
        f"the first difference is label {class_to_label(first)}",
        where=where,
        remedy="use data converted with the model's own labels file, assets/labels.txt",
    )


def check_probe_prediction(model: ServedModel) -> None:
    """Checks that a model returns probabilities, for a single image and for a batch.

    Raises:
        CheckFailedError: if it does not.
    """
    image = probe_image()
    for count in (1, 2):
        try:
            prediction = model.predict([image] * count)
        except InvalidDataError as error:
            raise CheckFailedError(
                f"the model cannot predict: {error.problem}", remedy="deploy another model"
            ) from None
        shape = (count, len(model.labels))
        probabilities = prediction.probabilities
        sums = probabilities.sum(axis=1) if probabilities.shape == shape else np.zeros(1)
        if not np.allclose(sums, 1, atol=1e-3):
            raise CheckFailedError(
                f"the model does not return {shape[1]} probabilities that sum to 1",
                remedy="deploy another model: this one diverged in training or is damaged",
            )


def _summarize(labels: Sequence[str]) -> str:
    return f"{len(labels)}: {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"


_REMEDY = "run the pipeline again from the train step"
