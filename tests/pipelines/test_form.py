"""The form of Kubeflow's web interface: few fields, each described, and all other arguments by name."""

import json
import re
from functools import cache

import pytest
from click.testing import CliRunner
from PIL import Image

from imgpipe.components.common.arguments import description_of
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import parse_event
from imgpipe.components.preflight.form import (
    FORM_OUTPUTS,
    FORMS,
    SETTINGS_OUTPUTS,
    expand_settings,
    form_fields,
    known_fields,
    settings_of_steps,
)
from imgpipe.components.preflight.pod_fields import pod_fields
from imgpipe.pipelines.cli import imgpipe
from tests.pipelines import compiled
from tests.pipelines.compiled import execute, inputs_of

# Parsing a compiled file takes a second.
form_of = cache(compiled.form_of)
spec_of = cache(compiled.spec_of)
ALL_FORMS = (*FORMS, "batch_predict")
IMAGES = {"cpu": "train-cpu:1", "gpu": "train-gpu:1", "tpu": "train-tpu:1"}
# Names of the parameter types in NewRunParametersUtils.ts of Kubeflow Pipelines 2.17.
TYPE_NAMES = {
    "NUMBER_DOUBLE": "double",
    "NUMBER_INTEGER": "integer",
    "STRING": "string",
    "BOOLEAN": "boolean",
    "LIST": "list",
    "STRUCT": "dict",
}


def rendered(name):
    """Returns label, content and entries of each field, as NewRunParametersV2.tsx shows them."""
    fields = []
    for key, parameter in sorted(form_of(name)["root"]["inputDefinitions"]["parameters"].items()):
        kind = TYPE_NAMES[parameter["parameterType"]]
        content = parameter["defaultValue"]
        if kind in ("dict", "list", "boolean"):
            content = json.dumps(content)
        elif kind in ("double", "integer"):
            # As JavaScript writes a number.
            content = f"{content:g}"
        fields.append((f"{key} - {kind}", content, parameter.get("literals", [])))
    return fields


def filled_in(name, **values):
    return {**{key: field.default for key, field in form_fields(name).items()}, **values}


