import pytest
from kubernetes import client

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.platforms.kubernetes.client import default_client, own_namespace, refused
from tests.servers.kubeflow import kubeconfig

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"


def test_without_a_cluster_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(LOCATION, str(tmp_path / "missing"))
    with pytest.raises(MissingInputError, match="there is no cluster to tune on") as caught:
        default_client("tune on")
    assert "KUBECONFIG" in caught.value.remedy


def test_outside_of_a_pod_the_kubeconfig_file_names_the_cluster(monkeypatch, tmp_path):
    class Server:
        address = "http://127.0.0.1:9"

    monkeypatch.setattr(LOCATION, kubeconfig(tmp_path, Server))
    assert default_client("tune on").configuration.host == Server.address
    assert own_namespace() == "default"


@pytest.mark.parametrize(
    ("body", "said"), [('{"message": "not allowed"}', "403 not allowed"), ("?", "403 Forbidden")]
)
def test_a_refusal_is_told_in_the_clusters_words_where_it_has_any(body, said):
    error = client.ApiException(status=403, reason="Forbidden")
    error.body = body
    told = refused(error, "experiments", "ask for the right")
    assert told.problem == f"the cluster refuses experiments: {said}"
    assert told.remedy == "ask for the right"
