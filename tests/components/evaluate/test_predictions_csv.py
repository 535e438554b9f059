import csv

import numpy as np

from imgpipe.components.common.dataset import Shard, Split
from imgpipe.components.evaluate.predictions_csv import record_names, write_predictions

LABELS = ("a, b", "c")


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_both_labels_and_both_probabilities(tmp_path):
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25]], np.float32)
    path = tmp_path / "predictions.csv"
    write_predictions(path, ["x.png", 'y "2".png'], np.array([0, 1]), probabilities, LABELS)
    assert rows(path) == [
        {
            "image": image,
            "true_label": true,
            "predicted_label": "a, b",
            "true_probability": probability,
            "predicted_probability": "0.75",
        }
        for image, true, probability in (("x.png", "a, b", "0.75"), ('y "2".png', "c", "0.25"))
    ]


def test_multi_label_data_has_a_row_for_each_true_or_predicted_label(tmp_path):
    targets = np.array([[True, False], [False, False]])
    probabilities = np.array([[0.25, 0.5], [0.1, 0.2]], np.float32)
    path = tmp_path / "predictions.csv"
    write_predictions(path, ["x", "y"], targets, probabilities, LABELS)
    assert [tuple(row.values()) for row in rows(path)] == [
        ("x", "a, b", "1", "0", "0.25"),
        ("x", "c", "0", "1", "0.5"),
        ("y", "", "", "", ""),
    ]


def test_a_file_name_that_is_not_utf_8_is_escaped(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, ["\udcff.png"], np.array([0]), np.array([[1.0]], np.float32), "a")
    assert rows(path)[0]["image"] == r"\udcff.png"


def test_records_without_a_file_name_are_named_by_shard_and_number():
    split = Split((Shard("gs://bucket/v-0", 2, 1, ""), Shard("v-1", 1, 1, "")), (3,))
    assert list(record_names(split)) == ["v-0#0", "v-0#1", "v-1#0"]
