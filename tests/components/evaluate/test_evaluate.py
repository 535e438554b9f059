import base64
import csv
import dataclasses
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from kfp import dsl
from PIL import Image

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION, read_manifest, write_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.provenance import PROVENANCE_NAME, read_provenance
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.common.reference_predictions import read_reference
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.temperature import (
    cross_fitted_probabilities,
    logits_of,
    probabilities_of,
)
from imgpipe.components.evaluate.__main__ import main
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.calibration import compute_calibration
from imgpipe.components.evaluate.component import evaluate as evaluate_component
from imgpipe.components.evaluate.evaluate import evaluate


@pytest.fixture(scope="module")
def dataset(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), validation=45, shards=3)


@pytest.fixture(scope="module")
def evaluated(dataset, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return evaluate(dataset, model, folder), folder


def refused(dataset, model, folder):
    with pytest.raises(InvalidDataError) as caught:
        evaluate(dataset, model, folder)
    assert not (folder / "metrics.json").exists()
    return caught.value


def test_metrics_are_computed_from_served_predictions(evaluated, dataset, model):
    evaluation, folder = evaluated
    metrics = evaluation.metrics
    records = list(read_split(dataset, read_manifest(dataset).splits[VALIDATION]))
    classes = np.array([record.label - 1 for record in records])
    probabilities = load_served_model(model).predict([record.encoded for record in records]).probabilities
    assert metrics.examples == 45
    assert metrics.top_1_accuracy == np.mean(probabilities.argmax(axis=1) == classes)
    assert metrics.top_5_accuracy == 1.0
    of_true_class = probabilities[np.arange(45), classes].astype(np.float64)
    assert metrics.loss == pytest.approx(-np.log(of_true_class.clip(1e-7)).mean(), rel=1e-4)
    np.testing.assert_allclose(read_reference(folder), probabilities, atol=1e-6)


def test_metrics_json_has_the_same_numbers(evaluated):
    evaluation, folder = evaluated
    written = json.loads((folder / "metrics.json").read_text())
    assert written["labels"] == ["dark", "bright"]
    assert written["split"] == "validation"
    assert written["comparison"] is None
    assert written["top_1_accuracy"] == evaluation.metrics.top_1_accuracy
    assert written["calibration"]["expected_calibration_error"] > 0
    assert written == json.loads(json.dumps(evaluation.to_json()))


def test_the_calibration_is_shown_without_and_with_the_temperature(digits_dataset, trained_digits, tmp_path):
    model, result = trained_digits
    evaluation = evaluate(digits_dataset, model, tmp_path)
    scaling = evaluation.temperature_scaling
    assert scaling.temperature == result.best.temperature != 1
    assert scaling.cross_fitted
    records = list(read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION]))
    classes = np.array([record.label - 1 for record in records])
    served = load_served_model(model).predict([record.encoded for record in records]).probabilities
    logits = logits_of(served, scaling.temperature, multi_label=False)
    before = compute_calibration(classes, probabilities_of(logits, 1.0, multi_label=False))
    assert scaling.before.expected_calibration_error == pytest.approx(before.expected_calibration_error)
    crossed = compute_calibration(classes, cross_fitted_probabilities(logits, classes))
    assert evaluation.calibration.expected_calibration_error == pytest.approx(
        crossed.expected_calibration_error, abs=1e-5
    )
    assert evaluation.calibration != compute_calibration(classes, served)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{before.expected_calibration_error:.4f} without temperature" in page
    assert "fitted on nine tenths" in page


