"""The same checks for every model type, followed by checks of a single model type."""

import dataclasses
import random
import threading

import numpy as np
import pytest

from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.tensorflow_2_6 import unknown_operations
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import (
    build_classifier,
    decayed_kernels,
    set_batch_normalization_momentum,
)
from imgpipe.components.train.network_stages import parts_of_layers
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_step import Trainable, build_training_step

SIZE = 32
CLASSES = 3

applications = keras.applications
# The scaling by family, from Keras; that of our own ResNets is published by torchvision.
PREPROCESS = {
    "basic-resnet": lambda images: applications.imagenet_utils.preprocess_input(images, mode="torch"),
    "bottleneck-resnet": lambda images: applications.imagenet_utils.preprocess_input(images, mode="torch"),
    "resnet": applications.resnet.preprocess_input,
    "efficientnet": applications.efficientnet.preprocess_input,
    "efficientnet-v2": applications.efficientnet_v2.preprocess_input,
    "mobilenet-v2": applications.mobilenet_v2.preprocess_input,
    "mobilenet-v3-small": applications.mobilenet_v3.preprocess_input,
    "mobilenet-v3-large": applications.mobilenet_v3.preprocess_input,
    "convnext": applications.convnext.preprocess_input,
}
# Published numbers of all and of trained parameters with 1000 classes: Keras' networks from their weight
# files (keras.io/api/applications rounds them), our own ResNets from the model pages of torchvision and timm
# (trained ones). MobileNetV3 is without the hidden layer before its last one: Keras' files without the last
# layer have neither.
PUBLISHED = {
    "resnet-18": (11_699_112, 11_689_512),
    "resnet-34": (21_814_696, 21_797_672),
    "resnet-50": (25_636_712, 25_583_592),
    "resnet-101": (44_707_176, 44_601_832),
    "resnet-152": (60_419_944, 60_268_520),
    "resnet-200": (64_849_832, 64_673_832),
    "efficientnet-b0": (5_330_571, 5_288_548),
    "efficientnet-b1": (7_856_239, 7_794_184),
    "efficientnet-b2": (9_177_569, 9_109_994),
    "efficientnet-b3": (12_320_535, 12_233_232),
    "efficientnet-b4": (19_466_823, 19_341_616),
    "efficientnet-b5": (30_562_527, 30_389_784),
    "efficientnet-b6": (43_265_143, 43_040_704),
    "efficientnet-b7": (66_658_687, 66_347_960),
    "mobilenet-v2": (3_538_984, 3_504_872),
    "efficientnet-v2-b0": (7_200_312, 7_139_704),
    "efficientnet-v2-b1": (8_212_124, 8_141_052),
    "efficientnet-v2-b2": (10_178_374, 10_096_086),
    "efficientnet-v2-b3": (14_467_622, 14_358_406),
    "efficientnet-v2-s": (21_612_360, 21_458_488),
    "efficientnet-v2-m": (54_431_388, 54_139_356),
    "efficientnet-v2-l": (119_027_848, 118_515_272),
    "mobilenet-v3-small": (939_120 + 577_000, 927_008 + 577_000),
    "mobilenet-v3-large": (2_996_352 + 961_000, 2_971_952 + 961_000),
    "convnext-tiny": (28_589_128, 28_589_128),
    "convnext-small": (50_223_688, 50_223_688),
}
# One network of each family; `make proof` checks all networks.
CHECKED_ALWAYS = (
    *("resnet-18", "resnet-50", "efficientnet-b0", "mobilenet-v2", "efficientnet-v2-b0"),
    *("mobilenet-v3-small", "convnext-tiny"),
)


def build(model_type, *, classes=CLASSES, size=SIZE, seed=0, path=""):
    return build_classifier(
        model_type,
        num_classes=classes,
        image_size=size,
        weights="none",
        seed=seed,
        pretrained_checkpoint_path=str(path),
    )


def random_images(count, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalizations(classifier):
    network = classifier.backbone.layers[-1]
    return [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]


def one_step(classifier):
    """Takes one training step as in the loop and returns the previous values."""
    before = [variable.numpy().copy() for variable in classifier.variables]
    trainable = Trainable(
        classifier.logits,
        tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8),
        classifier.trained_variables,
        decayed_kernels(classifier),
        classifier.variables,
        CLASSES,
    )
    arguments = TrainingArguments(max_steps=1, initial_learning_rate=1e-3, train_batch_size=6)
    accelerators = Accelerators(tf.distribute.get_strategy(), "CPU")
    step = build_training_step(trainable, build_optimizer(arguments), arguments, accelerators)
    loss = step(tf.constant(random_images(6)), tf.range(6, dtype=tf.int64) % CLASSES)
    assert np.isfinite(loss)
    return before


def changed_paths(classifier, before):
    return {
        variable.path
        for variable, value in zip(classifier.variables, before, strict=True)
        if variable.numpy().tobytes() != value.tobytes()
    }


