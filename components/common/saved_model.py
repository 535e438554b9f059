"""Writes the SavedModel that is served: an image file's bytes in, classes and probabilities out."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.labels import write_labels_file
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.serving_decoder import decode_image_file

LABELS_ASSET = "labels.txt"
DEFAULT_SIGNATURE = "serving_default"
LABELS_SIGNATURE = "top_labels"
# Input and output of the network behind the decoding, in other formats than this.
IMAGES, PROBABILITIES = "images", "probabilities"
# Classes that the signature with names answers with, or all if there are fewer.
TOP_LABELS = 5


class _ServingModel(tf.Module):
    """Holds the variables and the labels file, and the function that is served."""

    def __init__(
        self,
        classifier: Any,
        image_size: int,
        labels: Sequence[str],
        labels_file: Path,
        *,
        multi_label: bool,
    ) -> None:
        super().__init__()
        # By path, so that the file tells which is which and another training can start from them.
        self.classifier_variables = {variable.path: variable.value for variable in classifier.variables}
        self._labels_file = tf.saved_model.Asset(str(labels_file))
        logits = classifier.logits
        probabilities_from = tf.nn.sigmoid if multi_label else tf.nn.softmax
        names = tf.constant(list(labels), tf.string)
        signature = [
            tf.TensorSpec([None], tf.string, name="image_bytes"),
            tf.TensorSpec([None], tf.string, name="key"),
        ]

        # A function of its own, so that the signatures share one copy of the network. Other formats are made
        # of it: there, decoding is the application's.
        @tf.function(
            input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name=IMAGES)]
        )
        def probabilities_of_pixels(images: Any) -> Any:
            return probabilities_from(logits(images, training=False))

        @tf.function(input_signature=signature)
        def probabilities_of(image_bytes: Any, key: Any) -> Any:
            # A key less than images would pass unnoticed and shift every answer after it.
            tf.debugging.assert_equal(
                tf.shape(key), tf.shape(image_bytes), "give one key for each of image_bytes"
            )
            images = tf.map_fn(
                lambda encoded: decode_image_file(encoded, image_size),
                image_bytes,
                fn_output_signature=tf.uint8,
            )
            images.set_shape([None, image_size, image_size, 3])
            return probabilities_of_pixels(images)

        @tf.function(input_signature=signature)
        def serve(image_bytes: Any, key: Any) -> dict[str, Any]:
            probabilities = probabilities_of(image_bytes, key)
            return {
                "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int64),
                "key": tf.identity(key),
                "probabilities": probabilities,
            }

        @tf.function(input_signature=signature)
        def serve_labels(image_bytes: Any, key: Any) -> dict[str, Any]:
            best = tf.math.top_k(probabilities_of(image_bytes, key), k=min(TOP_LABELS, len(labels)))
            return {
                "classes": tf.cast(best.indices, tf.int64),
                "key": tf.identity(key),
                "labels": tf.gather(names, best.indices),
                "probabilities": best.values,
            }

        self.probabilities_of_pixels = probabilities_of_pixels
        self.serve = serve
        self.serve_labels = serve_labels


def write_saved_model(
    classifier: Any, image_size: int, labels: Sequence[str], folder: Path, *, multi_label: bool = False
) -> None:
    """Writes ``saved_model.pb``, ``variables/`` and ``assets/labels.txt``.

    The signature ``serving_default``, and its alias ``classify``, take ``image_bytes`` (string [n]: whole
    JPEG, PNG, GIF, BMP or WebP files) and ``key`` (string [n], handed through), and return ``classes``
    (int64 [n]: 0..N-1, the label on disk less one), ``key`` (string [n]) and ``probabilities`` (float32
    [n, N]). It is that of Google's built-in algorithm. The signature ``top_labels`` takes the same and
    returns the k = min(5, N) most probable classes, the most probable first: ``classes`` (int64 [n, k]),
    ``key``, ``labels`` (string [n, k], their names) and ``probabilities`` (float32 [n, k]).

    The function ``probabilities_of_pixels``, which is no signature, is the network behind the decoding: uint8
    [n, size, size, 3] -> ``probabilities``.

    Images are decoded as ``served_images`` says: as the convert step would have prepared them.

    Args:
        classifier: With ``variables`` (Keras variables) and ``logits(images, training=...)``.
        image_size: Side in pixels to which images are scaled.
        labels: Names by class.
        folder: To be written.
        multi_label: Whether each label has a probability of its own (sigmoid), instead of one probability
            that is shared out among the labels (softmax).
    """
    with tempfile.TemporaryDirectory() as temporary:
        labels_file = Path(temporary) / LABELS_ASSET
        write_labels_file(labels_file, labels)
        module = _ServingModel(classifier, image_size, labels, labels_file, multi_label=multi_label)
        tf.saved_model.save(
            module,
            str(folder),
            signatures={
                DEFAULT_SIGNATURE: module.serve,
                "classify": module.serve,
                LABELS_SIGNATURE: module.serve_labels,
            },
        )
