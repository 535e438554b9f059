"""Compares outputs, gradients and statistics with Keras', in training and in inference."""

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.forward_pass import Mode, run_network
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import build_classifier

SIZE = 64
# Together with the two networks of test_other_layers they have all kinds of layers but one; `make proof`
# checks all networks.
CHECKED_ALWAYS = ("resnet-18", "efficientnet-b0")
ALL = [
    name if name in CHECKED_ALWAYS else pytest.param(name, marks=pytest.mark.proof) for name in MODEL_TYPES
]


def build(model_type):
    return build_classifier(model_type, num_classes=3, image_size=SIZE, weights="none", seed=3)


def random_images(count, size=SIZE):
    draw = np.random.default_rng(0)
    # Smooth images with structure at every scale.
    small = tf.constant(draw.uniform(0, 255, (count, 8, 8, 3)), tf.float32)
    return tf.image.resize(small, (size, size))


def without_dropout(classifier):
    """Disables dropout, which is different in each call."""
    for layer in classifier.network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return classifier


def train_once(classifier, run, images):
    """Returns the features, the gradients of a sum over them and the statistics after one training call."""
    start = [variable.numpy() for variable in classifier.backbone.variables]
    variables = classifier.backbone.trainable_variables

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            features = run(images)
            # A weighted sum: batch normalization makes plain sums of features constant.
            weights = tf.cos(tf.cast(tf.range(tf.size(features)), tf.float32))
            loss = tf.reduce_sum(tf.reshape(features, [-1]) * weights)
        return features, tape.gradient(loss, variables)

    features, gradients = step()
    statistics = [v.numpy() for v in classifier.backbone.non_trainable_variables if "seed" not in v.path]
    for variable, value in zip(classifier.backbone.variables, start, strict=True):
        variable.assign(value)
    return features.numpy(), [gradient.numpy() for gradient in gradients], statistics


def relative_difference(ours, theirs):
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12)


def perturb(images):
    """Changes each value by about its rounding error."""
    noise = np.random.default_rng(1).standard_normal(images.shape)
    return images * tf.constant(1 + np.finfo(np.float32).eps * noise, tf.float32)


def as_vector(parts):
    return np.concatenate([part.ravel() for part in parts])


@pytest.fixture(scope="module", params=ALL)
def compared(request):
    """A network and its training calls: ours, Keras', and Keras' on slightly perturbed images.

    Random deep networks amplify float32's rounding errors a thousand times and more; the last call determines
    the tolerance.
    """
    classifier = without_dropout(build(request.param))
    images = random_images(8)
    # Statistics of images instead of the initial ones.
    for layer in classifier.network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    ours = train_once(classifier, lambda x: run_network(classifier.backbone, x, Mode(True)), images)

    def keras_call(x):
        return classifier.backbone(x, training=True)

    expected = train_once(classifier, keras_call, images)
    perturbed = train_once(classifier, keras_call, perturb(images))
    return request.param, classifier, images, (ours, expected, perturbed)


def assert_close(ours, expected, perturbed):
    tolerance = max(1e-5, 3 * relative_difference(perturbed, expected))
    # A larger tolerance would accept anything.
    assert tolerance < 1
    assert relative_difference(ours, expected) <= tolerance


def test_training_computes_keras_features(compared):
    assert_close(*(features for features, _, _ in compared[3]))


def test_training_computes_keras_gradients(compared):
    # Concatenated: single gradients may be sums that nearly cancel, e.g. before batch normalization.
    assert_close(*(as_vector(gradients) for _, gradients, _ in compared[3]))


def test_training_updates_the_statistics_as_keras(compared):
    assert_close(*(as_vector(statistics) for _, _, statistics in compared[3]))


def test_inference_computes_keras_features(compared):
    _, classifier, images, _ = compared
    start = [variable.numpy() for variable in classifier.backbone.variables]
    # With the initial statistics, the features of a deep network would be in the millions and random.
    train = tf.function(lambda: classifier.backbone(images, training=True))
    for _ in range(10):
        train()
    ours = tf.function(lambda: run_network(classifier.backbone, images, Mode(False)))().numpy()
    keras_inference = tf.function(lambda x: classifier.backbone(x, training=False))
    assert_close(ours, keras_inference(images).numpy(), keras_inference(perturb(images)).numpy())
    for variable, value in zip(classifier.backbone.variables, start, strict=True):
        variable.assign(value)


def test_bfloat16_computes_similar_features_and_float32_gradients(compared):
    name, classifier, images, ((exact, exact_gradients, _), _, _) = compared
    mode = Mode(True, "bfloat16")
    features, gradients, statistics = train_once(
        classifier, lambda x: tf.cast(run_network(classifier.backbone, x, mode), tf.float32), images
    )
    # Random deep networks amplify this rounding up to two thirds of the features' size; 1.4 would be random.
    assert relative_difference(features, exact) < (0.5 if name in CHECKED_ALWAYS else 1)
    assert not np.array_equal(features, exact)
    assert all(gradient.dtype == np.float32 for gradient in gradients)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert len(gradients) == len(exact_gradients)
    assert all(np.isfinite(value).all() for value in statistics)


def small_convnext():
    """A ConvNeXt with one narrow block in each stage; with the usual factors of 1e-6 a block adds nothing."""
    return ConvNeXt([1] * 4, [8, 8, 16, 16], layer_scale_init_value=1.0, **SMALL)


SMALL = {"include_top": False, "weights": None, "pooling": "avg", "input_shape": (32, 32, 3)}


@pytest.mark.parametrize(
    "build_network", [small_convnext, lambda: keras.applications.MobileNetV3Small(**SMALL)]
)
def test_other_layers_compute_keras_features_and_gradients(build_network):
    network, images = build_network(), random_images(3, 32)
    weights = tf.random.stateless_uniform((3, network.output_shape[-1]), (1, 2))
    start = [variable.numpy() for variable in network.variables]
    results = []
    for run in (lambda x: run_network(network, x, Mode(True)), lambda x: network(x, training=True)):
        with tf.GradientTape() as tape:
            features = run(images)
            loss = tf.reduce_sum(features * weights)
        gradients = [gradient.numpy() for gradient in tape.gradient(loss, network.trainable_variables)]
        results.append((features.numpy(), as_vector(gradients)))
        for variable, value in zip(network.variables, start, strict=True):
            variable.assign(value)
    for ours, theirs in zip(*results, strict=True):
        assert np.linalg.norm(theirs) > 1e-3
        assert relative_difference(ours, theirs) < 1e-3


def test_dropout_is_active_only_in_training():
    classifier = build("efficientnet-b0")
    features = tf.ones((4, 1280))
    training = [run_network(classifier.head, features, Mode(True)).numpy() for _ in range(2)]
    inference = [run_network(classifier.head, features, Mode(False)).numpy() for _ in range(2)]
    assert not np.array_equal(*training)
    assert np.array_equal(*inference)
    np.testing.assert_allclose(inference[0], classifier.head(features, training=False), rtol=1e-5)