@pytest.fixture(
    scope="module",
    params=[
        name if name in CHECKED_ALWAYS else pytest.param(name, marks=pytest.mark.proof)
        for name in MODEL_TYPES
    ],
)
def model_type(request):
    return request.param


def calibrate(classifier):
    """Sets batch normalization's statistics to those of random images, and returns the images' features.

    With the initial statistics, the features of a deep network vanish or overflow. With the initial factors
    of 1e-6, ConvNeXt's blocks would add nothing.
    """
    momenta = {layer: layer.momentum for layer in normalizations(classifier)}
    for layer in momenta:
        layer.momentum = 0.0
    for layer in classifier.network.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(tf.ones_like(layer.gamma))
    features = classifier.backbone(tf.constant(random_images(16), tf.float32), training=True).numpy()
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    return features


@pytest.fixture(scope="module")
def classifier(model_type):
    built = build(model_type)
    calibrate(built)
    return built


@pytest.fixture
def restored_classifier(classifier):
    """The classifier; its variables are restored afterwards: deep networks overflow in a few steps."""
    calibrate(classifier)
    values = [variable.numpy() for variable in classifier.variables]
    yield classifier
    for variable, value in zip(classifier.variables, values, strict=True):
        variable.assign(value)


@pytest.fixture
def classifier_with_varied_logits(classifier):
    """The classifier with moderate logits that differ between images."""
    features = calibrate(classifier)
    # Logits of about 0.5 around 0, independent of the magnitude of the features.
    varying = features - features.mean(axis=0)
    scale = 0.5 / np.linalg.norm(varying, axis=1).mean()
    values = np.random.default_rng(1).normal(scale=scale, size=(features.shape[1], CLASSES))
    kernel, bias = classifier.head.trainable_variables
    kernel.assign(values)
    bias.assign(-features.mean(axis=0) @ values)
    return classifier


