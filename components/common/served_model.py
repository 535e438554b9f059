"""Loads a SavedModel as a server does and asks it for predictions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import CheckFailedError, InvalidDataError, MissingInputError
from imgpipe.components.common.labels import read_labels_file
from imgpipe.components.common.records import class_to_label
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE, LABELS_ASSET
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.probe_image import probe_image

# Images in a request of ours, in the evaluation and in the check of what is served.
BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """Answers to a batch: classes int64 [n] of 0..N-1, probabilities float32 [n, N]."""

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class ServedModel:
    """A loaded SavedModel with the signatures of ``saved_model``."""

    def __init__(self, loaded: Any, labels: tuple[str, ...]) -> None:
        # The object is kept: the signature's variables die with it.
        self._loaded = loaded
        self.signatures = dict(loaded.signatures)
        self.labels = labels

    @property
    def network(self) -> Any:
        """The network behind the decoding: a function of uint8 [n, size, size, 3] to float32 [n, N].

        It works as long as this object lives.

        Raises:
            MissingInputError: if the model was written before it was kept.
        """
        try:
            return self._loaded.probabilities_of_pixels
        except AttributeError:
            raise MissingInputError(
                "the SavedModel holds no network apart from the decoding of images",
                remedy="train the model again with this version of imgpipe",
            ) from None

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that the network takes; errors as for ``network``."""
        return int(self.network.concrete_functions[0].inputs[0].shape[1])

    def predict(self, images: Sequence[bytes]) -> Prediction:
        """Returns the answers for image files, in their order.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded; TensorFlow does not say which.
            CheckFailedError: if the keys do not come back as they were sent.
        """
        answer = self.ask(images, [str(number) for number in range(len(images))])
        return Prediction(answer["classes"], answer["probabilities"])

    def ask(
        self, images: Sequence[bytes], keys: Sequence[str], signature: str = DEFAULT_SIGNATURE
    ) -> dict[str, NDArray[Any]]:
        """Returns a signature's outputs by name, each with one entry an image, in their order.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded; TensorFlow does not say which.
            CheckFailedError: if the keys do not come back as they were sent.
        """
        sent = [key.encode() for key in keys]
        try:
            answer = self.signatures[signature](
                image_bytes=tf.constant(list(images), tf.string), key=tf.constant(sent, tf.string)
            )
        except tf.errors.InvalidArgumentError as error:
            raise InvalidDataError(
                f"the model cannot decode an image: {_reason(str(error.message))}",
                remedy="run the validate step on the data: it names the image",
            ) from None
        if answer["key"].numpy().tolist() != sent:
            raise CheckFailedError(
                "the model does not hand the keys through in order", remedy="export the model again"
            )
        return {name: value.numpy() for name, value in answer.items()}


def _reason(message: str) -> str:
    """Returns the reason in a message of TensorFlow, whose other lines say where in the graph it arose."""
    lines = [line.strip() for line in message.partition("[[")[0].splitlines() if line.strip()]
    if not lines:
        return "TensorFlow gives no reason"
    # Of several operations that failed, each reason is preceded by its number and code.
    reason = re.sub(r"^\(\d+\) [A-Z_]+: ", "", lines[-1])
    failed, assertion, said = reason.partition("assertion failed: ")
    return re.sub(r"\[([^]]*)\]", r"\1", said) if assertion and not failed else reason


def load_served_model(folder: Path) -> ServedModel:
    """Loads a model folder that the train or export step wrote.

    Raises:
        MissingInputError: if there is no SavedModel of ours.
        CheckFailedError: if it is damaged.
    """
    if not (folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(folder)!r}", remedy="give the folder that holds saved_model.pb"
        )
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        # Each kind of damage has an exception of its own: OSError, IndexError, DataLossError, ...
        raise CheckFailedError(
            f"the SavedModel cannot be loaded: {error}", where=str(folder), remedy=_AGAIN
        ) from None
    if DEFAULT_SIGNATURE not in loaded.signatures:
        raise MissingInputError(
            f"the SavedModel in {str(folder)!r} has no signature serving_default",
            remedy="give a model that the train step wrote",
        )
    labels = read_labels_file(folder / "assets" / LABELS_ASSET)
    outputs = loaded.signatures[DEFAULT_SIGNATURE].structured_outputs["probabilities"].shape[-1]
    if outputs != len(labels):
        raise CheckFailedError(
            f"the SavedModel gives {outputs} probabilities, its assets/{LABELS_ASSET} names {len(labels)}",
            where=str(folder),
            remedy=_AGAIN,
        )
    return ServedModel(loaded, labels)


def check_labels(model: ServedModel, labels: Sequence[str], *, where: str) -> None:
    """Makes sure that the model's classes are the data set's labels, in the same order.

    Args:
        model: The loaded model.
        labels: Of the data set.
        where: The model's folder, for the message.

    Raises:
        InvalidDataError: naming both, if they differ.
    """
    if model.labels == tuple(labels):
        return
    first = next(
        (place for place, pair in enumerate(zip(model.labels, labels, strict=False)) if pair[0] != pair[1]),
        min(len(model.labels), len(labels)),
    )
    raise InvalidDataError(
        f"the model's labels ({_listed(model.labels)}) are not those of the data set ({_listed(labels)}); "
        f"the first that differs is label {class_to_label(first)}",
        where=where,
        remedy="use data converted with the model's own labels file, assets/labels.txt",
    )


def check_probe_prediction(model: ServedModel) -> None:
    """Makes sure that a model answers with probabilities, alone and in a batch.

    Raises:
        CheckFailedError: if it does not.
    """
    image = probe_image()
    for count in (1, 2):
        try:
            answer = model.predict([image] * count)
        except InvalidDataError as error:
            raise CheckFailedError(
                f"the model does not answer: {error.problem}", remedy="deploy another model"
            ) from None
        shape = (count, len(model.labels))
        sums = answer.probabilities.sum(axis=1) if answer.probabilities.shape == shape else np.zeros(1)
        if not np.allclose(sums, 1, atol=1e-3):
            raise CheckFailedError(
                f"the model's answer is no probabilities of {shape[1]} classes that sum to 1",
                remedy="deploy another model: this one diverged in training, or is damaged",
            )


def _listed(labels: Sequence[str]) -> str:
    return f"{len(labels)}: {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"


_AGAIN = "run the pipeline again from the train step"
