"""`imgpipe run` without data: the digits, and a checked SavedModel."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imgpipe.components.common.dataset import read_manifest

STEPS = ["convert", "validate", "train", "evaluate", "export", "gate"]


def metadata_of(run, step, name):
    output = json.loads(run.artifact(step, "executor_output.json").read_text())
    (artifact,) = output["artifacts"][name]["artifacts"]
    return artifact["metadata"]


def test_the_run_succeeds_with_an_accuracy_of_at_least_097(digits_run):
    assert digits_run.status == 0, digits_run.shown
    assert digits_run.summary["top_1_accuracy"] >= 0.97


def test_a_fifth_is_held_out_with_every_digit(digits_run):
    manifest = read_manifest(digits_run.artifact("convert", "dataset"))
    assert manifest.labels == tuple("0123456789")
    train, validation = manifest.splits["train"], manifest.splits["validation"]
    assert train.examples + validation.examples == 1797
    assert abs(validation.examples - 1797 / 5) <= 5
    assert all(count >= 30 for count in validation.images_per_label)


def test_the_summary_has_existing_files_and_the_seconds_of_every_step(digits_run):
    summary = digits_run.summary
    assert (Path(summary["model"]) / "saved_model.pb").is_file()
    assert Path(summary["report"]).read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert Path(summary["data_report"]).is_file()
    assert Path(summary["logs"]).is_file()
    assert list(summary["seconds"]) == [*STEPS, "total"]
    assert sum(summary["seconds"][step] for step in STEPS) <= summary["seconds"]["total"]


def test_every_step_prints_a_line(digits_run):
    lines = digits_run.shown.splitlines()
    assert "scikit-learn's digits (no data was given)" in lines[0]
    steps = [
        line.split()[0] for line in lines if line.strip() and line.split()[0] in STEPS and " s  " in line
    ]
    assert steps == STEPS
    assert "Traceback" not in digits_run.shown
    assert "oneDNN" not in digits_run.shown


def test_the_log_has_no_startup_messages_of_tensorflow(digits_run):
    log = (digits_run.folder / "run.log").read_text(encoding="utf-8")
    for word in ("oneDNN", "cuda", "CUDA", "cpu_feature_guard", "Warning"):
        assert word not in log


def test_the_report_shows_the_results_of_the_evaluation(digits_run):
    page = Path(digits_run.summary["report"]).read_text(encoding="utf-8")
    assert f"{digits_run.summary['top_1_accuracy']:.2%}" in page
    for heading in ("Learning curves", "Confusion matrix", "Mistakes", "Training arguments", "Data"):
        assert heading in page
    assert "data:image/" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_the_report_and_the_summary_have_the_gate_s_decision(digits_run):
    gate = digits_run.summary["gate"]
    assert gate["passed"]
    assert not gate["deploy"]
    assert "deploy_target is none" in gate["summary"]
    assert [check["name"] for check in gate["checks"]] == ["min_accuracy", "min_class_recall"]
    assert digits_run.summary["deployment"] is None
    page = Path(digits_run.summary["report"]).read_text(encoding="utf-8")
    assert gate["checks"][0]["reason"] in page
    assert "<code>imgpipe run" in page
    assert "<dt>duration</dt>" in page


def test_the_predictions_are_beside_the_report(digits_run):
    path = Path(digits_run.summary["predictions"])
    assert path.parent == digits_run.folder
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    correct = sum(row["true_label"] == row["predicted_label"] for row in rows)
    assert correct / len(rows) == pytest.approx(digits_run.summary["top_1_accuracy"])


def test_the_kubeflow_interface_gets_the_same_results(digits_run):
    metrics = metadata_of(digits_run, "evaluate", "metrics")
    assert metrics["top_1_accuracy"] == digits_run.summary["top_1_accuracy"]
    matrix = metadata_of(digits_run, "evaluate", "classification_metrics")["confusionMatrix"]
    assert [label["displayName"] for label in matrix["annotationSpecs"]] == list("0123456789")
    correct = sum(row["row"][index] for index, row in enumerate(matrix["rows"]))
    assert correct / metrics["examples"] == pytest.approx(metrics["top_1_accuracy"])


def test_the_model_of_the_best_evaluation_is_exported(digits_run):
    provenance = json.loads((Path(digits_run.summary["model"]) / "provenance.json").read_text())
    # Of equal evaluations, max() returns the earliest annotation.
    best = max(provenance["evaluations"], key=lambda evaluation: evaluation["top_1_accuracy"])
    assert provenance["best_step"] == best["step"]
    assert best["top_1_accuracy"] == pytest.approx(digits_run.summary["top_1_accuracy"], abs=1e-6)


def test_the_model_has_the_original_algorithms_signature(digits_run):
    tool = Path(sys.executable).parent / "saved_model_cli"
    shown = subprocess.run(
        [tool, "show", "--all", "--dir", digits_run.summary["model"]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    signature = " ".join(
        shown.split("signature_def['serving_default']:")[1].split("signature_def[")[0].split()
    )
    for tensor, dtype, shape in (
        ("inputs['image_bytes']", "DT_STRING", "(-1)"),
        ("inputs['key']", "DT_STRING", "(-1)"),
        ("outputs['classes']", "DT_INT64", "(-1)"),
        ("outputs['key']", "DT_STRING", "(-1)"),
        ("outputs['probabilities']", "DT_FLOAT", "(-1, 10)"),
    ):
        assert f"{tensor} tensor_info: dtype: {dtype} shape: {shape}" in signature
    assert "Method name is: tensorflow/serving/predict" in signature
    assert "signature_def['classify']" in shown


def test_the_published_model_is_the_exported_artifact(digits_run):
    published, exported = Path(digits_run.summary["model"]), digits_run.artifact("publish", "exported_model")
    assert {
        file.relative_to(published): file.read_bytes() for file in published.rglob("*") if file.is_file()
    } == {file.relative_to(exported): file.read_bytes() for file in exported.rglob("*") if file.is_file()}
    assert (published / "assets" / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))


def test_the_steps_that_do_not_need_tensorflow_do_not_import_it(digits_run):
    # Importing it takes longer than the work of these steps.
    work = {
        event["step"]: event["work_seconds"]
        for event in digits_run.events
        if event["event"] == "step_finished"
    }
    assert set(work) == set(STEPS)
    code = (
        "import sys; from imgpipe.components.convert import component, convert; "
        "from imgpipe.components.validate import component, validate, report; "
        "from imgpipe.components.evaluate import report; "
        "from imgpipe.components.export import component, export; "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
