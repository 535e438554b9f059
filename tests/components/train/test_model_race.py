"""The network is selected by a linear probe of the networks whose weights are on this machine."""

import json

import numpy as np
import pytest

from imgpipe.components.common.dataset import TRAIN, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.train.job_dir import RACE_FILE
from imgpipe.components.train.model_race import (
    Probe,
    find_or_run_race,
    left_out_predictions,
    linear_probe_accuracy,
    select,
)
from imgpipe.components.train.train import train
from imgpipe.components.train.weight_files import weights_file_name

PROBES = (
    Probe("mobilenet-v2", 20.0, 0.91),
    Probe("resnet-50", 90.0, None, "more than 50 ms"),
    Probe("efficientnet-b0", 40.0, 0.93),
    Probe("efficientnet-v2-b0", 30.0, 0.93),
)


def random_sample(images, *, signal, seed=0):
    """Returns features, of which the first three show the class as strongly as ``signal``, and targets."""
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, images)]
    features = rng.standard_normal((images, 20)).astype(np.float32)
    features[:, :3] += signal * targets
    return features, targets


def test_the_most_accurate_network_is_selected_and_the_fastest_of_equal_ones():
    assert select(PROBES, 50, "resnet-50") == "efficientnet-v2-b0"


def test_networks_that_are_all_too_slow_are_an_error_with_their_times():
    with pytest.raises(InvalidArgumentError, match=r"longer: resnet-50 90 ms per image") as caught:
        select(PROBES[1:2], 50, "resnet-50")
    assert "raise max_latency_ms" in caught.value.remedy


def test_without_time_to_compare_networks_it_is_the_recipes():
    slow = [Probe("efficientnet-b0", 40.0, None, "too long"), Probe("mobilenet-v2", None, None, "no time")]
    assert select(slow, 0, "mobilenet-v2") == "mobilenet-v2"
    assert select(slow, 50, "resnet-50") == "efficientnet-b0"


@pytest.mark.parametrize(("signal", "least", "most"), [(0.0, 0.2, 0.47), (2.0, 0.6, 0.95), (20.0, 1.0, 1.0)])
def test_the_accuracy_shows_how_well_the_features_separate_the_classes(signal, least, most):
    assert least <= linear_probe_accuracy(*random_sample(300, signal=signal)) <= most


def test_the_prediction_without_an_image_is_that_of_a_regression_of_all_others():
    features, targets = random_sample(12, signal=1.0)
    expected = []
    for image in range(12):
        others = np.arange(12) != image
        mean, base = features[others].mean(axis=0), targets[others].mean(axis=0)
        x = features[others] - mean
        weights = np.linalg.solve(x.T @ x + 0.7 * np.eye(20), x.T @ (targets[others] - base))
        expected.append((features[image] - mean) @ weights + base)
    predictions = left_out_predictions(features.astype(np.float64), targets, 0.7)
    np.testing.assert_allclose(predictions, expected, atol=1e-4)


