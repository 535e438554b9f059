"""--input sets pipeline inputs of one target, with the types of its compiled file."""

import pytest
import yaml
from click.testing import CliRunner

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.cli import imgpipe
from imgpipe.pipelines.compiled_pipelines import COMPILED
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.target_inputs import parse_target_inputs
from tests.servers.configs import ARGUMENTS, TUNING_CONFIG

KUBEFLOW = ["--target", "kubeflow"]
JOB = ["--target", "vertex", "--region", "us-central1"]
VERTEX = [*JOB, "--as", "pipeline", "--pipeline-root", "gs://b/p"]
IMAGES = ["--images=gs://b/i"]
TUNED = [*KUBEFLOW, "--config", "config.yaml"]


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """``dry_run(target, inputs, arguments)`` returns the result of a submission that is not sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(TUNING_CONFIG)

    def run(target, inputs, arguments=IMAGES):
        options = [option for value in inputs for option in ("--input", value)]
        return CliRunner().invoke(
            imgpipe, ["submit", "job_1", *target, *options, "--dry-run", "--", *arguments]
        )

    return run


@pytest.mark.parametrize(
    ("target", "tunes", "file"),
    [
        ("kubeflow", False, "image_classification_all_arguments"),
        ("kubeflow", True, "image_classification_tune_all_arguments"),
        ("vertex", False, "image_classification"),
    ],
)
def test_every_input_of_the_compiled_file_is_set_by_input_or_by_an_option(target, tunes, file):
    definitions = next(yaml.safe_load_all((COMPILED / target / f"{file}.yaml").read_text()))["root"]
    own = definitions["inputDefinitions"]["parameters"].keys() - flat_fields(TUNE_PIPELINE_ARGUMENTS)
    assert own
    values = {"STRUCT": "{}", "LIST": "[]", "NUMBER_INTEGER": "1", "STRING": "local"}
    with_option: list[str] = []
    types = {"STRUCT": dict, "LIST": list, "NUMBER_INTEGER": int, "STRING": str}
    for name in own:
        kind = definitions["inputDefinitions"]["parameters"][name]["parameterType"]
        try:
            given = parse_target_inputs(
                [f"{name}={values[kind]}"], target=target, form="pipeline", tunes=tunes, images=Images()
            )
        except InvalidArgumentError as error:
            with_option.append(name)
            assert f"{name} is set by" in error.problem  # noqa: PT017 - one of two valid outcomes
        else:
            assert type(given[name]) is types[kind]
    assert bool(with_option) is (target == "vertex")


@pytest.mark.parametrize(
    ("target", "inputs", "message", "remedy"),
    [
        (KUBEFLOW, ["train_memory"], "--input train_memory has no value", "NAME=VALUE"),
        (KUBEFLOW, ["=8G"], "--input =8G has no name", "NAME=VALUE"),
        (KUBEFLOW, ["train_memroy=8G"], "no such input on target kubeflow", "did you mean train_memory"),
        (KUBEFLOW, ["train_restarts=1"], "no such input on target kubeflow", "did you mean"),
        (KUBEFLOW, ["trial_cpu=4"], "no such input on target kubeflow", "train_cpu"),
        (KUBEFLOW, ["max_steps=5"], "a training argument", "use --max_steps=5 after `--`"),
        (KUBEFLOW, ["train_cpu=1", "train-cpu=2"], "--input train_cpu is given twice", "omit one"),
        (
            KUBEFLOW,
            ["train_memory=16GB"],
            "train_memory='16GB' is not a valid Kubernetes quantity",
            "16Gi",
        ),
        (KUBEFLOW, ["train_node_selector=pool"], "train_node_selector=pool is not JSON", "gke-accelerator"),
        (TUNED, ["trial_accelerator_count=x"], "--input trial_accelerator_count=x", "whole number"),
        (TUNED, ["tune_engine=vizier"], "tune_engine='vizier'", "katib"),
        (
            TUNED,
            ["tune_engine=katib"],
            "job_dir='': with tune_engine=katib",
            "set --job_dir to a gs:// or s3:// folder",
        ),
        (VERTEX, ["train_restarts=x"], "--input train_restarts=x: must be a whole number", ""),
        (VERTEX, ["train_machine_type=n1"], "is set by --master-machine-type", "--master-machine-type"),
        (VERTEX, ["labels={}"], "labels is set by --labels", "use --labels"),
        (VERTEX, ["train_memory=8G"], "no such input on target vertex", "valid names: data_version"),
        (["--target", "local"], ["data_version=1"], "no such input on target local", "omit it"),
    ],
)
def test_an_invalid_input_is_rejected_by_name_with_a_remedy(dry_run, target, inputs, message, remedy):
    result = dry_run(target, inputs)
    assert result.exit_code == 64, result.output
    assert message in result.stderr
    assert remedy in result.stderr
    assert result.stdout == ""


def test_a_training_job_has_no_pipeline_inputs(dry_run):
    result = dry_run(JOB, ["data_version=1"], ARGUMENTS)
    assert result.exit_code == 64
    assert "--input data_version=1: only a pipeline has inputs" in result.stderr
    assert "add --as pipeline" in result.stderr


def test_on_vertex_ai_the_inputs_are_parameters_of_the_run(dry_run):
    result = dry_run(VERTEX, ["train_restarts=0", "data_version=2026-w47", "train_timeout_seconds=3600"])
    assert result.exit_code == 0, result.output
    given = yaml.safe_load(result.stdout)["runtimeConfig"]["parameterValues"]
    assert (given["train_restarts"], given["data_version"]) == (0, "2026-w47")
    assert given["train_timeout_seconds"] == 3600


def test_a_value_may_have_equals_signs_and_spaces(dry_run):
    result = dry_run(KUBEFLOW, ["data_version=state = 7"])
    assert yaml.safe_load(result.stdout)["parameters"]["data_version"] == "state = 7"


def test_a_tuning_in_the_tune_step_gets_the_machine_of_the_trials(dry_run):
    arguments = [*IMAGES, "--job-dir=gs://b/job"]
    with_katib = yaml.safe_load(dry_run(TUNED, [], arguments).stdout)["parameters"]
    result = dry_run(TUNED, ["tune_engine=local"], arguments)
    assert result.exit_code == 0, result.output
    in_step = yaml.safe_load(result.stdout)["parameters"]
    assert (with_katib["tune_engine"], in_step["tune_engine"]) == ("katib", "local")
    assert with_katib["train_cpu"] == "1"
    assert in_step["train_accelerator_type"] == with_katib["trial_accelerator_type"] == "google.com/tpu"
    assert not any(name.startswith("trial_") for name in in_step)


def test_an_accelerator_selects_its_training_image_unless_one_is_given(dry_run):
    gpu = ["train_accelerator_type=nvidia.com/gpu", "train_accelerator_count=1"]
    image = yaml.safe_load(dry_run(KUBEFLOW, gpu).stdout)["parameters"]["train_image"]
    assert image == Images().of_training("gpu")
    own = yaml.safe_load(dry_run(KUBEFLOW, [*gpu, "train_image=team/own:1"]).stdout)
    assert own["parameters"]["train_image"] == "team/own:1"


@pytest.mark.parametrize("given", [False, True])
def test_only_a_given_machine_is_reported_as_ignored(dry_run, given):
    result = dry_run([*KUBEFLOW, *(["--scale-tier=BASIC"] if given else [])], ["train_memory=32G"])
    assert ("train_memory=11G is ignored: --input train_memory=32G overrides it" in result.stderr) is given


def test_an_input_written_as_a_flag_is_rejected_with_the_option_to_use(dry_run):
    result = dry_run(KUBEFLOW, [], [*IMAGES, "--train-memory=32G"])
    assert result.exit_code == 64
    assert "use --input train-memory=32G before `--`" in result.stderr
    assert "give --input train_memory=..." in dry_run([*KUBEFLOW, "--train-memory=32G"], []).stderr
