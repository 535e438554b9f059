"""Decodes the images of a split to what the network gets, as the served model does."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.served_model import BATCH_SIZE
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.serving_decoder import decode_image_file


def decode_batches(encoded: Iterator[bytes], image_size: int) -> Iterator[NDArray[np.uint8]]:
    """Yields batches uint8 [n, size, size, 3] of image files, decoded as in the served model."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(files: Any) -> Any:
        return tf.map_fn(
            lambda file: decode_image_file(file, image_size, webp=True), files, fn_output_signature=tf.uint8
        )

    while batch := list(islice(encoded, BATCH_SIZE)):
        try:
            images = decode(tf.constant(batch, tf.string)).numpy()
        except tf.errors.InvalidArgumentError as error:
            reason = str(error.message).partition("[[")[0].strip().partition("\n")[0]
            raise InvalidDataError(
                f"an image cannot be decoded: {reason}",
                remedy="run the validate step on the data to find the image",
            ) from None
        yield images
