from types import SimpleNamespace

import pytest
import urllib3
from kubernetes.client import ApiException

from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, UnavailableError
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.errors import translate_errors
from tests.servers.kubeflow import use_kubeconfig


def test_without_a_cluster_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "missing")
    )
    with pytest.raises(MissingInputError, match="there is no cluster to tune on") as caught:
        connect("tune on")
    assert "KUBECONFIG" in caught.value.remedy


def test_outside_of_a_pod_the_kubeconfig_file_names_the_cluster(monkeypatch, tmp_path):
    use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address="http://127.0.0.1:9"))
    cluster = connect("tune on")
    assert cluster.api_client.configuration.host == "http://127.0.0.1:9"
    assert cluster.namespace == "default"
    assert connect("tune on", "team").namespace == "team"


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ApiException(403, "Forbidden"), UnavailableError, "Kubernetes refused to list pods: 403 Forbidden"),
        (ApiException(503, "Busy"), InterruptedRunError, "a request to list pods: 503 Busy"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "late"), InterruptedRunError, "ReadTimeoutError"),
    ],
)
def test_errors_of_the_client_library_become_ours(error, expected, message):
    with pytest.raises(expected, match=message), translate_errors("list pods", remedy="ask for the right"):
        raise error


def test_a_rejection_quotes_the_api_servers_message():
    error = ApiException(403, "Forbidden")
    error.body = '{"message": "pods is forbidden"}'
    with (
        pytest.raises(UnavailableError, match="403 pods is forbidden") as caught,
        translate_errors("list pods", remedy="ask for the right"),
    ):
        raise error
    assert caught.value.remedy == "ask for the right"
