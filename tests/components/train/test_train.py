import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.records import ImageRecord, label_to_class
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.temperature import (
    fit_temperature,
    logits_of,
    probabilities_of,
    temperature_sums,
)
from imgpipe.components.common.tf_import import tf
from imgpipe.components.evaluate.metrics import compute_metrics
from imgpipe.components.train import train as training
from imgpipe.components.train import training_inputs
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.input_pipeline import sample_indices
from imgpipe.components.train.models import build_classifier
from imgpipe.components.train.train import train

from .job import small_training

LABELS = [str(digit) for digit in range(10)]


def rejected(error, arguments, dataset, folder):
    with pytest.raises(error) as caught:
        train(arguments, dataset, folder / "model")
    assert not (folder / "model").exists()
    return str(caught.value)


# ---------------------------------------------------------------- learning


def test_a_short_training_from_random_weights_recognizes_digits(trained_digits):
    _, result = trained_digits
    assert result.best.top_1_accuracy >= 0.9
    # The validation loss is close, so batch normalization's statistics are up to date.
    last = result.evaluations[-1]
    assert last.loss < last.train_loss + 0.1


def test_shuffled_labels_cannot_be_learnt(digit_records, digits_training, write_dataset, tmp_path):
    """A model could only learn them if validation images leaked into the training."""
    order = np.random.default_rng(0).permutation(len(digit_records[TRAIN]))
    records = [
        type(record)(record.encoded, digit_records[TRAIN][other].label)
        for record, other in zip(digit_records[TRAIN], order, strict=True)
    ]
    splits = {TRAIN: records, VALIDATION: digit_records[VALIDATION]}
    dataset = write_dataset(tmp_path / "data", splits, LABELS)
    arguments = dataclasses.replace(digits_training, max_steps=30)
    result = train(arguments, dataset, tmp_path / "model")
    assert result.best.top_1_accuracy < 0.25
    assert result.best.loss > 2.0


def test_the_written_model_has_the_metrics_of_the_loop(trained_digits, digits_dataset):
    folder, result = trained_digits
    records = list(read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION]))
    predictions = load_served_model(folder).predict([record.encoded for record in records])
    metrics = compute_metrics(
        np.array([label_to_class(record.label) for record in records]), predictions.probabilities
    )
    assert metrics.top_1_accuracy == pytest.approx(result.best.top_1_accuracy, abs=1e-9)
    assert metrics.top_5_accuracy == pytest.approx(result.best.top_5_accuracy, abs=1e-9)
    # The loss of the loop is without the temperature, which minimizes it.
    logits = logits_of(predictions.probabilities, result.best.temperature, multi_label=False)
    classes = np.array([label_to_class(record.label) for record in records])
    raw = compute_metrics(classes, probabilities_of(logits, 1.0, multi_label=False))
    assert raw.loss == pytest.approx(result.best.loss, rel=1e-4)
    assert metrics.loss < raw.loss
    fitted = fit_temperature(temperature_sums(logits, classes).sum(axis=0))
    assert fitted == pytest.approx(result.best.temperature, rel=1e-3) != 1


# ---------------------------------------------------------------- recipes


