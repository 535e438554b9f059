"""Loads a SavedModel as a server does and asks it for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import CheckFailedError, InvalidDataError, MissingInputError
from components.common.labels import read_labels_file
from components.common.quiet_tensorflow import tf
from components.export.serving_model import LABELS_ASSET


@dataclass(frozen=True)
class Prediction:
    """Answers to a batch: classes int64 [n] of 0..N-1, probabilities float32 [n, N]."""

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class ServedModel:
    """A loaded SavedModel with the signature of ``serving_model``."""

    def __init__(self, loaded: Any, labels: tuple[str, ...]) -> None:
        # The object is kept: the signature's variables die with it.
        self._loaded = loaded
        self._signature = loaded.signatures["serving_default"]
        self.labels = labels

    def predict(self, images: Sequence[bytes]) -> Prediction:
        """Returns the answers for image files, in their order.

        Raises:
            InvalidDataError: if an image of the batch cannot be decoded.
            CheckFailedError: if the keys do not come back as they were sent.
        """
        keys = [str(number).encode() for number in range(len(images))]
        try:
            answer = self._signature(image_bytes=tf.constant(list(images)), key=tf.constant(keys))
        except tf.errors.InvalidArgumentError as error:
            reason = str(error.message).partition("[[")[0].strip().splitlines()[0]
            raise InvalidDataError(
                f"the model cannot decode an image: {reason}",
                remedy="run the validate step on the data: it names the image",
            ) from None
        if answer["key"].numpy().tolist() != keys:
            raise CheckFailedError(
                "the model does not hand the keys through in order", remedy="export the model again"
            )
        return Prediction(answer["classes"].numpy(), answer["probabilities"].numpy())


def load_served_model(folder: Path) -> ServedModel:
    """Loads a model folder that the train or export step wrote.

    Raises:
        MissingInputError: if there is no SavedModel of ours.
    """
    if not (folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(folder)!r}", remedy="give the folder that holds saved_model.pb"
        )
    loaded = tf.saved_model.load(str(folder))
    if "serving_default" not in loaded.signatures:
        raise MissingInputError(
            f"the SavedModel in {str(folder)!r} has no signature serving_default",
            remedy="give a model that the train step wrote",
        )
    return ServedModel(loaded, read_labels_file(folder / "assets" / LABELS_ASSET))
