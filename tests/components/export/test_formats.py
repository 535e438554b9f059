import hashlib
import json
import warnings

import numpy as np
import pytest
import yaml
from kfp import dsl

from imgpipe.components.common.dataset import VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.engines import ONNX_FILE, ONNX_RUNTIME, Engine, load_network, usable_engines
from imgpipe.components.common.errors import CheckFailedError, InvalidArgumentError, InvalidDataError
from imgpipe.components.common.provenance import read_provenance, write_deployment_config, write_provenance
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deploy import deploy
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.export import candidates, formats, onnx_format, tflite_format
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.export.candidates import Candidate, fastest, fastest_served
from imgpipe.components.export.component import export as export_component
from imgpipe.components.export.export import export
from imgpipe.components.images.graph.training_decoder import decode_image


def run(dataset, model, folder, **arguments):
    """Evaluates and exports; returns the evaluation, the exported folder and the metrics."""
    evaluation = evaluate(dataset, model, folder / "evaluation")
    artifacts = {
        "dataset": dsl.Dataset(uri=str(dataset)),
        "model": dsl.Model(uri=str(model)),
        "evaluation": dsl.Artifact(uri=str(folder / "evaluation")),
        "exported_model": dsl.Model(uri=str(folder / "exported")),
        "serving_metrics": dsl.Metrics(uri=str(folder / "serving")),
        "summary": dsl.Markdown(uri=str(folder / "summary.md")),
    }
    export_component(**artifacts, arguments=ExportArguments(**arguments))
    return evaluation, folder / "exported", artifacts["serving_metrics"].metadata


def evaluate_and_export(dataset, model, folder, **arguments):
    evaluate(dataset, model, folder / "evaluation")
    export(dataset, model, folder / "evaluation", folder / "exported", ExportArguments(**arguments))


