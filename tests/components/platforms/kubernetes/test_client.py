from types import SimpleNamespace

import pytest
import urllib3
from kubernetes.client import ApiException

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    MissingInputError,
    UnavailableError,
)
from imgpipe.components.platforms.kubernetes.access import KATIB_NEEDS, check_access
from imgpipe.components.platforms.kubernetes.client import CustomObjects, connect, read_secret
from imgpipe.components.platforms.kubernetes.errors import translate_errors
from imgpipe.components.platforms.kubernetes.pods import list_pods, read_log
from imgpipe.components.platforms.kubernetes.serving_runtimes import _list_runtimes
from tests.servers.faults import Fault, once, start_fault_proxy
from tests.servers.http_server import serve_json
from tests.servers.katib import start_katib_server
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


def refusal(status, reason, body=None):
    error = ApiException(status, reason)
    error.body = body
    return error


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (refusal(403, "Forbidden"), UnavailableError, "Kubernetes refused to list pods: 403 Forbidden"),
        (refusal(403, "Forbidden", '{"message": "no pods"}'), UnavailableError, "403 no pods"),
        (refusal(503, "Busy"), InterruptedRunError, "a request to list pods: 503 Busy"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "late"), InterruptedRunError, "ReadTimeoutError"),
    ],
)
def test_errors_of_the_client_library_become_ours(error, expected, message):
    with (
        pytest.raises(expected, match=message) as caught,
        translate_errors("list pods", remedy="ask for the right"),
    ):
        raise error
    assert (caught.value.remedy == "ask for the right") == (expected is UnavailableError)


@pytest.mark.parametrize("content", [None, "- a\n- b\n", "text", b"\xff\xfe", "clusters: 1", "users: [1]"])
def test_a_kubeconfig_that_is_a_folder_or_has_another_content_is_reported(monkeypatch, tmp_path, content):
    file = tmp_path / "config"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    with pytest.raises(MissingInputError, match="there is no cluster to tune on") as caught:
        connect("tune on")
    assert "KUBECONFIG" in caught.value.remedy


def test_a_token_is_not_sent_over_plain_http_to_another_machine(monkeypatch, tmp_path):
    use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address="http://10.0.0.1:80"))
    assert connect("tune on").api_client.configuration.host == "http://10.0.0.1:80"
    file = tmp_path / "kubeconfig"
    file.write_text(file.read_text().replace("user: {}", "user: {token: secret}"))
    with pytest.raises(InvalidArgumentError, match="over plain http") as caught:
        connect("tune on")
    assert "secret" not in str(caught.value)


def test_a_response_of_another_server_is_an_error_of_its_own(monkeypatch, tmp_path):
    with serve_json(lambda *_: (200, "<html>")) as address:
        use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address=address))
        objects = CustomObjects(connect("tune on"), "kubeflow.org", "v1beta1", "experiments", remedy="")
        for request in (lambda: objects.read("a"), lambda: objects.list("a=b"), lambda: objects.create({})):
            with pytest.raises(InvalidResponseError, match="not one of Kubernetes: an HTML page"):
                request()


@pytest.mark.parametrize(
    ("request_of", "part"),
    [
        (lambda cluster: list_pods(cluster, "a=b"), "/pods"),
        (lambda cluster: read_secret(cluster, "key", timeout_seconds=5), "/secrets/"),
        (lambda cluster: check_access(cluster, KATIB_NEEDS, "x"), "/apis/kubeflow.org/"),
        (lambda cluster: check_access(cluster, KATIB_NEEDS, "x"), "/selfsubjectaccessreviews"),
        (lambda cluster: trials_of(cluster).list("a=b"), "/trials"),
    ],
)
@pytest.mark.parametrize("kind", ["page", "null", "broken"])
def test_every_request_reports_a_response_of_another_server(monkeypatch, tmp_path, request_of, part, kind):
    with start_katib_server(tmp_path) as server:
        server.secrets = {"key": {"path": "key.json"}}
        with start_fault_proxy(server.address, once(Fault(kind, executed=True), part=part)) as proxy:
            use_kubeconfig(monkeypatch, tmp_path, proxy)
            cluster = connect("tune on", "team")
            with pytest.raises(InvalidResponseError, match="not one of Kubernetes") as caught:
                request_of(cluster)
            assert "check the address" in caught.value.remedy
            request_of(cluster)