@pytest.mark.parametrize("name", ALL_FORMS)
def test_a_form_has_at_most_16_described_fields(name):
    parameters = form_of(name)["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) <= 16
    manual = form_of(name)["pipelineInfo"]["description"]
    for key, parameter in parameters.items():
        # KFP's limit is 1,024.
        assert 14 <= len(parameter["description"]) <= 1024, key
        assert f"\n- `{key}`: " in manual
        # A run can be started although the field is not filled in.
        assert "defaultValue" in parameter
    assert manual.count("Fill in") >= 1
    # Kubeflow's page shows what fits on the screen; a line has about 150 characters there.
    assert sum(1 + len(line) // 150 for line in manual.splitlines()) <= 30
    assert manual.count("`") % 2 == 0
    assert not re.search(r"`\w*,\d", manual)


def test_the_form_as_a_person_sees_it():
    fields = rendered("image_classification")
    assert [label for label, _, _ in fields] == [
        "accelerator - string",
        "accelerator_count - integer",
        "deploy_dir - string",
        "deploy_target - string",
        "images - string",
        "job_dir - string",
        "max_minutes - double",
        "min_accuracy - double",
        "model_type - string",
        "recipe - string",
        "settings - dict",
        "storage_secret - string",
        "train_csv - string",
        "validation_csv - string",
        "webhook_secret - string",
    ]
    shown = {label.partition(" ")[0]: (content, entries) for label, content, entries in fields}
    assert shown["accelerator"] == ("none", ["none", "nvidia.com/gpu", "google.com/tpu"])
    assert shown["deploy_target"] == ("none", ["none", "kserve", "vertex"])
    assert shown["recipe"][0] == "auto"
    assert "original" in shown["recipe"][1]
    assert shown["settings"] == ("{}", [])


@pytest.mark.parametrize("name", ALL_FORMS)
def test_a_drop_down_has_its_default_and_no_empty_entry(name):
    for _, content, entries in rendered(name):
        # The form shows "Select a value" for text that is not an entry.
        assert not entries or (content in entries and all(entries))


def value_for(field):
    """Returns a valid value that differs from the default."""
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int | float):
        between = (field.metadata["minimum"] or field.metadata["above"] or 0.0) + 0.25
        return type(field.default)(between) if isinstance(field.default, float) else int(between) + 1
    return {str: "gs://bucket/name", dict: {"pool": "a"}, list: [{"operator": "Exists"}]}[type(field.default)]


OTHERS = [
    (name, argument) for name in FORMS for argument in known_fields(name) if argument not in form_fields(name)
]


@pytest.mark.parametrize(("name", "argument"), OTHERS)
def test_every_argument_without_a_field_reaches_its_steps_by_its_name(name, argument):
    value = value_for(known_fields(name)[argument])
    run = expand_settings(name, filled_in(name, settings={argument: value}), IMAGES)
    assert run[argument] == value
    form, full = form_of(name), spec_of("kubeflow", name)
    assert argument in full["root"]["inputDefinitions"]["parameters"]
    if argument in pod_fields():
        assert argument in FORM_OUTPUTS
        return
    passed = settings_of_steps(run)
    readers = 0
    for task, inputs in _inputs_of_tasks(full).items():
        source = inputs.get(argument, {}).get("componentInputParameter", "")
        if task == "prepare" or not source.endswith(argument):
            continue
        readers += 1
        output = _inputs_of_tasks(form)[task]["settings"]
        steps = [step for step, key in SETTINGS_OUTPUTS.items() if key in json.dumps(output)]
        assert [passed[step].get(argument) for step in steps] == [value], task
        assert argument in form["components"][f"comp-{task}"]["inputDefinitions"]["parameters"]
    # The first step itself reads where a retraining starts if no model is deployed.
    assert readers or (name, argument) == ("image_classification_retrain", "pretrained_checkpoint_path")


def _inputs_of_tasks(spec):
    return {name: task["inputs"].get("parameters", {}) for name, task in spec["root"]["dag"]["tasks"].items()}


def test_the_fields_have_the_defaults_and_descriptions_of_their_arguments():
    parameters = form_of()["root"]["inputDefinitions"]["parameters"]
    for name, field in form_fields("image_classification").items():
        assert parameters[name]["defaultValue"] == field.default
        assert parameters[name]["description"] == description_of(field)


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        ("none", {"train_image": "train-cpu:1"}),
        (
            "nvidia.com/gpu",
            {
                "train_image": "train-gpu:1",
                "train_accelerator_type": "nvidia.com/gpu",
                "train_accelerator_count": "2",
            },
        ),
    ],
)
def test_an_accelerator_selects_the_image(accelerator, expected):
    values = filled_in("image_classification", accelerator=accelerator, accelerator_count=2.0)
    run = expand_settings("image_classification", values, IMAGES)
    assert {
        name: value for name, value in run.items() if name.startswith("train_") and name != "train_csv"
    } == (expected)


def test_text_in_settings_may_be_a_number_or_json():
    tuned = {"params": [{"parameterName": "train_batch_size", "discreteValues": [16.0, 32.0]}]}
    settings = {"train_cpu": 8.0, "train_accelerator_count": 2.0, "hyperparameters": tuned}
    run = expand_settings(
        "image_classification_tune", filled_in("image_classification_tune", settings={**settings})
    )
    assert (run["train_cpu"], run["train_accelerator_count"]) == ("8", "2")
    assert json.loads(run["hyperparameters"])["params"][0]["discreteValues"] == [16, 32]
    assert "16.0" not in run["hyperparameters"]


def test_katibs_trials_get_the_accelerator_and_settings_override_the_image():
    values = filled_in(
        "image_classification_tune",
        accelerator="google.com/tpu",
        accelerator_count=8,
        tune_engine="katib",
        settings={"train_image": "own:1"},
    )
    run = expand_settings("image_classification_tune", values, IMAGES)
    assert (run["trial_accelerator_type"], run["trial_accelerator_count"]) == ("google.com/tpu", 8)
    assert run["train_image"] == "own:1"
    assert "train_accelerator_type" not in run