@pytest.fixture
def without_tracing():
    """Runs eagerly: tracing takes longer than a single step."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_every_model_type_has_published_numbers():
    assert set(PUBLISHED) == set(MODEL_TYPES)


def test_shapes(classifier):
    logits = classifier.logits(tf.constant(random_images(2)), training=False)
    assert logits.shape == (2, CLASSES)
    assert logits.dtype == tf.float32
    assert classifier.backbone.input_shape == (None, SIZE, SIZE, 3)
    assert classifier.head.output_shape == (None, CLASSES)
    assert np.isfinite(logits).all()


def test_pixels_are_scaled_as_the_network_requires(classifier, model_type):
    preprocess = PREPROCESS[MODEL_TYPES[model_type].family]
    images = random_images(4).astype(np.float32)
    # The output of the last layer before the network.
    backbone = classifier.backbone
    scaled = keras.Model(backbone.inputs, backbone.layers[-2].output)(images).numpy()
    np.testing.assert_allclose(scaled, preprocess(images.copy()), rtol=1e-4, atol=1e-4)


def test_a_step_changes_every_trained_variable_and_the_statistics(restored_classifier, without_tracing):
    before = one_step(restored_classifier)
    paths = {variable.path for variable in restored_classifier.variables}
    unchanged = paths - changed_paths(restored_classifier, before)
    # EfficientNet's own scaling is constant.
    assert [path for path in unchanged if not path.startswith("normalization")] == []
    assert all(np.isfinite(variable.numpy()).all() for variable in restored_classifier.variables)


def test_a_step_in_bfloat16_changes_the_same_variables_and_inference_is_in_float32(
    restored_classifier, without_tracing
):
    images = tf.constant(random_images(4))
    reduced = dataclasses.replace(restored_classifier, precision="bfloat16")
    exact = restored_classifier.logits(images, training=False).numpy()
    assert reduced.logits(images, training=False).numpy().tobytes() == exact.tobytes()
    before = one_step(reduced)
    changed = changed_paths(reduced, before)
    assert {variable.path for variable in reduced.trained_variables} <= changed
    assert all(np.isfinite(variable.numpy()).all() for variable in reduced.variables)
    assert {variable.dtype for variable in reduced.trained_variables} == {"float32"}
    assert reduced.logits(images, training=True).dtype == tf.float32


def test_every_stage_can_be_frozen_with_all_previous_ones(classifier, model_type):
    layers = classifier.network.layers
    parts = parts_of_layers(MODEL_TYPES[model_type].family, [layer.name for layer in layers])
    stages = MODEL_TYPES[model_type].stage_names
    # Every stage has layers, and the stages follow one another from the image on.
    assert sorted(set(parts)) == sorted((*stages, "top"))
    order = [("stem", *stages[1:], "top").index(part) for part in parts]
    assert order == sorted(order)
    count = len(classifier.trained_variables)
    assert count == sum(len(layer.trainable_variables) for layer in layers) + 2
    for number, stage in enumerate(stages):
        frozen = dataclasses.replace(classifier, freeze=stage)
        trained = {id(variable) for variable in frozen.trained_variables}
        for layer, part in zip(layers, parts, strict=True):
            of_layer = {id(variable) for variable in layer.trainable_variables}
            assert of_layer <= trained if part not in stages[: number + 1] else not of_layer & trained
        assert len(trained) < count
        count = len(trained)


def test_a_frozen_stage_is_unchanged_and_the_rest_is_trained(restored_classifier, without_tracing):
    frozen = dataclasses.replace(restored_classifier, freeze="stage2")
    before = one_step(frozen)
    changed = changed_paths(frozen, before)
    layers = [layer for layer in frozen.network.layers if layer.name in frozen.frozen_layers]
    assert not changed & {variable.path for layer in layers for variable in layer.variables}
    trained = {variable.path for variable in frozen.trained_variables}
    assert trained <= changed
    # The other changes are statistics and random states of layers that are not frozen.
    others = {path.rsplit("/", 1)[1] for path in changed - trained}
    assert others <= {"moving_mean", "moving_variance", "seed_generator_state"}
    assert ("moving_mean" in others) == bool(normalizations(frozen))


def test_a_frozen_backbone_is_unchanged(restored_classifier, without_tracing):
    before = one_step(dataclasses.replace(restored_classifier, freeze="backbone"))
    changed = changed_paths(restored_classifier, before)
    assert changed >= {"logits/kernel", "logits/bias"}
    assert not changed & {variable.path for variable in restored_classifier.backbone.variables}


def test_the_saved_model_has_the_same_outputs_and_can_be_loaded_as_pretrained_weights(
    classifier_with_varied_logits, model_type, encode, tmp_path
):
    classifier, images = classifier_with_varied_logits, random_images(5)
    write_saved_model(classifier, SIZE, ["a", "b", "c"], tmp_path / "model")
    assert unknown_operations(tmp_path / "model") == []
    predictions = load_served_model(tmp_path / "model").predict([encode(image) for image in images])
    assert predictions.probabilities.std(axis=0).min() > 1e-3
    # In a graph as well: operations that run eagerly are not fused and round differently.
    logits = tf.function(lambda: classifier.logits(tf.constant(images), training=False))
    in_memory = tf.nn.softmax(logits()).numpy()
    np.testing.assert_allclose(predictions.probabilities, in_memory, atol=1e-5)
    assert (predictions.classes == in_memory.argmax(axis=1)).all()
    loaded = build(model_type, path=tmp_path / "model")
    for variable, original in zip(loaded.variables, classifier.variables, strict=True):
        if "seed_generator" not in variable.path:
            assert np.array_equal(variable.numpy(), original.numpy()), variable.path


def test_the_number_of_parameters_is_as_published_at_any_size(model_type):
    published, published_trained = PUBLISHED[model_type]
    # 45 is not a multiple of the network's stride.
    classifier = build(model_type, classes=1000, size=45)
    parts = (classifier.backbone, classifier.head)
    trained = sum(np.prod(v.shape) for part in parts for v in part.trainable_variables)
    assert sum(part.count_params() for part in parts) == published
    assert trained == published_trained
    assert classifier.logits(tf.constant(random_images(2, 45)), training=False).shape == (2, 1000)


def test_weight_decay_applies_only_to_kernels(classifier):
    kernels = decayed_kernels(classifier)
    assert len({id(kernel) for kernel in kernels}) == len(kernels)
    assert all(len(kernel.shape) >= 2 for kernel in kernels)
    everything = [*classifier.backbone.trainable_variables, *classifier.head.trainable_variables]
    others = [v for v in everything if not any(v is kernel for kernel in kernels)]
    # Biases, and batch normalization's scale and offset.
    assert all(len(variable.shape) == 1 for variable in others)


# ---------------------------------------------------------------- a single model type


@pytest.mark.parametrize(
    ("max_steps", "momentum"), [(1, 0.9), (60, 0.9), (200, 0.9), (1000, 0.98), (2000, 0.99), (10**6, 0.99)]
)
def test_statistics_average_over_a_twentieth_of_the_run(max_steps, momentum):
    classifier = build("resnet-18")
    set_batch_normalization_momentum(classifier, max_steps)
    layers = normalizations(classifier)
    assert len(layers) == 20
    assert [layer.momentum for layer in layers] == pytest.approx([momentum] * 20)


def test_resnet_18_has_the_feature_maps_of_the_paper():
    """1/4, 1/8, 1/16 and 1/32 of the image, with 64, 128, 256 and 512 channels."""
    network = build("resnet-18", size=64).backbone.layers[-1]
    shapes = [network.get_layer(f"stage{stage}_block2_relu2").output.shape[1:] for stage in range(1, 5)]
    assert shapes == [(16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512)]


def test_weights_depend_only_on_the_seed_whatever_other_threads_draw():
    def weights(seed):
        built = build_classifier("resnet-18", num_classes=2, image_size=32, weights="none", seed=seed)
        return [variable.numpy() for variable in built.variables]

    expected, ended = weights(2), threading.Event()

    def draw():
        while not ended.is_set():
            random.random()  # noqa: S311 - no secret
            ended.wait(0.001)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        found = weights(2)
    finally:
        ended.set()
        thread.join()
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, other)
    assert not np.array_equal(weights(3)[0], expected[0])