def test_an_image_is_predicted_without_itself():
    """With more features than images, a classifier that has seen an image would always be right."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((60, 500)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 60)]
    assert linear_probe_accuracy(features, targets) < 0.55


def test_with_several_labels_an_image_any_of_them_counts_and_images_without_one_do_not():
    features, targets = random_sample(300, signal=20.0)
    both = targets + np.roll(targets, 1, axis=1)
    both[:30] = 0
    assert linear_probe_accuracy(features, both) > 0.9


def arguments_of(tmp_path, **values):
    return RecipeTrainingArguments(**{"image_size": 32, "job_dir": str(tmp_path / "job"), **values})


@pytest.mark.proof
def test_two_networks_are_compared_once_for_a_job_dir(write_weights, coloured_dataset, tmp_path, capsys):
    dataset = coloured_dataset(tmp_path / "data", train=24, validation=5)
    files = [write_weights(name) for name in ("mobilenet-v2", "mobilenet-v3-small")]
    arguments = arguments_of(tmp_path)
    race = find_or_run_race(arguments, dataset, workers=1)
    assert [probe.model_type for probe in race.probes] == ["mobilenet-v2", "mobilenet-v3-small"]
    assert all(0 <= probe.accuracy <= 1 and probe.milliseconds > 0 for probe in race.probes)
    assert race.model_type in ("mobilenet-v2", "mobilenet-v3-small")
    assert json.loads((tmp_path / "job" / RACE_FILE).read_text())["model_type"] == race.model_type
    assert f"model_type {race.model_type}, the most accurate of 2 networks" in capsys.readouterr().out
    # A training run that resumes, perhaps on another machine, trains the same network.
    files[0].unlink()
    assert find_or_run_race(arguments, dataset, workers=1) == race


@pytest.mark.proof
def test_an_image_of_the_sample_that_cannot_be_decoded_is_named(
    write_weights, coloured_dataset, write_dataset, tmp_path
):
    write_weights("mobilenet-v3-small")
    intact = coloured_dataset(tmp_path / "intact")
    records = list(read_split(intact, read_manifest(intact).splits[TRAIN]))
    records[5] = ImageRecord(records[5].encoded[:60], 2, "", "cut off.png")
    dataset = write_dataset(tmp_path / "data", {TRAIN: records}, ("dark", "bright"))
    with pytest.raises(InvalidDataError, match=r"record 5 \(cut off.png\)"):
        find_or_run_race(arguments_of(tmp_path, max_latency_ms=1e6), dataset, workers=1)


def test_a_training_that_began_with_one_network_resumes_with_it(keras_models, tmp_path):
    for name in ("mobilenet-v2", "mobilenet-v3-small"):
        (keras_models / weights_file_name(name, 32)).touch()
    (tmp_path / "job" / "checkpoints").mkdir(parents=True)
    (tmp_path / "job" / "checkpoints" / "step-00000010.npz").write_bytes(b"")
    assert find_or_run_race(arguments_of(tmp_path), tmp_path, workers=1) is None


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "mobilenet-v2"},
        {"weights": "none"},
        {"pretrained_checkpoint_path": "model"},
        {"recipe": "original"},
    ],
)
def test_a_training_whose_network_is_known_compares_none(values, tmp_path):
    assert find_or_run_race(arguments_of(tmp_path, **values), tmp_path, workers=1) is None


def test_one_network_with_weights_is_not_compared_nor_are_networks_of_several_workers(keras_models, tmp_path):
    (keras_models / weights_file_name("mobilenet-v2", 32)).touch()
    assert find_or_run_race(arguments_of(tmp_path), tmp_path, workers=1) is None
    (keras_models / weights_file_name("mobilenet-v3-small", 32)).touch()
    assert find_or_run_race(arguments_of(tmp_path), tmp_path, workers=2) is None


@pytest.mark.proof
def test_the_training_has_the_selected_network_the_report_the_table_and_both_use_one_copy_of_the_shards(
    write_weights, coloured_dataset, upload_dataset, cloud, tmp_path
):
    source = coloured_dataset(tmp_path / "data", train=24, validation=5)
    dataset = upload_dataset(cloud, source, tmp_path / "manifest")
    for name in ("mobilenet-v2", "mobilenet-v3-small"):
        write_weights(name)
    # A network with random weights may diverge at the recipe's rate.
    arguments = arguments_of(tmp_path, max_steps=2, train_batch_size=8, initial_learning_rate=1e-6)
    train(arguments, dataset, tmp_path / "model")
    provenance = read_provenance(tmp_path / "model")
    assert provenance["model_type"] == provenance["model_race"]["model_type"]
    assert len(provenance["model_race"]["probes"]) == 2
    read = [path for request, path in cloud.requests if cloud.reads(request, path)]
    assert len(read) == len(set(read)) == 2