def test_convert_and_validate_get_only_their_own_settings_so_that_others_keep_their_cache():
    settings = {"max_steps": 5.0, "image_size": 64, "test_fraction": 0.2}
    run = expand_settings("image_classification", filled_in("image_classification", settings=settings))
    passed = settings_of_steps(run)
    assert passed["convert"] == {"test_fraction": 0.2}
    assert passed["validate"] == {"image_size": 64}
    # KFP's numbers are all floats.
    assert passed["train"] == {"max_steps": 5, "image_size": 64, "test_fraction": 0.2}
    assert isinstance(passed["train"]["max_steps"], int)


@pytest.mark.parametrize(
    ("settings", "problem", "remedy"),
    [
        ({"max_stepz": 5}, "settings.max_stepz: there is no such argument", "did you mean max_steps or"),
        ({"recipe": "digits"}, "settings.recipe: recipe has a field of its own", "fill in the field recipe"),
        ({"max_steps": "many"}, "settings.max_steps='many': must be a whole number", "max_steps"),
        ({"max_steps": 0, "ema": 2}, "max_steps=0: must be at least 1", "ema"),
        ({"optimizer_type": "adamm"}, "settings.optimizer_type='adamm': must be auto, ", "optimizer_type"),
        ({"optimizer_type": "adamm"}, "(did you mean adam?)", "in settings"),
        ({"train_cpu": True}, "settings.train_cpu=True: must be text", "train_cpu in settings"),
        ({"train_node_selector": "a"}, "train_node_selector='a': must be a JSON object", "train_node"),
    ],
)
def test_wrong_settings_are_named(settings, problem, remedy):
    with pytest.raises(InvalidArgumentError) as caught:
        expand_settings("image_classification", filled_in("image_classification", settings=settings))
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.fixture
def start(tmp_path, photos, capsys, monkeypatch):
    """``start(name, **values)`` runs the first step of a form as KFP does; returns its events and outputs."""
    monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")

    def run(name, **values):
        spec = form_of(name)
        inputs = inputs_of(spec, "prepare", {"images": str(photos), **values})
        status = 0
        try:
            execute(spec, "prepare", inputs, tmp_path)
        except SystemExit as ended:
            status = ended.code
        events = [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]
        files = (tmp_path / "outputs").glob("*") if status == 0 else ()
        return status, events[-1], {file.name: file.read_text() for file in files}

    return run


def test_the_first_step_passes_on_what_the_form_means(start):
    settings = {"train_memory": "16G", "train_node_selector": {"pool": "gpu"}, "seed": 3.0}
    status, event, outputs = start(
        "image_classification", accelerator="nvidia.com/gpu", settings=settings, max_minutes=5.0
    )
    assert status == 0, event
    assert outputs["pod_image"].startswith("imgpipe-train-gpu:")
    assert outputs["pod_memory"] == "16G"
    assert outputs["pod_cpu"] == "4"
    assert (outputs["pod_accelerator_type"], outputs["pod_accelerator_count"]) == ("nvidia.com/gpu", "1")
    assert json.loads(outputs["pod_node_selector"]) == {"pool": "gpu"}
    assert json.loads(outputs["pod_tolerations"]) == []
    assert json.loads(outputs["training_settings"]) == {"seed": 3}
    assert outputs["version"]


def test_a_step_takes_its_arguments_from_the_settings(tmp_path):
    for label in ("daisy", "tulips"):
        for number in range(4):
            file = tmp_path / "photos" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    settings = {"output_dir": str(tmp_path / "shards"), "validation_fraction": 0.5}
    inputs = {"images": str(tmp_path / "photos"), "settings": settings}
    execute(form_of("image_classification"), "convert", inputs, tmp_path)
    manifest = json.loads((tmp_path / "artifacts" / "dataset" / "manifest.json").read_text())
    assert sum(manifest["splits"]["validation"]["images_per_label"]) == 4
    assert list((tmp_path / "shards").iterdir())


