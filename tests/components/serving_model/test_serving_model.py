"""Where a retraining starts: real clients, servers on loopback."""

import shutil
import time

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, UnavailableError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.serving_model.serving_model import find_initial_model
from tests.servers.deployments import deploy_model, exported
from tests.servers.kserve import KNATIVE, STANDARD, STORAGE_URI

BASE = "gs://photos/serving/flowers"


def start(deployment, **values):
    return find_initial_model(ServingModelArguments(**deployment, **values))


def test_a_training_starts_from_the_model_with_most_traffic(deployment, models, capsys):
    deploy_model(models[0], deployment)
    deploy_model(models[1], deployment, canary_percent=10)
    # The folder contains versions.
    assert start(deployment) == f"{BASE}/{model_digest(models[0])[:16]}"
    deploy_model(models[1], deployment, canary_percent=100)
    assert start(deployment, pretrained_checkpoint_path="gs://photos/first") == (
        f"{BASE}/{model_digest(models[1])[:16]}"
    )
    assert '"severity": "WARNING"' not in capsys.readouterr().out


def test_a_training_starts_from_the_latest_version_of_a_local_model(models, tmp_path):
    deployment = {"deploy_target": "local", "deploy_dir": str(tmp_path / "serving")}
    deploy_model(models[0], deployment)
    deploy_model(models[1], deployment)
    assert start(deployment) == str(tmp_path / "serving" / "2")


def test_the_first_training_starts_as_its_arguments_say_and_logs_it(deployment, tmp_path, capsys):
    for where in (deployment, {"deploy_target": "local", "deploy_dir": str(tmp_path)}):
        assert start(where) == ""
        assert "the training starts from the argument weights" in capsys.readouterr().out
        assert start(where, pretrained_checkpoint_path="gs://photos/first") == "gs://photos/first"
        shown = capsys.readouterr().out
        assert "the training starts from pretrained_checkpoint_path=gs://photos/first" in shown


def test_a_rejected_request_ends_the_step(on_kserve, on_vertex):
    with pytest.raises(UnavailableError, match="forbidden"):
        start({**on_kserve, "namespace": "forbidden"})
    with pytest.raises(UnavailableError, match="Permission denied"):
        start({**on_vertex, "project": "others"})


@pytest.mark.parametrize("mode", [KNATIVE, STANDARD])
def test_a_latest_model_that_is_down_is_not_mistaken_for_the_previous_one(on_kserve, cluster, models, mode):
    cluster.mode = mode
    deploy_model(models[0], on_kserve)
    deploy_model(models[1], on_kserve)
    cluster.crash()
    with pytest.raises(UnavailableError, match="does not serve"):
        start(on_kserve)


@pytest.mark.parametrize("mode", [KNATIVE, STANDARD])
def test_the_previous_model_serves_until_the_latest_is_ready(on_kserve, cluster, models, mode):
    cluster.mode = mode
    deploy_model(models[0], on_kserve)
    cluster.start_seconds = 60
    cluster.specify(f"{BASE}/{model_digest(models[1])[:16]}")
    for _ in range(3):
        assert start(on_kserve) == f"{BASE}/{model_digest(models[0])[:16]}"
        time.sleep(0.02)


@pytest.mark.parametrize("trained", ["resnet-18", "resnet-50"])
def test_another_model_type_is_rejected_before_training(deployment, models, tmp_path, trained):
    model = tmp_path / "model"
    shutil.copytree(models[0], model)
    write_provenance(model, {"model_type": "resnet-18"})
    exported(model)
    local = {"deploy_target": "local", "deploy_dir": str(tmp_path / "serving")}
    for where in (deployment, local):
        deploy_model(model, where)
        if trained == "resnet-18":
            assert start(where, model_type=trained)
            continue
        with pytest.raises(
            InvalidArgumentError, match=r"model_type=resnet-50.*serving model, a resnet-18"
        ) as caught:
            start(where, model_type=trained)
        assert "set model_type to resnet-18" in caught.value.remedy


def test_an_ignored_checkpoint_path_is_logged(models, tmp_path, capsys):
    deployment = {"deploy_target": "local", "deploy_dir": str(tmp_path / "serving")}
    deploy_model(models[0], deployment)
    start(deployment, pretrained_checkpoint_path="gs://photos/first")
    assert "pretrained_checkpoint_path=gs://photos/first is ignored" in capsys.readouterr().out


def test_a_model_outside_of_a_bucket_ends_the_step(on_kserve, cluster, models):
    deploy_model(models[0], on_kserve)
    for pod in cluster.workloads["team/flowers"].pods:
        annotations = {**pod.template["annotations"], STORAGE_URI: "pvc://disk/model"}
        pod.template = {**pod.template, "annotations": annotations}
    with pytest.raises(InvalidArgumentError, match="--volume disk:/FOLDER"):
        start(on_kserve)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "deploy_target=none"),
        ({"deploy_dir": BASE}, "deploy_target=none"),
        ({"deploy_target": "vertex", "deploy_dir": BASE}, "requires project, region"),
        (
            {"deploy_target": "local", "deploy_dir": "x", "vertex_endpoint": "http://10.0.0.1"},
            "credentials over plain http",
        ),
    ],
)
def test_the_deployment_target_must_be_given(values, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ServingModelArguments(**values)
