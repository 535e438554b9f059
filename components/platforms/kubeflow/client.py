"""Connects to a Kubeflow Pipelines installation and translates its errors into ours."""

import contextlib
import json
import logging
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    MissingInputError,
    UnavailableError,
)
from imgpipe.components.common.urls import has_user_info, is_plain_http_to_other_machine
from imgpipe.components.platforms import responses
from imgpipe.components.platforms.kubernetes.pod_rules import check_namespace
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.responses import (
    TRANSIENT_STATUSES,
    describe_body,
    json_object,
    retry_after_seconds,
)

Response = TypeVar("Response")

EXPERIMENT = "imgpipe"
_HEALTH = "/apis/v2beta1/healthz"
_HEALTH_TIMEOUT_SECONDS = 10
# An address that does not respond is more often wrong than a server that restarts.
_CONNECT_SECONDS = 10.0
FORBIDDEN, _CONFLICT = 403, 409


@dataclass
class KubeflowClient:
    """A Kubeflow Pipelines installation.

    Attributes:
        host: Address of its API, e.g. ``http://localhost:8080`` of a port-forward.
        namespace: The user's namespace in a multi-user installation; otherwise empty.
        token: Bearer token, if the installation requires one.
    """

    host: str
    namespace: str = ""
    token: str = ""
    _client: Any = field(default=None, init=False, repr=False)
    _multi_user: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_namespace("--namespace", self.namespace)
        if has_user_info(self.host):
            raise InvalidArgumentError(
                f"--host={self.host} contains a user name or a password",
                remedy="remove it from the address, and give a bearer token with KFP_TOKEN",
            )
        if self.token and is_plain_http_to_other_machine(self.host):
            raise InvalidArgumentError(
                f"--host={self.host} would receive the token over plain http",
                remedy="use https://, or a port-forward to localhost: kubectl port-forward -n kubeflow "
                "svc/ml-pipeline-ui 8080:80",
            )

    @property
    def api(self) -> Any:
        """KFP's client, connected when it is first used.

        Each of its requests has a time limit, and raises InvalidResponseError if the response is not KFP's.

        Raises:
            InterruptedRunError: if the installation cannot be reached.
            UnavailableError: if it requires a token or a login.
            MissingInputError: if the server at the address is not Kubeflow Pipelines.
        """
        self.connect()
        return self._client

    def connect(self) -> None:
        """Connects if it is not connected; an address that does not respond is an error after seconds."""
        if self._client is None:
            self._client = retry(self._connect, seconds=_CONNECT_SECONDS)

    def _connect(self) -> Any:
        action = f"connect to Kubeflow Pipelines at {self.host}"
        with translate_errors(action), warnings.catch_warnings(), _without_logging():
            # It says that it supports only version 2 of the API.
            warnings.simplefilter("ignore", FutureWarning)
            client = _client_class(self.host)(host=self.host, existing_token=self.token or None)
            health = client.get_kfp_healthz()
            self._multi_user = bool(health.multi_user)
            if self._multi_user and not self.resolved_namespace(client):
                raise InvalidArgumentError(
                    f"--namespace is missing: the installation at {self.host} has several users",
                    remedy="give --namespace (or KFP_NAMESPACE) the name of your namespace",
                )
        return client

    def send(self, action: str, request: Callable[[Any], Response]) -> Response:
        """Sends a request once.

        Args:
            action: What the request does, for the message, e.g. ``start the run``.
            request: Gets KFP's client.
        """
        api = self.api
        with translate_errors(action):
            return request(api)

    def read(self, action: str, request: Callable[[Any], Response]) -> Response:
        """Sends a request that is safe to repeat, until KFP responds or ``RETRY_SECONDS`` have passed."""
        self.connect()
        return retry(lambda: self.send(action, request))

    def find_experiment(self) -> str:
        """Returns the id of imgpipe's experiment, or "" before the first run."""
        return self.read("find the experiment", self._find_experiment)

    def create_experiment(self) -> str:
        """Returns the id of imgpipe's experiment, which is created if it does not exist."""

        def create(api: Any) -> str:
            experiment = api.api_models.V2beta1Experiment(
                display_name=EXPERIMENT, namespace=self.resolved_namespace(api)
            )
            return str(
                api.experiments.experiment_service_create_experiment(experiment=experiment).experiment_id
                or ""
            )

        return self.find_or_create("create the experiment", self._find_experiment, create)

    def find_or_create(self, action: str, find: Callable[[Any], str], create: Callable[[Any], str]) -> str:
        """Returns the id of a resource with a unique name, which is created if it does not exist.

        Args:
            action: See ``send``.
            find: Returns the id, or "" if there is none.
            create: Creates it and returns its id.
        """

        def request(api: Any) -> str:
            import kfp_server_api

            if found := find(api):
                return found
            try:
                return create(api)
            except kfp_server_api.ApiException as error:
                # Another client has created it.
                if error.status != _CONFLICT:
                    raise
                return find(api)

        identifier = self.read(action, request)
        check_id(identifier, action)
        return identifier

    def resolved_namespace(self, api: Any) -> str | None:
        """Returns the namespace, or else that of KFP's own configuration file; None if there is none."""
        return self.namespace or api.get_user_namespace() or None

    def user_namespace(self) -> str:
        """Returns the user's namespace; "" if the installation has only one user."""
        return (self.resolved_namespace(self.api) or "") if self._multi_user else ""

    def _find_experiment(self, api: Any) -> str:
        options = {"namespace": self.resolved_namespace(api)}
        page = api.experiments.experiment_service_list_experiments(
            filter=equals("display_name", EXPERIMENT),
            **{name: value for name, value in options.items() if value},
        )
        return str(page.experiments[0].experiment_id) if page.experiments else ""