@pytest.fixture(scope="module", autouse=True)
def _short_measurements():
    """Measures the engines with few calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_CALLS", dict.fromkeys((1, 8, 32), (3, 1.0)))
        yield


@pytest.fixture(scope="module")
def exported_digits(digits_dataset, trained_digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return folder, *run(
        digits_dataset,
        trained_digits[0],
        folder,
        export_formats="tflite, tflite-int8,onnx,auto",
        job_dir=str(folder / "job"),
    )


@pytest.fixture(scope="module")
def pixels(digits_dataset):
    """The validation images as an application would decode them, uint8 [360, 32, 32, 3]."""
    records = read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION])
    return np.stack([decode_image(tf.constant(record.encoded), 32).numpy() for record in records])


@pytest.fixture(scope="module")
def served(digits_dataset, trained_digits):
    records = read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION])
    return load_served_model(trained_digits[0]).predict([record.encoded for record in records]).probabilities


# ---------------------------------------------------------------- output


def test_each_format_is_listed_with_its_accuracy_and_digest(exported_digits):
    _, evaluation, folder, metrics = exported_digits
    listed = read_provenance(folder)["formats"]
    assert [entry["format"] for entry in listed] == ["tflite", "tflite-int8", "onnx"]
    for entry in listed:
        content = (folder / entry["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert (entry["split"], entry["examples"], entry["mean_average_precision"]) == (
            "validation",
            360,
            None,
        )
        assert entry["accuracy_loss"] == evaluation.metrics.top_1_accuracy - entry["top_1_accuracy"]
        name = entry["format"].replace("-", "_")
        assert metrics[f"{name}_top_1_accuracy"] == entry["top_1_accuracy"]
        assert metrics[f"{name}_accuracy_loss"] == entry["accuracy_loss"]
    assert yaml.safe_load((folder / "deployment_config.yaml").read_text())["formats"] == [
        {"format": "tflite", "deploymentUri": "formats/model.tflite"},
        {"format": "tflite-int8", "deploymentUri": "formats/model-int8.tflite"},
        {"format": "onnx", "deploymentUri": "formats/model.onnx"},
    ]


def test_the_summary_shows_the_accuracy_loss_of_each_format(exported_digits):
    folder, evaluation, exported, _ = exported_digits
    text = (folder / "summary.md").read_text()
    assert f"| {evaluation.metrics.top_1_accuracy:.4f} | |" in text
    for entry in read_provenance(exported)["formats"]:
        assert f"| {entry['file']} | {entry['bytes'] / 1e6:.1f} MB | {entry['top_1_accuracy']:.4f} | " in text


def test_there_is_no_loss_without_quantization_and_int8_is_a_quarter_of_the_size(exported_digits):
    lite, int8, onnx = read_provenance(exported_digits[2])["formats"]
    assert lite["accuracy_loss"] == onnx["accuracy_loss"] == 0
    assert max(lite["largest_difference"], onnx["largest_difference"]) < 1e-5
    assert 3.5 < lite["bytes"] / int8["bytes"] < 4.2
    assert abs(int8["accuracy_loss"]) < 0.02


def test_job_dir_gets_the_formats_and_a_later_export_replaces_them(
    exported_digits, digits_dataset, trained_digits
):
    folder, _, exported, _ = exported_digits
    published = folder / "job" / "model" / "formats"
    assert sorted(path.name for path in published.iterdir()) == [
        "model-int8.tflite",
        "model.onnx",
        "model.tflite",
    ]
    arguments = ExportArguments(job_dir=str(folder / "job"))
    export(digits_dataset, trained_digits[0], folder / "evaluation", folder / "again", arguments)
    assert not published.exists()
    assert exported.is_dir()


def test_a_model_with_formats_is_deployed_and_serves(exported_digits, tmp_path, served, pixels):
    arguments = DeployArguments(deploy_target="local", deploy_dir=str(tmp_path / "serving"))
    assert deploy(exported_digits[2], arguments).changed
    assert not deploy(exported_digits[2], arguments).changed
    model = load_served_model(tmp_path / "serving" / "1")
    np.testing.assert_allclose(model.network(tf.constant(pixels)), served, atol=1e-5)


def test_auto_measures_every_engine_and_names_the_fastest_of_equal_accuracy(exported_digits):
    folder, evaluation, exported, _ = exported_digits
    measured = read_provenance(exported)["candidates"]
    names = [(entry["format"], entry["engine"], entry["precision"]) for entry in measured]
    assert names == [
        ("savedmodel", "tensorflow", "float32"),
        *(("onnx", engine.name, engine.precision) for engine in usable_engines()),
        ("tflite-int8", "tflite", "int8"),
    ]
    assert all(
        entry[name] > 0
        for entry in measured
        for name in ("latency_p50_ms", "images_per_second_8", "images_per_second_32")
    )
    for entry in measured:
        loss = evaluation.metrics.top_1_accuracy - entry["top_1_accuracy"]
        assert entry["accuracy_loss"] == pytest.approx(loss, abs=1e-9)
        assert entry["accuracy_loss_bound"] >= entry["accuracy_loss"]
        if entry["precision"] == "float32":
            assert entry["within_tolerance"]
            assert entry["largest_difference"] < 1e-5
    config = yaml.safe_load((exported / "deployment_config.yaml").read_text())
    equal = [entry for entry in measured if entry["within_tolerance"]]
    for name, chosen in (
        ("fastest", equal),
        ("servingEngine", [entry for entry in equal if entry["engine"] != "tflite"]),
    ):
        best = min(chosen, key=lambda entry: entry["latency_p50_ms"])
        for field in ("format", "engine", "precision"):
            assert config[name][field] == best[field]
    assert f"`imgpipe serve` uses {config['servingEngine']['engine']}" in (folder / "summary.md").read_text()


def candidate(name, precision="float32", *, milliseconds=10.0, equal=True):
    return Candidate("onnx", name, precision, milliseconds, 1.0, 1.0, 0.9, 0.0, 0.0, 0.0, equal)


def test_the_fastest_is_of_equal_accuracy_and_served_means_that_imgpipe_serve_can():
    tensorflow, runtime = (
        candidate("tensorflow", milliseconds=9.0),
        candidate("onnxruntime", milliseconds=4.0),
    )
    rounded = candidate("openvino", "bfloat16", milliseconds=2.0, equal=False)
    lite = candidate("tflite", "int8", milliseconds=3.0)
    assert fastest([tensorflow, runtime, rounded, lite]) is lite
    assert fastest_served([tensorflow, runtime, rounded, lite]) is runtime


def test_auto_leaves_out_a_format_that_cannot_be_loaded(
    coloured_dataset, linear_model, tmp_path, monkeypatch
):
    dataset, model = coloured_dataset(tmp_path / "data"), linear_model(tmp_path / "model")
    monkeypatch.setattr(formats, "convert_to_onnx", lambda *_: b"damaged")
    evaluate_and_export(dataset, model, tmp_path / "auto", export_formats="auto")
    exported = tmp_path / "auto" / "exported"
    assert [entry["format"] for entry in read_provenance(exported)["formats"]] == ["tflite-int8"]
    assert [path.name for path in (exported / "formats").iterdir()] == ["model-int8.tflite"]


def test_few_images_do_not_show_that_rounding_loses_nothing(coloured_dataset, linear_model, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    evaluate_and_export(dataset, linear_model(tmp_path / "model"), tmp_path, export_formats="auto")
    measured = read_provenance(tmp_path / "exported")["candidates"]
    assert {entry["within_tolerance"] for entry in measured if entry["precision"] == "float32"} == {True}
    assert {entry["within_tolerance"] for entry in measured if entry["precision"] != "float32"} == {False}


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("name", ["model.tflite", "model-int8.tflite"])
def test_a_tflite_file_returns_the_probabilities_of_one_decoded_image(exported_digits, pixels, served, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(str(exported_digits[2] / "formats" / name))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}
    }
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["shape"].tolist(), taken["dtype"]) == ([1, 32, 32, 3], np.uint8)
    assert (given["shape"].tolist(), given["dtype"]) == ([1, 10], np.float32)
    ask = interpreter.get_signature_runner("serving_default")
    answers = np.concatenate([ask(images=image[None])["probabilities"] for image in pixels])
    agree = (answers.argmax(axis=1) == served.argmax(axis=1)).mean()
    assert agree > 0.97 if "int8" in name else agree == 1


def test_the_int8_file_computes_in_int8(exported_digits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(
            str(exported_digits[2] / "formats" / "model-int8.tflite"),
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    kinds = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    convolutions = [
        operation for operation in interpreter._get_ops_details() if operation["op_name"] == "CONV_2D"
    ]
    assert convolutions
    assert all(kinds[index] == np.int8 for operation in convolutions for index in operation["outputs"])


def test_an_onnx_file_accepts_any_number_of_images(exported_digits, pixels, served):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported_digits[2] / "formats" / "model.onnx")
    ((taken,), (given, features)) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    assert (given.name, given.type) == ("probabilities", "tensor(float)")
    assert (features.name, features.type) == ("embeddings", "tensor(float)")
    for count in (1, 360):
        answers, embeddings = session.run(None, {"images": pixels[:count]})
        assert embeddings.shape[0] == count
        np.testing.assert_allclose(answers, served[:count], atol=1e-5)


@pytest.fixture
def keras_network():
    """A function that returns a network with random weights: images -> probabilities of three labels."""
    from imgpipe.components.train.models import build_classifier

    def build(model_type):
        classifier = build_classifier(model_type, num_classes=3, image_size=32, weights="none", seed=1)

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.uint8)])
        def network(images):
            return tf.nn.softmax(classifier.logits(images, training=False))

        return network

    return build


NEW_OPERATIONS = [
    pytest.param(name, marks=pytest.mark.proof) for name in ("mobilenet-v3-small", "convnext-tiny")
]


@pytest.mark.parametrize("model_type", NEW_OPERATIONS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_tensorflow_lite_has_the_operations_of_a_keras_network(model_type, calibrated, keras_network):
    network = keras_network(model_type)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    content = tflite_format.convert_to_tflite(network, 32, images if calibrated else None)
    answers = tflite_format.TFLiteModel(content).probabilities(images)
    np.testing.assert_allclose(answers, network(images), atol=0.05 if calibrated else 1e-5)


@pytest.mark.parametrize("model_type", ["efficientnet-b0", "mobilenet-v2", *NEW_OPERATIONS])
def test_an_onnx_file_of_a_keras_network_has_one_input_and_the_same_output(
    model_type, keras_network, tmp_path
):
    network = keras_network(model_type)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    (tmp_path / ONNX_FILE).parent.mkdir()
    (tmp_path / ONNX_FILE).write_bytes(onnx_format.convert_to_onnx(network, 32))
    answers = load_network(Engine(ONNX_RUNTIME), tmp_path)(images)
    np.testing.assert_allclose(answers, network(images), atol=1e-5)


# ---------------------------------------------------------------- multi-label


class Colours:
    """Predicts the four colours from the mean of each channel, some of them incorrectly."""

    def __init__(self):
        kernel = np.array([[-30, -30, 50, 25], [-40, 40, -30, 25], [40, -30, -30, -30]], np.float32)
        self.kernel = keras.Variable(kernel / 20, name="kernel")
        self.variables = [self.kernel]

    def logits(self, images, *, training):  # noqa: ARG002 - the interface of train's classifiers
        return tf.reduce_mean(tf.cast(images, tf.float32) / 255, axis=[1, 2]) @ self.kernel


def test_a_multi_label_model_has_multi_label_metrics(quadrants_dataset, tmp_path):
    write_saved_model(Colours(), 16, ("blue", "green", "red", "yellow"), tmp_path / "model", multi_label=True)
    write_deployment_config(tmp_path / "model", global_step=1)
    label_sets = {"coverage": 0.9, "thresholds": [0.5] * 4}
    provenance = {"multi_label": True, "temperature": 1.0, "label_sets": label_sets}
    write_provenance(tmp_path / "model", provenance)
    evaluation, folder, _ = run(
        quadrants_dataset, tmp_path / "model", tmp_path, export_formats="tflite,tflite-int8,onnx"
    )
    lite, int8, onnx = read_provenance(folder)["formats"]
    for entry in (lite, onnx):
        assert entry["top_1_accuracy"] == evaluation.metrics.top_1_accuracy
        assert entry["mean_average_precision"] == pytest.approx(
            evaluation.metrics.mean_average_precision, abs=1e-3
        )
    assert 0.1 < int8["mean_average_precision"] < 1


# ---------------------------------------------------------------- errors


def test_an_unknown_format_is_rejected_with_a_suggestion():
    with pytest.raises(InvalidArgumentError, match=r"(?s)no format 'tflite_int8'.*did you mean tflite-int8"):
        ExportArguments(export_formats="onnx,tflite_int8")
    assert ExportArguments(export_formats=" onnx,tflite, onnx,").formats() == ("onnx", "tflite")


def test_onnx_is_rejected_before_any_work_if_it_is_not_installed(
    digits_dataset, trained_digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(onnx_format.importlib.util, "find_spec", lambda _: None)
    arguments = ExportArguments(export_formats="onnx")
    with pytest.raises(InvalidArgumentError, match="needs tf2onnx and onnxruntime"):
        export(digits_dataset, trained_digits[0], tmp_path, tmp_path / "exported", arguments)
    assert not (tmp_path / "exported").exists()


def test_int8_needs_training_images(coloured_dataset, linear_model, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", train=0)
    model = linear_model(tmp_path / "model")
    with pytest.raises(InvalidDataError, match="no training images to calibrate"):
        evaluate_and_export(dataset, model, tmp_path, export_formats="tflite-int8")


def test_a_format_with_other_predictions_fails_the_step(
    coloured_dataset, linear_model, tmp_path, monkeypatch
):
    dataset = coloured_dataset(tmp_path / "data")
    model = linear_model(tmp_path / "model")
    other = load_served_model(linear_model(tmp_path / "other", seed=1))
    convert = formats.convert_to_tflite
    monkeypatch.setattr(formats, "convert_to_tflite", lambda _, *rest: convert(other.network, *rest))
    job_dir = str(tmp_path / "job")
    with pytest.raises(CheckFailedError, match="predictions of the tflite model do not match the SavedModel"):
        evaluate_and_export(dataset, model, tmp_path, export_formats="tflite", job_dir=job_dir)
    assert not (tmp_path / "job").exists()


def test_a_failed_conversion_is_reported(coloured_dataset, linear_model, tmp_path, monkeypatch):
    dataset = coloured_dataset(tmp_path / "data")
    model = linear_model(tmp_path / "model")
    # A network with an operation that TensorFlow Lite does not support.
    monkeypatch.setattr(
        formats.ServedModel,
        "network",
        property(lambda _: lambda images: tf.strings.to_number(tf.strings.as_string(images[:, 0, 0, :2]))),
    )
    monkeypatch.setattr(formats.ServedModel, "image_size", 8)
    with pytest.raises(CheckFailedError, match="cannot be converted to tflite: "):
        evaluate_and_export(dataset, model, tmp_path, export_formats="tflite")


def test_calibration_images_are_spread_over_the_training_split(digits_dataset, linear_model, tmp_path):
    manifest = read_manifest(digits_dataset)
    model = load_served_model(linear_model(tmp_path / "model"))
    images = list(formats.calibration_images(digits_dataset, manifest, model))
    assert len(images) == 200
    assert {(image.shape, image.dtype) for image in images} == {((8, 8, 3), np.dtype(np.uint8))}
    records = list(read_split(digits_dataset, manifest.splits["train"]))
    for number, place in ((0, 0), (199, len(records) - 1)):
        expected = decode_image(tf.constant(records[place].encoded), 8).numpy()
        assert (images[number] == expected).all()


def test_provenance_keeps_its_json_format(exported_digits, trained_digits):
    before = json.loads((trained_digits[0] / "provenance.json").read_text())
    after = json.loads((exported_digits[2] / "provenance.json").read_text())
    assert {name: value for name, value in after.items() if name not in ("formats", "candidates")} == before