def test_on_other_images_the_calibration_is_that_of_the_served_probabilities(
    digit_records, trained_digits, write_dataset, tmp_path
):
    labels = [str(digit) for digit in range(10)]
    data = write_dataset(tmp_path / "data", {VALIDATION: digit_records[TRAIN][:90]}, labels)
    evaluation = evaluate(data, trained_digits[0], tmp_path)
    assert not evaluation.temperature_scaling.cross_fitted
    images = [record.encoded for record in digit_records[TRAIN][:90]]
    classes = np.array([record.label - 1 for record in digit_records[TRAIN][:90]])
    served = load_served_model(trained_digits[0])
    probabilities = np.concatenate([served.predict(images[n : n + 32]).probabilities for n in (0, 32, 64)])
    expected = compute_calibration(classes, probabilities).expected_calibration_error
    assert evaluation.calibration.expected_calibration_error == pytest.approx(expected, abs=1e-5)
    assert "It was not fitted on the images" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_the_misclassified_images(digits_dataset, trained_digits, tmp_path):
    metrics = evaluate(digits_dataset, trained_digits[0], tmp_path).metrics
    records = list(read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION]))
    answers = load_served_model(trained_digits[0]).predict([record.encoded for record in records])
    true = np.array([record.label - 1 for record in records])
    wrong = np.flatnonzero(answers.classes != true)
    surest = wrong[np.argsort(-answers.probabilities[wrong].max(axis=1), kind="stable")]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # Before the list, there are correct predictions for the confusion matrix. In it, each image is followed
    # by what supports the prediction.
    sources = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page[page.index(" paged") :])[::2]
    assert len(sources) == len(surest) == round(360 * (1 - metrics.top_1_accuracy))
    for source, index in zip(sources, surest, strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(source))).convert("L").resize((8, 8))
        original = Image.open(io.BytesIO(records[index].encoded)).convert("L")
        assert np.abs(np.asarray(shown, int) - np.asarray(original, int)).mean() < 12
        assert records[index].filename in page


def test_every_prediction_is_written_beside_the_metrics(evaluated, dataset):
    evaluation, folder = evaluated
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = list(read_split(dataset, read_manifest(dataset).splits[VALIDATION]))
    assert [row["true_label"] for row in rows] == [evaluation.labels[record.label - 1] for record in records]
    correct = sum(row["true_label"] == row["predicted_label"] for row in rows)
    assert correct / len(rows) == evaluation.metrics.top_1_accuracy
    # These records have no file names.
    assert len({row["image"] for row in rows}) == len(rows)


def test_the_report_names_the_data_the_date_and_the_machine(evaluated):
    _, folder = evaluated
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("data set", "evaluated", "machine"):
        assert f"<dt>{name}</dt><dd>" in page
    assert re.search(r"\d+ cores?, \d+ GiB memory", page)


def test_a_label_that_the_model_does_not_have_is_rejected_before_prediction(dataset, linear_model, tmp_path):
    model = linear_model(tmp_path / "model", ("bright", "light"))
    error = refused(dataset, model, tmp_path)
    assert "the model's labels (2: bright, light) differ from the data set's (2: dark, bright)" in str(error)
    assert error.where == str(model)


def test_fewer_labels_in_another_order_are_matched_by_name(
    coloured_dataset, linear_model, write_dataset, tmp_path
):
    model = linear_model(tmp_path / "model", ("dark", "middle", "bright"))
    whole = coloured_dataset(tmp_path / "whole", ("dark", "middle", "bright"), validation=30)
    records = [
        record
        for record in read_split(whole, read_manifest(whole).splits[VALIDATION])
        if record.text != "middle"
    ]
    swapped = [dataclasses.replace(record, label={1: 2, 3: 1}[record.label]) for record in records]
    data = write_dataset(tmp_path / "data", {VALIDATION: swapped}, ("bright", "dark"))
    evaluation = evaluate(data, model, tmp_path)
    predicted = load_served_model(model).predict([record.encoded for record in records]).classes
    assert evaluation.labels == ("dark", "middle", "bright")
    assert [metrics.support for metrics in evaluation.metrics.per_class] == [10, 0, 10]
    assert evaluation.metrics.top_1_accuracy == np.mean(
        [p == r.label - 1 for p, r in zip(predicted, records, strict=True)]
    )


