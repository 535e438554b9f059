"""A picture that is made here, to ask a model whether it answers at all."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imgpipe.components.common.errors import CheckFailedError, InvalidDataError

if TYPE_CHECKING:
    # TensorFlow is not loaded for the picture alone.
    from imgpipe.components.common.served_model import ServedModel

_SIDE = 64


def probe_image() -> bytes:
    """Returns a JPEG file of 64 x 64 pixels with a gradient of colours."""
    across, down = np.meshgrid(np.linspace(0, 255, _SIDE), np.linspace(0, 255, _SIDE))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def check_answers_probe(model: "ServedModel") -> None:
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
