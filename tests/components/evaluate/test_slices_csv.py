import json

import pytest
from kfp import dsl

from imgpipe.components.common.dataset import VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.component import evaluate as evaluate_component
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.evaluate.slices_csv import read_slices_csv
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.gate.gate import decide


@pytest.fixture(scope="module")
def dataset(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), validation=6)


def written(folder, text, encoding="utf-8"):
    path = folder / "slices.csv"
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


CAMERAS = """path,camera,light
validation/0.png,front,day
validation/1.png,front,night
"validation/2.png","rear, left",day
validation/3.png,"rear, left",
validation/5.png,front,night
elsewhere/9.png,top,night
"""


# ---------------------------------------------------------------- reading the file


def test_a_path_has_the_nonempty_values_of_its_row(tmp_path):
    slices = read_slices_csv(written(tmp_path, CAMERAS.replace("\n", "\r\n"), "utf-8-sig"))
    assert len(slices) == 6
    assert slices["validation/1.png"] == (("camera", "front"), ("light", "night"))
    assert slices["validation/3.png"] == (("camera", "rear, left"),)


def test_a_file_in_cloud_storage_is_read(cloud):
    assert read_slices_csv(cloud.put("lists/slices.csv", b"camera,path\nfront,a.png\n")) == {
        "a.png": (("camera", "front"),)
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it must list unique column names, including path"),
        ("a.png,front\n", "the first line is 'a.png,front'"),
        ("path\na.png\n", "the first line is 'path'"),
        ("path,camera,camera\n", "unique column names"),
        ("path,camera\na.png,front\nb.png\n", "1 column instead of 2 (path,camera)\nwhere: "),
        ("path,camera\na.png,front\na.png,rear\n", "'a.png' has two rows"),
        ('path,camera\na.png,"front\n', "not CSV in UTF-8"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_line(tmp_path, text, message):
    with pytest.raises(InvalidDataError) as caught:
        read_slices_csv(written(tmp_path, text))
    assert message in str(caught.value)


def test_invalid_utf_8_and_a_missing_file_are_rejected(tmp_path):
    (tmp_path / "latin.csv").write_bytes("path,größe\n".encode("latin-1"))
    with pytest.raises(InvalidDataError, match="not CSV in UTF-8"):
        read_slices_csv(str(tmp_path / "latin.csv"))
    with pytest.raises(MissingInputError):
        read_slices_csv(str(tmp_path / "none.csv"))


# ---------------------------------------------------------------- in the evaluation


def test_accuracy_by_slice_is_in_metrics_and_report(dataset, model, tmp_path, capsys):
    artifacts = {
        "dataset": dsl.Dataset(uri=str(dataset)),
        "model": dsl.Model(uri=str(model)),
        "metrics": dsl.Metrics(uri=str(tmp_path / "metrics")),
        "classification_metrics": dsl.ClassificationMetrics(uri=str(tmp_path / "classification")),
        "report": dsl.HTML(uri=str(tmp_path / "report.html")),
        "evaluation": dsl.Artifact(uri=str(tmp_path / "evaluation")),
    }
    evaluate_component(**artifacts, arguments=EvaluateArguments(slices_csv=written(tmp_path, CAMERAS)))
    records = list(read_split(dataset, read_manifest(dataset).splits[VALIDATION]))
    classes = load_served_model(model).predict([record.encoded for record in records]).classes
    right = {
        record.filename: record.label - 1 == found for record, found in zip(records, classes, strict=True)
    }
    members = {
        ("camera", "front"): (0, 1, 5),
        ("camera", "rear, left"): (2, 3),
        ("light", "day"): (0, 2),
        ("light", "night"): (1, 5),
    }
    listed = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["slices"]
    found = {(entry["name"], entry["value"]): entry for entry in listed if entry["given"]}
    assert set(found) == set(members)
    page = (tmp_path / "report.html").read_text()
    for pair, numbers in members.items():
        accuracy = sum(right[f"validation/{number}.png"] for number in numbers) / len(numbers)
        assert (found[pair]["examples"], found[pair]["top_1_accuracy"]) == (len(numbers), accuracy)
        name, value = pair
        assert artifacts["metrics"].metadata[f"top_1_accuracy, {name} = {value}"] == accuracy
        assert f"<td>{value}</td>" in page
    events = [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]
    (warning,) = [event["message"] for event in events if event["event"] == "slices_incomplete"]
    assert "has no rows for 1 of 6 images" in warning


def test_without_the_file_no_slice_is_given(dataset, model, tmp_path):
    found = evaluate(dataset, model, tmp_path / "evaluation")
    assert not any(part.given for part in found.slices)


def test_a_column_overrides_our_slice_of_the_same_name(dataset, model, tmp_path):
    rows = "".join(f"validation/{number}.png,raw\n" for number in range(6))
    arguments = EvaluateArguments(slices_csv=written(tmp_path, "path,format\n" + rows))
    found = evaluate(dataset, model, tmp_path / "evaluation", arguments)
    assert [(part.value, part.examples) for part in found.slices if part.name == "format"] == [("raw", 6)]


def test_a_file_that_matches_no_image_is_rejected(dataset, model, tmp_path):
    arguments = EvaluateArguments(slices_csv=written(tmp_path, "path,camera\n0.png,front\n"))
    with pytest.raises(InvalidDataError, match="no path in the file matches an image of the validation"):
        evaluate(dataset, model, tmp_path / "evaluation", arguments)


# ---------------------------------------------------------------- in the gate


def evaluation_with(folder, *slices):
    content = {
        "labels": ["dark", "bright"],
        "top_1_accuracy": 0.9,
        "per_class": [{"recall": 0.9}, {"recall": 0.9}],
        "comparison": None,
        "slices": [
            {"name": name, "value": value, "examples": 20, "top_1_accuracy": accuracy, "given": given}
            for name, value, accuracy, given in slices
        ],
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def test_the_gate_applies_only_to_given_slices(tmp_path):
    folder = evaluation_with(
        tmp_path,
        ("camera", "front", 0.95, True),
        ("camera", "rear", 0.7, True),
        ("format", "PNG", 0.1, False),
    )
    passed = decide(folder, GateArguments(slices_csv="slices.csv", min_slice_accuracy=0.7))
    assert passed.passed
    assert "lowest slice accuracy: camera = rear 0.7000 (20 images)" in passed.to_markdown()
    blocked = decide(folder, GateArguments(slices_csv="slices.csv", min_slice_accuracy=0.71))
    assert [check.name for check in blocked.checks if not check.passed] == ["min_slice_accuracy"]
    assert "slice accuracy: camera = rear 0.7000 (20 images), at least 0.71 required" in blocked.summary
    assert decide(folder, GateArguments()).passed


def test_an_evaluation_without_slices_fails_a_slice_threshold(tmp_path):
    folder = evaluation_with(tmp_path, ("format", "PNG", 1.0, False))
    assert not decide(folder, GateArguments(slices_csv="slices.csv", min_slice_accuracy=0.1)).passed


def test_a_slice_threshold_without_slices_is_rejected_immediately():
    with pytest.raises(InvalidArgumentError, match=r"min_slice_accuracy=0.5 requires slices_csv"):
        GateArguments(min_slice_accuracy=0.5)


def test_a_local_run_rejects_the_file_before_the_training(tmp_path):
    from click.testing import CliRunner

    from imgpipe.pipelines.cli import imgpipe

    words = ["run", "--job-dir", str(tmp_path / "run"), "--slices-csv"]
    for file in (str(tmp_path / "none.csv"), written(tmp_path, "a.png,front\n")):
        result = CliRunner().invoke(imgpipe, [*words, file])
        assert result.exit_code in (65, 66)
        assert "slices" in result.output + result.stderr or "none.csv" in result.output + result.stderr
    assert not (tmp_path / "run").exists()
