"""Writes the SavedModel that is served: an image file's bytes in, classes and probabilities out."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.image_decoding import decode_image
from components.common.labels import write_labels_file
from components.common.quiet_tensorflow import tf

LABELS_ASSET = "labels.txt"


class _ServingModel(tf.Module):
    """Holds the variables and the labels file, and the function that is served."""

    def __init__(self, classifier: Any, image_size: int, labels_file: Path) -> None:
        super().__init__()
        self._classifier_variables = [variable.value for variable in classifier.variables]
        self._labels_file = tf.saved_model.Asset(str(labels_file))
        logits = classifier.logits

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, name="image_bytes"),
                tf.TensorSpec([None], tf.string, name="key"),
            ]
        )
        def serve(image_bytes: Any, key: Any) -> dict[str, Any]:
            # A key less than images would pass unnoticed and shift every answer after it.
            tf.debugging.assert_equal(
                tf.shape(key), tf.shape(image_bytes), "give one key for each of image_bytes"
            )
            images = tf.map_fn(
                lambda encoded: decode_image(encoded, image_size), image_bytes, fn_output_signature=tf.uint8
            )
            images.set_shape([None, image_size, image_size, 3])
            probabilities = tf.nn.softmax(logits(images, training=False))
            return {
                "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int64),
                "key": tf.identity(key),
                "probabilities": probabilities,
            }

        self.serve = serve


def write_saved_model(classifier: Any, image_size: int, labels: Sequence[str], folder: Path) -> None:
    """Writes ``saved_model.pb``, ``variables/`` and ``assets/labels.txt``.

    The signature ``serving_default``, and its alias ``classify``, take ``image_bytes`` (string [n]: whole
    JPEG, PNG, GIF or BMP files) and ``key`` (string [n], handed through), and return ``classes``
    (int64 [n]: 0..N-1, the label on disk less one), ``key`` (string [n]) and ``probabilities`` (float32
    [n, N]). It is that of Google's built-in algorithm. Images are decoded as TensorFlow does: EXIF
    orientation and transparency are not heeded, so a client prepares such images as the convert step does
    (``components.common.images.prepare_image``).

    Args:
        classifier: With ``variables`` (Keras variables) and ``logits(images, training=...)``.
        image_size: Side in pixels to which images are scaled.
        labels: Names by class.
        folder: To be written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        labels_file = Path(temporary) / LABELS_ASSET
        write_labels_file(labels_file, labels)
        module = _ServingModel(classifier, image_size, labels_file)
        tf.saved_model.save(
            module, str(folder), signatures={"serving_default": module.serve, "classify": module.serve}
        )
