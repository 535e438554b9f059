"""Fixtures of the deployment targets on loopback, KServe and Vertex AI, and of models to deploy."""

import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.verification import write_verification
from imgpipe.components.deploy import kserve
from imgpipe.components.deploy.arguments import DeployArguments
from tests.servers.http_server import serve_target
from tests.servers.kserve import Cluster, answers, load_from, serve_cluster
from tests.servers.kubeflow import use_kubeconfig
from tests.servers.vertex_models import VertexModels


@pytest.fixture(scope="session")
def models(linear_model, tmp_path_factory):
    """Three models of the export step, with verification.json."""
    folder = tmp_path_factory.mktemp("models")
    return [exported(linear_model(folder / str(seed), seed=seed)) for seed in range(3)]


def exported(model):
    """Writes the verification of a model, as the export step does, and returns the model."""
    from imgpipe.components.common.served_model import load_served_model

    served = load_served_model(model)
    images = [_picture(seed) for seed in range(4)]
    write_verification(model, served.labels, images, served.predict(images).probabilities.tolist())
    return model


def _picture(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def cluster(cloud):
    """A cluster with KServe and Knative; ``cluster.mode`` is the mode of new services."""
    with serve_cluster(Cluster(load=load_from(cloud))) as target:
        yield target


@pytest.fixture
def vertex(cloud):
    """Vertex AI with model servers that load the models in the bucket."""
    load = load_from(cloud)

    def predict(artifact_uri, instances):
        return answers(load(artifact_uri.removesuffix("/1")), instances)

    with serve_target(VertexModels(predict=predict)) as target:
        yield target


@pytest.fixture
def on_kserve(cluster, cloud, monkeypatch, tmp_path):
    """Arguments of a deployment to the cluster on loopback."""
    use_kubeconfig(monkeypatch, tmp_path, cluster)
    monkeypatch.setattr(kserve, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(kserve, "ROUTING_SECONDS", 0.1)
    monkeypatch.setattr(kserve, "ANSWER_SECONDS", 0.3)
    return {"deploy_target": "kserve", "deploy_dir": "gs://photos/serving/flowers", "namespace": "team"}


@pytest.fixture
def on_vertex(vertex, cloud):
    """Arguments of a deployment to Vertex AI on loopback."""
    return {
        "deploy_target": "vertex",
        "deploy_dir": "gs://photos/serving/flowers",
        "project": "flowers",
        "region": "europe-west4",
        "vertex_endpoint": vertex.address,
    }


def deploy_model(model, deployment, **values):
    """Deploys a model; ``deployment`` are the arguments of a target."""
    from imgpipe.components.deploy.deploy import deploy

    image = {"serving_image": "europe-docker.pkg.dev/flowers/images/serving:2.21"}
    more = image if deployment["deploy_target"] == "vertex" else {}
    return deploy(model, DeployArguments(**{**deployment, **more, "deploy_timeout_seconds": 20, **values}))


@pytest.fixture(params=["kserve", "vertex"])
def deployment(request):
    """``on_kserve`` and ``on_vertex`` in turn."""
    return request.getfixturevalue(f"on_{request.param}")