def test_the_champion_is_evaluated_on_the_same_images(dataset, model, linear_model, tmp_path):
    champion = linear_model(tmp_path / "deployed" / "3", seed=5)
    linear_model(tmp_path / "deployed" / "2", seed=6)
    alone = evaluate(dataset, champion, tmp_path / "alone")
    new = evaluate(dataset, model, tmp_path / "new")
    for arguments in (
        EvaluateArguments(champion=str(champion)),
        EvaluateArguments(champion=str(tmp_path / "deployed")),
        EvaluateArguments(deploy_dir=str(tmp_path / "deployed")),
    ):
        both = evaluate(dataset, model, tmp_path / "both", arguments)
        comparison = both.comparison
        assert comparison.champion_top_1_accuracy == alone.metrics.top_1_accuracy
        assert comparison.challenger_top_1_accuracy == new.metrics.top_1_accuracy
        assert both.metrics == new.metrics
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "Champion and challenger" in page
    assert f"{comparison.lower * 100:+.2f} to {comparison.upper * 100:+.2f}" in page


def test_a_given_champion_must_exist_but_a_deployed_version_need_not(dataset, model, tmp_path):
    for arguments in (
        EvaluateArguments(deploy_dir=str(tmp_path / "none yet")),
        EvaluateArguments(champion="none", deploy_dir=str(model.parent)),
    ):
        assert evaluate(dataset, model, tmp_path, arguments).comparison is None
    with pytest.raises(MissingInputError, match="there is no folder"):
        evaluate(dataset, model, tmp_path, EvaluateArguments(champion=str(tmp_path / "typo")))


def test_a_champion_may_be_in_cloud_storage_but_a_deploy_dir_there_has_none(
    cloud, dataset, model, linear_model, tmp_path, capsys
):
    champion = linear_model(tmp_path / "champion", seed=5)
    for path in champion.rglob("*"):
        if path.is_file():
            cloud.put(f"serving/3/{path.relative_to(champion).as_posix()}", path.read_bytes())
    both = evaluate(dataset, model, tmp_path, EvaluateArguments(champion="gs://photos/serving"))
    alone = evaluate(dataset, champion, tmp_path / "alone")
    assert both.comparison.champion_top_1_accuracy == alone.metrics.top_1_accuracy
    # As for KServe and Vertex AI, with models by digest.
    arguments = EvaluateArguments(deploy_dir="gs://photos/deployed")
    assert evaluate(dataset, model, tmp_path, arguments).comparison is None
    assert "champion=auto found no model in 'gs://photos/deployed'" in capsys.readouterr().out