def equals(field: str, value: str) -> str:
    """Returns the filter of a list: the resources whose field has that value.

    KFP's database may ignore the difference between upper and lower case.
    KFP decodes the parameter of the URL, and then decodes ``+`` and ``%`` in it once more (parseAPIFilter in
    kubeflow/pipelines 2.17, backend/src/apiserver/server/list_request_util.go).
    """
    predicate = {"operation": "EQUALS", "key": field, "stringValue": value}
    return urllib.parse.quote(json.dumps({"predicates": [predicate]}))


@contextlib.contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Raises our errors in place of the client's.

    Args:
        action: What the block does, for the message, e.g. ``start the run``.
    """
    import kfp_server_api
    import urllib3

    try:
        yield
    except _ForeignResponseError as error:
        raise _invalid_response(action, str(error)) from None
    except kfp_server_api.ApiException as error:
        if error.status and 300 <= error.status < 400:
            location = (error.headers or {}).get("Location", "").partition("?")[0]
            raise _login_required(action, f"it redirects to {location}") from None
        text = f"Kubeflow Pipelines refused to {action}: {error.reason}{_message(error.body)}"
        if not error.status:
            # KFP's client reports errors of TLS without a status.
            raise UnavailableError(
                f"cannot {action}: {str(error.reason).partition(chr(10))[0]}",
                remedy="check that --host is correct and its certificate valid",
            ) from None
        if error.status in TRANSIENT_STATUSES or error.status >= 500:
            raise InterruptedRunError(
                text,
                remedy="try again; a run that was started is not started twice",
                retry_after=retry_after_seconds(error.headers),
            ) from None
        if error.status in (401, FORBIDDEN):
            raise UnavailableError(
                text,
                remedy="give a token with --token, or ask an administrator for the permission",
                status=error.status,
            ) from None
        if error.status == 404:
            raise MissingInputError(text, remedy="check the name and --host") from None
        raise InvalidArgumentError(text, remedy="correct what the message names") from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        cause = getattr(error, "reason", None) or error
        raise InterruptedRunError(
            f"cannot {action}: {type(cause).__name__}",
            remedy="check --host, e.g. kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80",
        ) from None


class _ForeignResponseError(Exception):
    """A response that KFP did not send; the text says what it contains."""


def _invalid_response(action: str, content: str) -> UnavailableError:
    if "HTML" in content:
        return _login_required(action, f"the response is {content}, not JSON")
    return InvalidResponseError(
        f"cannot {action}: the response is not one of Kubeflow Pipelines: {content}",
        remedy="try again; if it happens again, check --host and the proxies in between",
    )


def check_id(identifier: str | None, action: str) -> None:
    """Rejects a response without an id."""
    if not identifier:
        raise _invalid_response(action, "it contains no id")


def _login_required(action: str, reason: str) -> InvalidResponseError:
    return InvalidResponseError(
        f"cannot {action}: a login is required: {reason}",
        remedy="give --token (or better KFP_TOKEN); if there is no login page, check --host",
    )


def _client_class(host: str) -> Any:
    """Returns KFP's client with one short health check.

    KFP's own retries for minutes and follows a redirect to a login page. Credentials, cookies and proxies are
    left to KFP.
    """
    # Takes seconds to import.
    import kfp
    import kfp_server_api
    import urllib3

    class Client(kfp.Client):
        _health: Any = None

        def _load_config(self, *arguments: Any, **options: Any) -> Any:
            config = super()._load_config(*arguments, **options)
            # urllib3 would wait for as long as Retry-After says.
            config.retries = urllib3.Retry(0, redirect=0, raise_on_redirect=False)
            return config

        def get_kfp_healthz(self, *_: Any) -> Any:
            """Returns the installation's health, requested once; KFP's client sends no request before it."""
            if self._health is None:
                _check_responses(self._healthz_api.api_client)
                try:
                    self._health = self._healthz_api.healthz_service_get_healthz(
                        _request_timeout=_HEALTH_TIMEOUT_SECONDS
                    )
                except kfp_server_api.ApiException as error:
                    if error.status != 404:
                        raise
                    raise MissingInputError(
                        f"the server at --host={host} is not Kubeflow Pipelines: it has no {_HEALTH}",
                        remedy="give the full address of Kubeflow Pipelines, including its path, e.g. "
                        "https://HOST/pipeline",
                    ) from None
            return self._health

    return Client


def _check_responses(api_client: Any) -> None:
    """Gives a client's requests a time limit, and lets only KFP's responses pass.

    Its own code takes any response of status 200 for an empty one: an HTML page for "there is no such run".

    Raises:
        _ForeignResponseError: for every other response.
    """
    import kfp_server_api

    send, deserialize = api_client.rest_client.request, api_client.deserialize

    def send_with_limit(*arguments: Any, **options: Any) -> Any:
        limit = (responses.CONNECT_TIMEOUT_SECONDS, responses.READ_TIMEOUT_SECONDS)
        options["_request_timeout"] = options.get("_request_timeout") or limit
        try:
            response = send(*arguments, **options)
        except kfp_server_api.ApiException as error:
            # Its caller would fail to decode the body.
            error.body = (error.body or b"").decode("utf-8", "replace").encode()
            raise
        if json_object(response.data) is None:
            raise _ForeignResponseError(describe_body(response.data))
        # Verified above: the client would use the encoding of the header.
        response.urllib3_response.headers.pop("content-type", None)
        return response

    def deserialize_own(response: Any, response_type: Any) -> Any:
        content = json.loads(response.data)
        model = getattr(kfp_server_api.models, str(response_type), None)
        fields = getattr(model, "attribute_map", {}).values()
        if content and fields and not content.keys() & set(fields):
            raise _ForeignResponseError(f"it has the fields {', '.join(sorted(content))[:100]}")
        try:
            return deserialize(response, response_type)
        except (kfp_server_api.ApiException, ValueError, TypeError, AttributeError, KeyError) as error:
            raise _ForeignResponseError(f"a field is not valid: {error}"[:200]) from None

    api_client.rest_client.request, api_client.deserialize = send_with_limit, deserialize_own


@contextlib.contextmanager
def _without_logging() -> Iterator[None]:
    """Suppresses the client's stack traces of errors that we explain."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def _message(body: Any) -> str:
    try:
        return f" ({json.loads(body)['message']})"
    except (ValueError, LookupError, TypeError):
        return ""
