"""Writes the SavedModel for serving: its input is an image file's bytes, its output the probabilities."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.labels import LABELS_ASSET, write_labels_file
from imgpipe.components.common.tensorflow_2_6 import remove_hints
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.serving_decoder import decode_image_file

DEFAULT_SIGNATURE = "serving_default"
LABELS_SIGNATURE = "top_labels"
SETS_SIGNATURE = "label_sets"
# The names of the network's input and output in the other export formats.
IMAGES, PROBABILITIES = "images", "probabilities"
# The number of classes that the signature top_labels returns, or all if there are fewer.
TOP_LABELS = 5


class _ServingModel(tf.Module):
    """The variables, the labels file and the served functions."""

    def __init__(
        self,
        classifier: Any,
        image_size: int,
        labels: Sequence[str],
        labels_file: Path,
        *,
        multi_label: bool,
        temperature: float,
        set_thresholds: Sequence[float],
        webp: bool,
    ) -> None:
        super().__init__()
        # By path, so that each variable can be identified and another training can start from them.
        self.classifier_variables = {variable.path: variable.value for variable in classifier.variables}
        self._labels_file = tf.saved_model.Asset(str(labels_file))
        logits = classifier.logits
        probabilities_from = tf.nn.sigmoid if multi_label else tf.nn.softmax
        names = tf.constant(list(labels), tf.string)
        signature = [
            tf.TensorSpec([None], tf.string, name="image_bytes"),
            tf.TensorSpec([None], tf.string, name="key"),
        ]

        # A separate function, so that the signatures share one copy of the network. Other formats are
        # converted from it; their applications decode images themselves.
        @tf.function(
            input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name=IMAGES)]
        )
        def probabilities_of_pixels(images: Any) -> Any:
            scaled = logits(images, training=False)
            if temperature != 1:
                scaled *= 1 / temperature
            return probabilities_from(scaled)

        @tf.function(input_signature=signature)
        def probabilities_of(image_bytes: Any, key: Any) -> Any:
            # A missing key would otherwise shift all following predictions unnoticed.
            tf.debugging.assert_equal(
                tf.shape(key),
                tf.shape(image_bytes),
                "key and image_bytes must have the same length",
            )
            images = tf.map_fn(
                lambda encoded: decode_image_file(encoded, image_size, webp=webp),
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

        @tf.function(input_signature=signature)
        def serve_sets(image_bytes: Any, key: Any) -> dict[str, Any]:
            probabilities = probabilities_of(image_bytes, key)
            limits = tf.constant(set_thresholds, tf.float32)
            if not multi_label:
                best = tf.math.top_k(probabilities, k=2)
                is_first = tf.one_hot(best.indices[:, 0], len(labels), True, False, dtype=tf.bool)
                limits *= tf.where(is_first, best.values[:, 1:], best.values[:, :1])
            return {
                "in_set": probabilities >= limits,
                "key": tf.identity(key),
                "probabilities": probabilities,
            }

        self.probabilities_of_pixels = probabilities_of_pixels
        self.serve = serve
        self.serve_labels = serve_labels
        if set_thresholds:
            # As an attribute, it would be traced when the model is saved.
            self.serve_sets = serve_sets


def write_saved_model(
    classifier: Any,
    image_size: int,
    labels: Sequence[str],
    folder: Path,
    *,
    multi_label: bool = False,
    temperature: float = 1.0,
    set_thresholds: Sequence[float] = (),
    webp: bool = False,
) -> None:
    """Writes ``saved_model.pb``, ``variables/`` and ``assets/labels.txt``.

    The signature ``serving_default``, and its alias ``classify``, take ``image_bytes`` (string [n]: whole
    JPEG, PNG, GIF or BMP files) and ``key`` (string [n], returned unchanged), and return ``classes``
    (int64 [n]: 0..N-1, the label on disk less one), ``key`` (string [n]) and ``probabilities`` (float32
    [n, N]), as in Google's built-in algorithm. The signature ``top_labels`` takes the same inputs and
    returns the k = min(5, N) most probable classes, the most probable first: ``classes`` (int64 [n, k]),
    ``key``, ``labels`` (string [n, k], their names) and ``probabilities`` (float32 [n, k]). The signature
    ``label_sets`` takes the same inputs and returns ``in_set`` (bool [n, N]: whether a label is in the set
    that holds the true label with the stated probability), ``key`` and ``probabilities`` (float32 [n, N]).

    The function ``probabilities_of_pixels``, which is not a signature, is the network without the decoding:
    uint8 [n, size, size, 3] -> ``probabilities``.

    Images are decoded by ``decode_image_file``, to the pixels of an image that the convert step prepared.

    Without WebP, every operation of the graph is in TensorFlow 2.6, the version of KServe's runtime, so that
    this and all later versions load the model.

    Args:
        classifier: With ``variables`` (Keras variables) and ``logits(images, training=...)``.
        image_size: The side in pixels of the square to which images are scaled.
        labels: Names by class.
        folder: The output folder.
        multi_label: Whether each label has an independent probability (sigmoid); otherwise the
            probabilities sum to 1 (softmax).
        temperature: What the logits are divided by, see ``temperature.fit_temperature``.
        set_thresholds: From ``label_sets.set_thresholds``; empty leaves the signature ``label_sets`` out.
        webp: Whether the model decodes WebP files too; then it needs TensorFlow 2.20 or later.
    """
    with tempfile.TemporaryDirectory() as temporary:
        labels_file = Path(temporary) / LABELS_ASSET
        write_labels_file(labels_file, labels)
        module = _ServingModel(
            classifier,
            image_size,
            labels,
            labels_file,
            multi_label=multi_label,
            temperature=temperature,
            set_thresholds=set_thresholds,
            webp=webp,
        )
        signatures = {
            DEFAULT_SIGNATURE: module.serve,
            "classify": module.serve,
            LABELS_SIGNATURE: module.serve_labels,
        }
        if set_thresholds:
            signatures[SETS_SIGNATURE] = module.serve_sets
        tf.saved_model.save(module, str(folder), signatures=signatures)
    remove_hints(folder)