def test_the_test_split_can_be_evaluated(coloured_dataset, model, write_dataset, tmp_path):
    records = list(
        read_split(folder := coloured_dataset(tmp_path / "whole"), read_manifest(folder).splits[VALIDATION])
    )
    data = write_dataset(tmp_path / "data", {VALIDATION: records, TEST: records[:4]}, ("dark", "bright"))
    evaluation = evaluate(data, model, tmp_path, EvaluateArguments(evaluation_split="test"))
    assert evaluation.metrics.examples == 4
    assert "4 test images" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_line_evaluates_a_deployed_model(dataset, model, tmp_path):
    shutil.copytree(model, tmp_path / "deployed" / "7")
    main([f"--dataset={dataset}", f"--model={tmp_path / 'deployed'}", f"--output={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["examples"] == 45
    assert (tmp_path / "out" / "report.html").is_file()
    with pytest.raises(InvalidArgumentError, match="--model is missing"):
        main([f"--dataset={dataset}"])


def test_a_damaged_image_is_reported_with_file_record_and_name(dataset, model, write_dataset, tmp_path):
    records = list(read_split(dataset, read_manifest(dataset).splits[VALIDATION]))
    records[40] = ImageRecord(records[40].encoded[:60], 1, "", "photos/cut off.png")
    damaged = write_dataset(tmp_path / "data", {VALIDATION: records}, ("dark", "bright"), shards=3)
    error = refused(damaged, model, tmp_path)
    assert error.where == f"{damaged / 'validation-00002-of-00003'}, record 10 (photos/cut off.png)"
    assert "cannot decode" in error.problem


@pytest.mark.parametrize("splits", [{TRAIN: []}, {VALIDATION: []}])
def test_without_validation_images_there_is_nothing_to_evaluate(splits, model, write_dataset, tmp_path):
    empty = write_dataset(tmp_path / "data", splits, ("dark", "bright"))
    assert "no validation images" in refused(empty, model, tmp_path).problem


def test_a_model_of_a_version_without_temperature_is_rejected(dataset, model, tmp_path):
    older = shutil.copytree(model, tmp_path / "older")
    provenance = read_provenance(older)
    del provenance["temperature"]
    (older / PROVENANCE_NAME).write_text(json.dumps(provenance))
    error = refused(dataset, older, tmp_path)
    assert error.problem == "provenance.json has no temperature: another version of imgpipe trained the model"


def test_a_missing_model_is_reported(dataset, tmp_path):
    with pytest.raises(MissingInputError, match=str(tmp_path)):
        evaluate(dataset, tmp_path, tmp_path)


@pytest.mark.parametrize("classes", [2, 101])
def test_the_component_logs_finite_floats_and_a_matrix_of_up_to_a_hundred_classes(
    classes, coloured_dataset, linear_model, tmp_path
):
    labels = tuple(f"label {number}" for number in range(classes))
    artifacts = {
        "dataset": dsl.Dataset(uri=str(coloured_dataset(tmp_path / "data", labels))),
        "model": dsl.Model(uri=str(linear_model(tmp_path / "model", labels))),
        "metrics": dsl.Metrics(uri=str(tmp_path / "metrics")),
        "classification_metrics": dsl.ClassificationMetrics(uri=str(tmp_path / "matrix")),
        "report": dsl.HTML(uri=str(tmp_path / "artifacts" / "report.html")),
        "evaluation": dsl.Artifact(uri=str(tmp_path / "evaluation")),
    }
    champion = linear_model(tmp_path / "champion", labels, seed=1)
    evaluate_component(**artifacts, arguments=EvaluateArguments(champion=str(champion)))
    logged = artifacts["metrics"].metadata
    assert set(logged) == {
        "top_1_accuracy",
        "top_1_accuracy_lower",
        "top_1_accuracy_upper",
        "top_5_accuracy",
        "loss",
        "examples",
        "expected_calibration_error",
        "expected_calibration_error_before",
        "temperature",
        "champion_top_1_accuracy",
        "difference",
        "difference_lower",
        "difference_upper",
    }
    assert all(type(value) is float and math.isfinite(value) for value in logged.values())
    assert logged["examples"] == 6.0
    matrix = artifacts["classification_metrics"].metadata
    if classes == 2:
        rows = matrix["confusionMatrix"]["rows"]
        assert sum(sum(row["row"]) for row in rows) == 6
        names = [spec["displayName"] for spec in matrix["confusionMatrix"]["annotationSpecs"]]
        assert names == list(labels)
    else:
        assert matrix == {}
    assert "<html" in (tmp_path / "artifacts" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


def test_shards_may_be_in_cloud_storage(dataset, model, cloud, evaluated, tmp_path):
    manifest = read_manifest(dataset)
    split = manifest.splits[VALIDATION]
    shards = tuple(
        dataclasses.replace(shard, path=cloud.put(f"data/{shard.path}", (dataset / shard.path).read_bytes()))
        for shard in split.shards
    )
    elsewhere = dataclasses.replace(manifest, splits={VALIDATION: dataclasses.replace(split, shards=shards)})
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path / "data", elsewhere)
    found = evaluate(tmp_path / "data", model, tmp_path)
    assert found.metrics == evaluated[0].metrics
