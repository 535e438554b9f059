"""champion=auto for a deployment on KServe or Vertex AI: the real clients ask servers on loopback."""

import re
import shutil

import pytest

from imgpipe.components.common.errors import InterruptedRunError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.champion import champion_folder
from imgpipe.components.evaluate.evaluate import evaluate
from tests.servers.deployments import deploy_model
from tests.servers.kubeflow import use_kubeconfig

BASE = "gs://photos/serving/flowers"


def champion(deployment, **values):
    """The digest of the champion; None if there is none."""
    with champion_folder(EvaluateArguments(**deployment, **values)) as folder:
        return folder and model_digest(folder)


def test_the_champion_is_the_model_with_the_most_traffic(deployment, models, capsys):
    deploy_model(models[0], deployment)
    assert champion(deployment) == model_digest(models[0])
    deploy_model(models[1], deployment, canary_percent=10)
    assert champion(deployment) == model_digest(models[0])
    deploy_model(models[1], deployment, canary_percent=50)
    # With equal traffic, the earlier model.
    assert champion(deployment) == model_digest(models[0])
    deploy_model(models[1], deployment, canary_percent=60)
    assert champion(deployment) == model_digest(models[1])
    deploy_model(models[1], deployment, canary_percent=100)
    assert champion(deployment) == model_digest(models[1])
    assert f"{BASE}/{model_digest(models[1])[:16]}" in capsys.readouterr().out


def test_the_new_model_is_compared_with_the_serving_model(
    deployment, coloured_dataset, models, tmp_path, capsys
):
    deploy_model(models[0], deployment)
    dataset = coloured_dataset(tmp_path / "data")

    def measured(number, **values):
        return evaluate(dataset, models[number], tmp_path / "evaluation", EvaluateArguments(**values))

    capsys.readouterr()
    found = measured(1, **deployment).comparison
    # Its address, not the folder to which it was copied.
    assert re.findall(r"the champion is ([^ ,]*)", capsys.readouterr().out) == [
        f"{BASE}/{model_digest(models[0])[:16]}"
    ]
    assert found.champion_top_1_accuracy == measured(0).metrics.top_1_accuracy
    assert found.challenger_top_1_accuracy == measured(1).metrics.top_1_accuracy


def test_a_warning_says_if_no_model_serves_yet(deployment, capsys):
    assert champion(deployment) is None
    shown = capsys.readouterr().out
    assert '"severity": "WARNING", "event": "no_champion"' in shown
    assert re.search(f"found no model on {deployment['deploy_target']}: there is no .*flowers", shown)


def test_a_new_revision_that_is_not_ready_is_not_the_champion(on_kserve, cluster, models):
    deploy_model(models[0], on_kserve)
    cluster.start_seconds = 60
    cluster.specify("gs://photos/serving/flowers/broken")
    assert champion(on_kserve) == model_digest(models[0])


def test_a_foreign_service_is_not_the_champion(on_kserve, cluster, models, capsys):
    deploy_model(models[0], on_kserve)
    cluster.objects["team/flowers"]["metadata"]["labels"] = {}
    assert champion(on_kserve) is None
    assert "team/flowers was not created by imgpipe" in capsys.readouterr().out


def test_a_model_that_was_deleted_from_the_bucket_is_reported(on_vertex, models, cloud, capsys):
    deploy_model(models[0], on_vertex)
    folder = f"serving/flowers/{model_digest(models[0])[:16]}"
    for name in cloud.contents():
        cloud._bucket.blob(name).delete()
    assert champion(on_vertex) is None
    assert f"there is no SavedModel in 'gs://photos/{folder}'" in capsys.readouterr().out


def test_a_denied_request_is_reported(on_kserve, on_vertex, capsys):
    assert champion({**on_kserve, "namespace": "forbidden"}) is None
    assert champion({**on_vertex, "project": "others"}) is None
    shown = capsys.readouterr().out
    assert "403 inferenceservices is forbidden" in shown
    assert "(HTTP 403): Permission denied" in shown


def test_an_unreachable_cluster_interrupts_the_step(on_kserve, cluster, monkeypatch, tmp_path):
    # No server listens at port 9.
    cluster.address = "http://127.0.0.1:9"
    use_kubeconfig(monkeypatch, tmp_path, cluster)
    monkeypatch.setattr("imgpipe.components.platforms.kubernetes.client._RETRIES", 0)
    with pytest.raises(InterruptedRunError, match="Kubernetes did not respond"):
        champion(on_kserve)


def test_a_given_champion_overrides_the_serving_model(on_kserve, models, tmp_path):
    deploy_model(models[0], on_kserve)
    shutil.copytree(models[1], tmp_path / "model")
    assert champion(on_kserve, champion=str(tmp_path / "model")) == model_digest(models[1])
    assert champion(on_kserve, champion="none") is None
