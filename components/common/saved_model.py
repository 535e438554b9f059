"""Writes the SavedModel for serving: its input is an image file's bytes, its output the probabilities."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.engines import EMBEDDINGS, IMAGES, PROBABILITIES
from imgpipe.components.common.labels import LABELS_ASSET, write_labels_file
from imgpipe.components.common.tensorflow_2_6 import remove_hints
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.serving_decoder import decode_image_file
from imgpipe.components.images.resize_modes import STRETCH

DEFAULT_SIGNATURE = "serving_default"
LABELS_SIGNATURE = "top_labels"
SETS_SIGNATURE = "label_sets"
# An alias of serving_default.
CLASSIFY_SIGNATURE = "classify"
EMBEDDINGS_SIGNATURE = EMBEDDINGS
# The number of classes that the signature top_labels returns, or all if there are fewer.
TOP_LABELS = 5
# The inputs of every signature.
_SIGNATURE = [
    tf.TensorSpec([None], tf.string, name="image_bytes"),
    tf.TensorSpec([None], tf.string, name="key"),
]


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
        resize: str,
    ) -> None:
        super().__init__()
        # By path, so that each variable can be identified and another training run can start from them.
        self.classifier_variables = {variable.path: variable.value for variable in classifier.variables}
        self._labels_file = tf.saved_model.Asset(str(labels_file))
        probabilities_from = tf.nn.sigmoid if multi_label else tf.nn.softmax
        names = tf.constant(list(labels), tf.string)

        # A network without separate features, as tests have, has no embeddings.
        has_embeddings = hasattr(classifier, "features")

        def outputs(images: Any) -> dict[str, Any]:
            features = classifier.features(images, training=False) if has_embeddings else None
            if has_embeddings:
                scaled = classifier.logits_of_features(features, training=False)
            else:
                scaled = classifier.logits(images, training=False)
            if temperature != 1:
                scaled *= 1 / temperature
            probabilities = {PROBABILITIES: probabilities_from(scaled)}
            return {EMBEDDINGS: features, **probabilities} if has_embeddings else probabilities

        # Separate functions, so that the signatures share one copy of the network. Other formats are
        # converted from them; their applications decode images themselves.
        pixels = [tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name=IMAGES)]
        outputs_of_pixels = tf.function(outputs, input_signature=pixels)

        @tf.function(input_signature=pixels)
        def probabilities_of_pixels(images: Any) -> Any:
            return outputs_of_pixels(images)[PROBABILITIES]

        @tf.function(input_signature=_SIGNATURE[:1])
        def pixels_of_files(image_bytes: Any) -> Any:
            images = tf.map_fn(
                lambda encoded: decode_image_file(encoded, image_size, webp=webp, resize=resize),
                image_bytes,
                fn_output_signature=tf.uint8,
            )
            images.set_shape([None, image_size, image_size, 3])
            return images

        def serve(probabilities: Any, key: Any) -> dict[str, Any]:
            return {
                "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int64),
                "key": tf.identity(key),
                "probabilities": probabilities,
            }

        def serve_labels(probabilities: Any, key: Any) -> dict[str, Any]:
            best = tf.math.top_k(probabilities, k=min(TOP_LABELS, len(labels)))
            return {
                "classes": tf.cast(best.indices, tf.int64),
                "key": tf.identity(key),
                "labels": tf.gather(names, best.indices),
                "probabilities": best.values,
            }

        def serve_sets(probabilities: Any, key: Any) -> dict[str, Any]:
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

        self.has_embeddings = has_embeddings
        self.outputs_of_pixels = outputs_of_pixels
        self.probabilities_of_pixels = probabilities_of_pixels
        self.pixels_of_files = pixels_of_files
        answers = {DEFAULT_SIGNATURE: serve, LABELS_SIGNATURE: serve_labels}
        if set_thresholds:
            answers[SETS_SIGNATURE] = serve_sets
        for name, answer in answers.items():
            inputs = [tf.TensorSpec([None, len(labels)], tf.float32, name=PROBABILITIES), _SIGNATURE[1]]
            setattr(self, answer_function(name), tf.function(answer, input_signature=inputs))

    def signature(self, name: str) -> Any:
        """Returns the function of a signature."""
        answer = getattr(self, answer_function(name))

        @tf.function(input_signature=_SIGNATURE)
        def serve(image_bytes: Any, key: Any) -> Any:
            _check_lengths(image_bytes, key)
            return answer(self.probabilities_of_pixels(self.pixels_of_files(image_bytes)), key)

        return serve

    def embeddings_signature(self) -> Any:
        """Returns the function of the signature ``embeddings``."""

        @tf.function(input_signature=_SIGNATURE)
        def serve(image_bytes: Any, key: Any) -> Any:
            _check_lengths(image_bytes, key)
            outputs = self.outputs_of_pixels(self.pixels_of_files(image_bytes))
            return {EMBEDDINGS: outputs[EMBEDDINGS], "key": tf.identity(key)}

        return serve


def _check_lengths(image_bytes: Any, key: Any) -> None:
    # A missing key would otherwise shift all following predictions unnoticed.
    tf.debugging.assert_equal(
        tf.shape(key), tf.shape(image_bytes), "key and image_bytes must have the same length"
    )


def answer_function(signature: str) -> str:
    """Returns the name of the function that makes a signature's outputs of ``probabilities`` and ``key``."""
    return f"answer_{signature}"


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
    resize: str = STRETCH,
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

    Each signature consists of three functions, which are not signatures: ``pixels_of_files`` decodes the
    files (string [n] -> uint8 [n, size, size, 3]), ``probabilities_of_pixels`` is the network, and
    ``answer_serving_default``, ``answer_top_labels`` and ``answer_label_sets`` make the outputs of
    ``probabilities`` and ``key``. ``outputs_of_pixels`` returns the network's ``probabilities`` and, if it
    has features, ``embeddings`` (float32 [n, d]), what its last layer gets; an engine other than TensorFlow
    replaces it. Then there is a signature ``embeddings`` with the same inputs, which returns ``embeddings``
    and ``key``.

    Images are decoded by ``decode_image_file``, to the pixels of an image that the convert step prepared.

    Without WebP, every operation of the graph is in TensorFlow 2.6, the version of KServe's runtime, so that
    this and all later versions load the model.

    Args:
        classifier: With ``variables`` (Keras variables), and with ``features(images, training=...)`` and
            ``logits_of_features(features, training=...)`` or ``logits(images, training=...)`` alone.
        image_size: The side in pixels of the square to which images are scaled.
        labels: Names by class.
        folder: The output folder.
        multi_label: Whether each label has an independent probability (sigmoid); otherwise the
            probabilities sum to 1 (softmax).
        temperature: What the logits are divided by, see ``temperature.fit_temperature``.
        set_thresholds: From ``label_sets.set_thresholds``; empty leaves the signature ``label_sets`` out.
        webp: Whether the model decodes WebP files too; then it needs TensorFlow 2.20 or later.
        resize: How an image becomes a square: ``stretch``, ``crop`` or ``letterbox``.
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
            resize=resize,
        )
        names = [DEFAULT_SIGNATURE, LABELS_SIGNATURE, *([SETS_SIGNATURE] if set_thresholds else [])]
        signatures = {name: module.signature(name) for name in names}
        signatures[CLASSIFY_SIGNATURE] = signatures[DEFAULT_SIGNATURE]
        if module.has_embeddings:
            signatures[EMBEDDINGS_SIGNATURE] = module.embeddings_signature()
        tf.saved_model.save(module, str(folder), signatures=signatures)
    remove_hints(folder)