def test_a_retraining_gets_its_weights_from_the_serving_model(start):
    settings = {"pretrained_checkpoint_path": "gs://bucket/model", "project": "p", "region": "us-central1"}
    run = expand_settings(
        "image_classification_retrain", filled_in("image_classification_retrain", settings=settings)
    )
    passed = settings_of_steps(run)
    assert "pretrained_checkpoint_path" not in passed["train"]
    assert passed["others"]["pretrained_checkpoint_path"] == "gs://bucket/model"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"settings": {"max_stepz": 5}}, "settings.max_stepz: there is no such argument"),
        ({"settings": {"max_steps": 5, "warmup_steps": 9}}, "warmup_steps=9 is not less than max_steps=5"),
        ({"settings": {"train_memory": "16 gigabytes"}}, "train_memory"),
        ({"accelerator": "gpu"}, "accelerator='gpu': must be none, nvidia.com/gpu or google.com/tpu"),
        ({"recipe": "finetune"}, "recipe='finetune'"),
        ({"recipe": "finetune", "min_accuracy": 80.0, "settings": {"max_stepz": 5}}, "min_accuracy=80.0"),
        ({"recipe": "finetune", "min_accuracy": 80.0, "settings": {"max_stepz": 5}}, "settings.max_stepz"),
    ],
)
def test_the_first_step_rejects_a_wrong_form(start, values, problem):
    status, event, _ = start("image_classification", **values)
    assert (status, event["event"]) == (64, "step_failed")
    assert problem in event["problem"]


def test_an_error_says_which_arguments_are_or_belong_in_settings(start):
    _, event, _ = start("image_classification", settings={"max_steps": 5, "warmup_steps": 9, "seed": 1})
    assert event["where"] == "the field settings: max_steps, warmup_steps"
    vertex = {"deploy_target": "vertex", "deploy_dir": "gs://bucket/serving"}
    _, event, _ = start("image_classification", **vertex, settings={"project": "p"})
    assert event["remedy"].endswith("(region, serving_image: in the field settings)")
    _, event, _ = start("image_classification", recipe="finetune")
    assert "settings" not in event["problem"] + event["where"] + event["remedy"]


def test_upload_gives_each_pipeline_the_manual_of_its_form(run, server):
    for _ in range(2):
        result = run("upload")
        assert result.exit_code == 0, result.output
    found = {pipeline["name"]: pipeline["description"] for pipeline in server.pipelines.values()}
    assert len(server.versions) == len(ALL_FORMS)
    assert found == {
        name.replace("_", "-"): form_of(name)["pipelineInfo"]["description"] for name in ALL_FORMS
    }


def test_upload_compiles_the_forms_with_the_full_names_of_the_images(run, server):
    result = run("upload", "--notify-step", "--image-registry", "registry.example/team")
    assert result.exit_code == 0, result.output
    assert len(server.versions) == len(ALL_FORMS)


def test_a_rejected_upload_names_both_reasons(run, server):
    server.forbidden = ["pipelines"]
    result = run("upload")
    assert result.exit_code == 69
    assert "the pipeline image-classification was rejected: your account may not" in result.stderr
    # It does not know the field of the drop-down lists.
    assert "older than 2.16" in result.stderr
    assert "image_classification_all_arguments.yaml" in result.stderr


def test_only_kubeflow_has_forms():
    result = CliRunner().invoke(imgpipe, ["upload", "--target", "local"])
    assert (result.exit_code, "no form to upload" in result.stderr) == (64, True)


def dry_run(settings):
    command = ["submit", "job_1", "--target", "kubeflow", "--dry-run", "--format", "json", "--input"]
    result = CliRunner().invoke(imgpipe, [*command, f"settings={settings}", "--", "--images=gs://b/i"])
    return result, json.loads(result.stdout)


def test_submit_takes_settings_and_checks_them_before_sending():
    result, shown = dry_run('{"max_steps": 7, "train_memory": "16G", "deterministic": true}')
    assert result.exit_code == 0, result.output
    parameters = shown["parameters"]
    assert (parameters["max_steps"], parameters["train_memory"]) == (7, "16G")
    assert parameters["deterministic"] is True
    assert shown["pipeline"] == "image-classification-all-arguments"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('{"max_steps": 0}', "max_steps=0: must be at least 1"),
        ('{"max_stepz": 1}', "there is no argument max_stepz on target kubeflow"),
        ("max_steps=1", "is not a JSON object"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_submit_rejects_wrong_settings(settings, problem):
    result, error = dry_run(settings)
    assert result.exit_code == 64
    assert problem in error["error"]
