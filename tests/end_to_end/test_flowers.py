"""Accuracy and time on real photos; these tests take minutes and run in `make proof`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from imgpipe.pipelines.compiled_pipelines import COMPILED, TRAIN
from tests.end_to_end.runs import FLOWERS, run_imgpipe


@pytest.fixture(scope="module")
def flowers_run(keras_home, tmp_path_factory):
    """The whole pipeline on all photos, with a local deployment."""
    folder = tmp_path_factory.mktemp("flowers")
    flags = [
        *("--images", str(FLOWERS), "--model-type", "mobilenet-v2"),
        # Without a time budget: the steps of the default depend on the load of the machine.
        *("--freeze", "backbone"),
        *("--deploy-target", "local", "--deploy-dir", str(folder / "serving" / "flowers")),
        *("--min-accuracy", "0.8", "--min-class-recall", "0.7"),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KERAS_HOME", keras_home)
        return run_imgpipe(folder / "job", *flags)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_frozen_mobilenet_reaches_088_on_the_flowers_in_five_minutes(flowers_run):
    assert flowers_run.status == 0, flowers_run.shown
    print(flowers_run.shown, flowers_run.summary)
    assert flowers_run.summary["top_1_accuracy"] >= 0.88
    assert flowers_run.summary["seconds"]["total"] <= 300
    assert flowers_run.summary["overhead_seconds"] <= 25


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_default_trains_the_flowers_in_ten_minutes_and_says_what_it_decided(
    flowers_run, keras_home, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", keras_home)
    run = run_imgpipe(tmp_path / "job", "--images", str(FLOWERS))
    assert run.status == 0, run.shown
    decisions = json.loads((tmp_path / "job" / "model" / "provenance.json").read_text())["decisions"]
    print(run.summary["top_1_accuracy"], run.summary["seconds"], decisions)
    # Not less than the last layer alone.
    assert run.summary["top_1_accuracy"] >= flowers_run.summary["top_1_accuracy"] - 0.01
    assert run.summary["seconds"]["total"] <= 600


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_the_kubeflow_form_with_only_the_data_reaches_what_imgpipe_run_reaches(
    flowers_run, keras_home, tmp_path
):
    """The steps of the Kubeflow pipeline run as processes; a step passes on the settings of the form."""
    request = {
        "pipeline": str(COMPILED / "kubeflow" / f"{TRAIN}.yaml"),
        "parameters": {"images": str(FLOWERS), "settings": {"freeze": "backbone"}},
        "artifacts": str(tmp_path / "artifacts"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe.pipelines.targets.local"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_HOME": keras_home},
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    [metrics] = (tmp_path / "artifacts").glob("*/evaluate/evaluation/metrics.json")
    accuracy = json.loads(metrics.read_text())["top_1_accuracy"]
    print(f"flowers from the Kubeflow form: {accuracy}, imgpipe run: {flowers_run.summary['top_1_accuracy']}")
    assert abs(accuracy - flowers_run.summary["top_1_accuracy"]) <= 0.01


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_the_deployed_model_predicts_as_evaluated_in_batches_and_alone(flowers_run):
    from imgpipe.components.common.dataset import VALIDATION, read_manifest
    from imgpipe.components.common.dataset_reader import read_split
    from imgpipe.components.common.reference_predictions import read_evaluation, read_reference
    from imgpipe.components.common.served_model import load_served_model

    dataset = flowers_run.artifact("convert", "dataset")
    evaluation = flowers_run.artifact("evaluate", "evaluation")
    decision = flowers_run.artifact("publish", "decision")
    assert json.loads((decision / "decision.json").read_text())["deploy"] is True
    records = list(read_split(dataset, read_manifest(dataset).splits[VALIDATION]))
    images = [record.encoded for record in records]
    model = load_served_model(flowers_run.folder.parent / "serving" / "flowers" / "1")
    keys = [f"photo {number}" for number in range(len(images))]
    sizes = {}
    for size in (1, 32):
        outputs = [
            model.call(images[start : start + size], keys[start : start + size])
            for start in range(0, len(images), size)
        ]
        sizes[size] = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        assert [key.decode() for key in sizes[size]["key"]] == keys
    alone, together = sizes[1]["probabilities"], sizes[32]["probabilities"]
    reference = read_reference(evaluation)
    differences = {
        "batches of 32": float(np.abs(together[: len(reference)] - reference).max()),
        "alone": float(np.abs(alone - together).max()),
    }
    print(f"{len(images)} photos, largest differences of a probability:", differences)
    assert max(differences.values()) <= 1e-5
    assert (sizes[1]["classes"] == sizes[32]["classes"]).all()
    # The evaluation has the numbers of photos by true and predicted class.
    counts: dict[tuple[int, int], int] = {}
    for record, predicted in zip(records, sizes[1]["classes"].tolist(), strict=True):
        pair = (record.label - 1, predicted)
        counts[pair] = counts.get(pair, 0) + 1
    assert counts == {(true, found): count for true, found, count in read_evaluation(evaluation)["confusion"]}


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_formats_without_quantization_lose_no_accuracy_and_int8_at_most_three_points(flowers_run, tmp_path):
    from imgpipe.components.export.arguments import AUTO, FORMATS, ExportArguments
    from imgpipe.components.export.candidates import fastest_served
    from imgpipe.components.export.export import export
    from imgpipe.components.serve.live_model import LiveModel

    exported = export(
        flowers_run.artifact("convert", "dataset"),
        flowers_run.artifact("train", "model"),
        flowers_run.artifact("evaluate", "evaluation"),
        tmp_path / "model",
        ExportArguments(export_formats=",".join((*FORMATS, AUTO))),
    )
    print(exported.to_markdown())
    loss = {entry.format: entry.accuracy_loss for entry in exported.formats}
    assert set(loss) == set(FORMATS)
    assert loss["tflite"] == loss["onnx"] == 0
    assert loss["tflite-int8"] <= 0.03
    tensorflow, *others = exported.candidates
    assert {entry.engine for entry in others} >= {"onnxruntime", "tflite"}
    for entry in others:
        assert entry.within_tolerance or entry.precision != "float32"
    served = fastest_served(exported.candidates)
    assert served.accuracy_loss_bound <= 0.01
    # Measured in turns: about 2.5 on two cores.
    assert tensorflow.latency_p50_ms / served.latency_p50_ms > 1.5
    model = LiveModel(tmp_path / "model")
    assert model.engine == served.served_by


@pytest.mark.proof
def test_the_digits_take_at_most_two_minutes(digits_run):
    print(digits_run.shown, digits_run.summary)
    assert digits_run.summary["top_1_accuracy"] >= 0.97
    assert digits_run.summary["seconds"]["total"] <= 120
    assert digits_run.summary["overhead_seconds"] <= 25
