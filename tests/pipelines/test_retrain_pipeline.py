"""The pipeline image-classification-retrain and its options."""

import pytest
import yaml

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from tests.command_line import run_command
from tests.pipelines.compiled import spec_of

TARGETS = ["local", "kubeflow", "vertex"]


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_initial_weights_differ_from_the_plain_pipeline(target):
    retrained = spec_of(target, "image_classification_retrain")["root"]["dag"]["tasks"]
    plain = spec_of(target, "image_classification")["root"]["dag"]["tasks"]
    prepare = retrained.pop("prepare")
    assert "dependentTasks" not in prepare
    if target == "local":
        # It also checks the run, in place of convert.
        assert retrained["convert"].pop("dependentTasks") == ["prepare"]
        needless = plain["convert"]["inputs"]["parameters"].keys() - flat_fields([ConvertArguments]).keys()
        for name in needless:
            del plain["convert"]["inputs"]["parameters"][name]
    else:
        plain.pop("prepare")
    weights = retrained["train"]["inputs"]["parameters"]["pretrained_checkpoint_path"]
    assert weights == {
        "taskOutputParameter": {"outputParameterKey": "initial_model", "producerTask": "prepare"}
    }
    retrained["train"]["inputs"]["parameters"]["pretrained_checkpoint_path"] = plain["train"]["inputs"][
        "parameters"
    ]["pretrained_checkpoint_path"]
    retrained["train"]["dependentTasks"].remove("prepare")
    assert retrained == plain


@pytest.mark.parametrize("target", TARGETS)
def test_the_serving_model_is_never_cached_and_its_image_has_the_clients(target):
    spec = spec_of(target, "image_classification_retrain")
    image = spec["deploymentSpec"]["executors"]["exec-prepare"]["container"]["image"]
    assert image.split(":")[0] == ("imgpipe-serve-tools" if target == "local" else "imgpipe-launcher")
    assert not spec["root"]["dag"]["tasks"]["prepare"]["cachingOptions"].get("enableCache")


VERTEX = ["--target", "vertex", "--region", "us-central1", "--dry-run", "--no-check"]
DATA = ["--", "--images=gs://b/flowers", "--job-dir=gs://b/job"]
DEPLOYED = ["--deploy_target=vertex", "--deploy_dir=gs://b/serving/flowers", "--project=p"]
DEPLOYED += ["--region=us-central1", "--serving_image=europe-docker.pkg.dev/flowers/images/serving:2.21"]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "--retrain"], ["--deploy-target none"]),
        (["run", "--retrain", "--deploy-target", "local"], ["--deploy-dir"]),
        (
            ["run", "--images", "photos", "--deploy-target", "local", "--deploy-dir", "photos/serving"],
            ["--deploy-dir 'photos/serving' is inside the folder of images"],
        ),
        (["submit", "j", "--retrain", *DATA], ["deploy_target=none"]),
        (["submit", "j", "--retrain", *VERTEX, *DATA, *DEPLOYED], ["add --as pipeline"]),
        (
            ["submit", "j", "--retrain", "--config", "tuning.yaml", *DATA, *DEPLOYED],
            ["cannot be used with hyperparameters"],
        ),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_written(arguments, messages, tmp_path):
    (tmp_path / "tuning.yaml").write_text(
        "trainingInput: {hyperparameters: {maxTrials: 2, params: [{parameterName: max_steps, "
        "type: INTEGER, minValue: 1, maxValue: 9}]}}"
    )
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 64, result.stderr
    for message in messages:
        assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tuning.yaml"]


def test_submit_sends_the_retraining_pipeline(tmp_path):
    result = run_command(
        "submit", "j", "--retrain", "--as", "pipeline", *VERTEX, *DATA, *DEPLOYED, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    shown = yaml.safe_load(result.stdout)
    assert (shown["kind"], shown["pipelineSpec"]) == ("PipelineJob", "image-classification-retrain")
    values = shown["runtimeConfig"]["parameterValues"]
    assert (values["deploy_target"], values["deploy_dir"]) == ("vertex", "gs://b/serving/flowers")


@pytest.mark.parametrize("command", [["run", "--retrain"], ["submit", "j", "--retrain", "--"]])
def test_a_model_type_other_than_the_serving_models_is_rejected_first(command, tmp_path):
    version = tmp_path / "serving" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    (version / "provenance.json").write_text('{"model_type": "resnet-50"}')
    (tmp_path / "photos").mkdir()
    arguments = ["--images=photos", "--model_type=resnet-18", "--deploy_target=local", "--deploy_dir=serving"]
    result = run_command(*command, *arguments, "--weights=none", cwd=tmp_path)
    assert result.returncode == 64, result.stderr
    assert "resnet-18 cannot start from the weights of the serving model, a resnet-50" in result.stderr
    assert "run once without --retrain" in result.stderr
    assert not list(tmp_path.rglob("run.log"))