def test_a_page_is_not_a_log_and_not_a_list_of_runtimes(monkeypatch, tmp_path):
    pod = SimpleNamespace(metadata=SimpleNamespace(name="a"))
    for content in ("<!doctype html><title>Log in</title>", {"kind": "Status"}):
        with serve_json(lambda *_, content=content: (200, content)) as address:
            use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address=address))
            cluster = connect("tune on")
            with pytest.raises(InvalidResponseError, match="not one of Kubernetes"):
                _list_runtimes(cluster)
            with pytest.raises(InvalidResponseError, match="not one of Kubernetes"):
                trials_of(cluster).list("a=b")
            if isinstance(content, str):
                with pytest.raises(InvalidResponseError, match="an HTML page"):
                    read_log(cluster, pod, "main")


def test_a_log_that_is_one_line_of_json_is_returned_as_it_is(monkeypatch, tmp_path):
    # The client library decodes whatever is JSON, also for an API that returns text:
    # kubernetes-client/python, kubernetes/client/api_client.py, deserialize.
    pod = SimpleNamespace(metadata=SimpleNamespace(name="a"))
    for line in ('{"severity": "INFO", "message": "a"}', "12", '"a"'):
        with serve_json(lambda *_, line=line: (200, f"{line}\n")) as address:
            use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address=address))
            assert read_log(connect("tune on"), pod, "main") == [line]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda cluster: check_access(cluster, KATIB_NEEDS, "x"),
        lambda cluster: trials_of(cluster).list("a=b"),
    ],
)
@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=429, retry_after="0"),
        Fault("status", status=429, retry_after="Sun, 06 Nov 1994 08:49:37 GMT"),
        Fault("status", status=503),
        Fault("cut"),
        Fault("reset"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.retry_after}",
)
def test_a_request_that_is_interrupted_is_sent_again(monkeypatch, tmp_path, request_of, fault):
    monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.01)
    with (
        start_katib_server(tmp_path) as server,
        start_fault_proxy(server.address, once(fault)) as proxy,
    ):
        use_kubeconfig(monkeypatch, tmp_path, proxy)
        request_of(connect("tune on", "team"))
        assert proxy.injected == [fault]


def trials_of(cluster):
    return CustomObjects(cluster, "kubeflow.org", "v1beta1", "trials", remedy="")


def test_the_account_is_not_read_from_a_broken_response(monkeypatch, tmp_path):
    with start_katib_server(tmp_path) as server:
        server.denied = {"create experiments.kubeflow.org"}
        with start_fault_proxy(server.address, once(Fault("page"), part="selfsubjectreviews")) as proxy:
            use_kubeconfig(monkeypatch, tmp_path, proxy)
            with pytest.raises(InvalidResponseError, match="not one of Kubernetes"):
                check_access(connect("tune on", "team"), KATIB_NEEDS, "x")


def test_a_silent_api_server_uses_the_time_limit_of_a_request_once(monkeypatch, tmp_path):
    monkeypatch.setattr("imgpipe.components.platforms.kubernetes.pods.REQUEST_TIMEOUT_SECONDS", 1)
    with start_fault_proxy("http://127.0.0.1:9", lambda *_: Fault("silence")) as proxy:
        use_kubeconfig(monkeypatch, tmp_path, proxy)
        with pytest.raises(InterruptedRunError, match="ReadTimeoutError"):
            list_pods(connect("tune on"), "a=b")
        assert len(proxy.injected) == 1


def test_a_busy_api_server_is_asked_again_when_it_says_so(monkeypatch, tmp_path):
    responses = [(429, "busy"), (503, "restarts"), (200, {"items": []})]
    with serve_json(lambda *_: responses.pop(0)) as address:
        monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.01)
        use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address=address))
        objects = CustomObjects(connect("tune on"), "kubeflow.org", "v1beta1", "experiments", remedy="")
        assert objects.list("a=b") == []
    assert responses == []