def test_a_recipe_decides_what_is_left_to_it_and_the_model_says_what(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    images = read_manifest(dataset).splits[TRAIN].examples
    settings = TrainingArguments(recipe="digits", max_steps=2, weight_decay=0.25)
    train(settings, dataset, tmp_path / "model")
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    used = provenance["arguments"]
    assert provenance["model_type"] == used["model_type"] == "resnet-18"
    assert (used["recipe"], used["image_size"], used["weight_decay"]) == ("digits", 32, 0.25)
    assert (used["max_steps"], used["warmup_steps"]) == (2, 0)
    assert used["train_batch_size"] <= images < 2 * used["train_batch_size"]


def test_a_time_budget_sets_the_steps_and_a_resumed_training_keeps_them(coloured_dataset, tmp_path, capsys):
    dataset = coloured_dataset(tmp_path / "data")
    # The time is over before the first step: one step is the least.
    settings = TrainingArguments(recipe="digits", max_minutes=1e-6, job_dir=str(tmp_path / "job"))
    assert train(settings, dataset, tmp_path / "model").evaluations[-1].step == 1
    assert "is enough for 1 step;" in capsys.readouterr().out
    used = json.loads((tmp_path / "model" / "provenance.json").read_text())["arguments"]
    assert (used["max_steps"], used["warmup_steps"]) == (1, 0)
    # With more time it would take 50 steps, but the learning rate has already fallen.
    again = dataclasses.replace(settings, max_minutes=60.0)
    assert train(again, dataset, tmp_path / "again").evaluations[-1].step == 1
    assert "is enough for" not in capsys.readouterr().out


def test_a_continued_training_keeps_its_warm_up(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    settings = TrainingArguments(recipe="digits", max_steps=1, job_dir=str(tmp_path / "job"))
    train(settings, dataset, tmp_path / "model")
    # A tenth of the steps would be another warm-up, with another learning rate in the first step.
    longer = train(dataclasses.replace(settings, max_steps=11), dataset, tmp_path / "longer")
    assert longer.evaluations[-1].step == 11
    used = json.loads((tmp_path / "longer" / "provenance.json").read_text())["arguments"]
    assert (used["max_steps"], used["warmup_steps"]) == (11, 0)


def test_measuring_the_speed_changes_no_weights(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    settings = TrainingArguments(recipe="digits", initial_learning_rate=1e-30, warmup_steps=0)
    settings = dataclasses.replace(settings, weight_decay=0.0, warmup_learning_rate=1e-30)
    plain = train(dataclasses.replace(settings, max_steps=1), dataset, tmp_path / "plain")
    measured = train(dataclasses.replace(settings, max_minutes=1e-6), dataset, tmp_path / "measured")
    assert measured.best == plain.best


# ---------------------------------------------------------------- output


def test_the_model_folder_is_complete(trained_digits, digits_dataset, digits_training):
    folder, result = trained_digits
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "saved_model.pb",
        "variables/variables.index",
        "assets/labels.txt",
        "deployment_config.yaml",
        "provenance.json",
    } <= names
    assert (folder / "assets" / "labels.txt").read_text().split() == LABELS
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["best_step"] == result.best.step
    assert provenance["data_digest"] == read_manifest(digits_dataset).digest()
    # The given arguments, with the actual values in place of 0.
    assert TrainingArguments(**provenance["arguments"]) == dataclasses.replace(
        digits_training, num_classes=10, eval_batch_size=64
    )
    assert provenance["devices"] == "CPU"
    assert [evaluation["step"] for evaluation in provenance["evaluations"]] == [20, 40, 60, 80]
    assert set(provenance["versions"]) == {"imgpipe", "tensorflow", "keras"}


def test_equal_arguments_and_data_give_equal_weights(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    results = [train(small_training(), dataset, tmp_path / name) for name in "ab"]
    assert results[0].evaluations == results[1].evaluations
    weights = [
        (tmp_path / name / "variables" / "variables.data-00000-of-00001").read_bytes() for name in "ab"
    ]
    assert weights[0] == weights[1]


def test_labels_can_be_any_text_and_one_validation_image_is_enough(coloured_dataset, tmp_path):
    labels = ("Größe, klein", "日本", "a 'b' \"c\"")
    dataset = coloured_dataset(tmp_path / "data", labels, train=4, validation=1)
    result = train(small_training(image_size=45), dataset, tmp_path / "model")
    assert load_served_model(tmp_path / "model").labels == labels
    # All three classes are among the top five.
    assert result.best.top_5_accuracy == 1.0
    assert result.best.top_1_accuracy in (0.0, 1.0)
    assert math.isfinite(result.best.loss)


# ---------------------------------------------------------------- a frozen backbone


def test_training_on_features_and_on_images_with_a_frozen_backbone_is_equivalent(
    write_weights, coloured_dataset, tmp_path, monkeypatch
):
    write_weights("mobilenet-v2")
    dataset = coloured_dataset(tmp_path / "data", train=8, validation=5)
    # All examples in every batch, because features and images are shuffled differently.
    arguments = small_training(
        model_type="mobilenet-v2",
        weights="imagenet",
        freeze="backbone",
        max_steps=3,
        train_batch_size=8,
        train_steps_per_eval=1,
        eval_batch_size=3,
        num_eval_images=4,
        initial_learning_rate=0.1,
        seed=1,
    )
    # The four images are evaluated in two batches.
    monkeypatch.setattr(training_inputs, "_FEATURE_BATCH_SIZE", 3)
    on_features = train(arguments, dataset, tmp_path / "features")
    monkeypatch.setattr(training_inputs, "_MAX_FEATURE_BYTES", 0)
    on_images = train(arguments, dataset, tmp_path / "images")
    for evaluation, expected in zip(on_features.evaluations, on_images.evaluations, strict=True):
        assert evaluation.top_1_accuracy == expected.top_1_accuracy
        assert evaluation.loss == pytest.approx(expected.loss, rel=1e-3)
        assert evaluation.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
    assert on_features.evaluations[0].loss != on_features.evaluations[2].loss


def test_a_training_with_a_frozen_backbone_does_not_resume_with_another_one(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", train=8, validation=5)
    served = tmp_path / "served"
    for version in (7, 8):
        model = build_classifier("mobilenet-v2", num_classes=2, image_size=32, weights="none", seed=version)
        write_saved_model(model, 32, ["a", "b"], served / str(version))
    (served / "8").rename(tmp_path / "8")
    arguments = small_training(
        model_type="mobilenet-v2",
        freeze="backbone",
        pretrained_checkpoint_path=str(served),
        max_steps=2,
        train_batch_size=8,
        job_dir=str(tmp_path / "job"),
    )
    train(arguments, dataset, tmp_path / "first")
    (tmp_path / "8").rename(served / "8")
    with pytest.raises(InvalidArgumentError, match="another training run: backbone_digest was"):
        train(arguments, dataset, tmp_path / "second")


def test_features_are_kept_in_memory_once():
    def batches():
        for _ in range(100):
            yield np.zeros(100), tf.zeros(100, tf.int64)

    progress = Progress("train", 10_000, "images")
    tracemalloc.start()
    features, classes = training_inputs._compute_features(
        lambda images: tf.ones((len(images), 500)),
        batches(),
        (10_000, 500),
        progress,
        done=0,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (features.shape, features.dtype, classes.shape) == ((10_000, 500), np.float32, (10_000,))
    assert features.min() == 1
    assert peak < 1.2 * features.nbytes


@pytest.mark.parametrize("images", [3, 5])
def test_a_number_of_images_that_differs_from_the_manifest_is_rejected(images):
    batches = [(np.zeros(2), tf.zeros(2, tf.int64)), (np.zeros(2), tf.zeros(2, tf.int64))]
    progress = Progress("train", images, "images")
    with pytest.raises(InvalidDataError, match=f"have 4 images, but the manifest says {images}"):
        training_inputs._compute_features(lambda _: tf.ones((2, 7)), batches, (images, 7), progress, done=0)


# ---------------------------------------------------------------- errors during the training


def write_damaged_dataset(coloured_dataset, write_dataset, folder, split):
    """Writes a data set in which record 5 of a split cannot be decoded."""
    manifest = read_manifest(intact := coloured_dataset(folder / "intact"))
    splits = {name: list(read_split(intact, manifest.splits[name])) for name in (TRAIN, VALIDATION)}
    splits[split][5] = ImageRecord(splits[split][5].encoded[:60], 2, "", "photos/cut off.png")
    return write_dataset(folder / "damaged", splits, manifest.labels)


@pytest.mark.parametrize("freeze", ["none", "backbone"])
@pytest.mark.parametrize("split", [TRAIN, VALIDATION])
def test_an_image_that_cannot_be_decoded_is_named(
    split, freeze, write_weights, coloured_dataset, write_dataset, tmp_path
):
    write_weights("mobilenet-v2")
    dataset = write_damaged_dataset(coloured_dataset, write_dataset, tmp_path, split)
    arguments = small_training(model_type="mobilenet-v2", weights="imagenet", freeze=freeze, max_steps=4)
    message = rejected(InvalidDataError, arguments, dataset, tmp_path)
    assert f"{split}-00000-of-00001, record 5 (photos/cut off.png)" in message
    assert "an image cannot be decoded" in message


@pytest.mark.parametrize(
    "error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")]
)
def test_an_out_of_memory_error_names_the_arguments_to_lower(error, coloured_dataset, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(training, "run_loop", fail)
    dataset = coloured_dataset(tmp_path / "data")
    message = rejected(InvalidArgumentError, small_training(), dataset, tmp_path)
    assert "not enough memory for train_batch_size=4 and image_size=32" in message
    assert "lower train_batch_size or image_size" in message
    message = rejected(InvalidArgumentError, small_training(eval_batch_size=9), dataset, tmp_path)
    assert "lower train_batch_size, eval_batch_size or image_size" in message


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sample_of_validation_images_depends_on_the_seed_and_is_decoded_once(
    seed, coloured_dataset, tmp_path, monkeypatch
):
    # The class of a validation image is its index.
    dataset = coloured_dataset(tmp_path / "data", LABELS, validation=10)

    def iterate_twice(inputs, *_, **__):
        for _ in range(2):
            seen = [label for _, classes in inputs.evaluation_batches for label in classes.numpy().tolist()]
            assert seen == sample_indices(10, 3, seed).tolist()
            (dataset / "validation-00000-of-00001").unlink(missing_ok=True)
        raise ZeroDivisionError

    monkeypatch.setattr(training, "run_loop", iterate_twice)
    with pytest.raises(ZeroDivisionError):
        train(small_training(seed=seed, num_eval_images=3), dataset, tmp_path / "model")


# ---------------------------------------------------------------- checks before the training


@pytest.mark.parametrize(
    ("values", "message_parts"),
    [
        ({"train_batch_size": 13}, ["train_batch_size=13", "12 training images", "at most 12"]),
        ({"num_eval_images": 7}, ["num_eval_images=7", "6 validation images", "at most 6"]),
        ({"num_classes": 3}, ["num_classes=3", "2 labels", "dark, bright", "num_classes to 2"]),
    ],
)
def test_arguments_that_do_not_match_the_data_are_rejected(values, message_parts, coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    message = rejected(InvalidArgumentError, small_training(**values), dataset, tmp_path)
    for part in message_parts:
        assert part in message


def test_a_single_label_is_rejected(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", ("only",))
    assert "only one label (only)" in rejected(InvalidDataError, small_training(), dataset, tmp_path)


@pytest.mark.parametrize("split", [TRAIN, VALIDATION])
def test_an_empty_split_is_rejected(split, coloured_dataset, tmp_path):
    sizes = {"train": 4, "validation": 4, split: 0}
    dataset = coloured_dataset(tmp_path / "data", **sizes)
    assert f"no {split} images" in rejected(InvalidDataError, small_training(), dataset, tmp_path)
