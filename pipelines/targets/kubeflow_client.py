"""Connects to a Kubeflow Pipelines installation and translates its errors into ours."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    UnavailableError,
)

EXPERIMENT = "imgpipe"
# An integer: KFP's client ignores fractions.
_CONNECT_TIMEOUT_SECONDS = 10
_HEALTH = "/apis/v2beta1/healthz"


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
    _clients: list[Any] = field(default_factory=list, init=False, repr=False)

    @property
    def api(self) -> Any:
        """KFP's client, connected when it is first used.

        Raises:
            InterruptedRunError: if the installation cannot be reached.
            UnavailableError: if it requires a token or a login.
            MissingInputError: if the server at the address is not Kubeflow Pipelines.
        """
        if not self._clients:
            action = f"connect to Kubeflow Pipelines at {self.host}"
            with translate_errors(action), warnings.catch_warnings(), _without_logging():
                # It says that it supports only version 2 of the API.
                warnings.simplefilter("ignore", FutureWarning)
                client = _client_class(self.host)(host=self.host, existing_token=self.token or None)
                client.get_kfp_healthz()
                self._clients.append(client)
        return self._clients[0]

    def experiment_id(self) -> str:
        """Returns the id of imgpipe's experiment, or "" before the first run."""
        try:
            found = self.api.get_experiment(experiment_name=EXPERIMENT, namespace=self.namespace or None)
        except ValueError:
            return ""
        return str(found.experiment_id)


@contextlib.contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Raises our errors in place of the client's, and redirects what it prints to stderr.

    Args:
        action: What the block does, for the message, e.g. ``start the run``.
    """
    import kfp_server_api
    import urllib3

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except kfp_server_api.ApiException as error:
        if error.status and 300 <= error.status < 400:
            location = (error.headers or {}).get("Location", "").partition("?")[0]
            raise _login_required(action, f"it redirects to {location}") from None
        text = f"Kubeflow Pipelines refused to {action}: {error.reason}{_message(error.body)}"
        if error.status in (401, 403):
            raise UnavailableError(
                text, remedy="give a token with --token, or ask an administrator for the permission"
            ) from None
        if error.status == 404:
            raise MissingInputError(text, remedy="check the name and --host") from None
        if error.status and error.status < 500:
            raise InvalidArgumentError(text, remedy="correct what the message names") from None
        raise InterruptedRunError(
            text, remedy="try again; a run that was started is not started twice"
        ) from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise InterruptedRunError(
            f"cannot {action}: {type(error).__name__}",
            remedy="check --host, e.g. kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80",
        ) from None


def check_id(identifier: str | None, action: str) -> None:
    """Rejects a response without an id: the client reads an empty one from any HTML page."""
    if not identifier:
        raise _login_required(action, "the response contains no id")


def _login_required(action: str, reason: str) -> UnavailableError:
    return UnavailableError(
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
            config.retries = urllib3.Retry(1, redirect=0, raise_on_redirect=False)
            return config

        def get_kfp_healthz(self, *_: Any) -> Any:
            """Returns the installation's health, requested once."""
            if self._health is None:
                try:
                    self._health = self._healthz_api.healthz_service_get_healthz(
                        _request_timeout=_CONNECT_TIMEOUT_SECONDS
                    )
                except kfp_server_api.ApiException as error:
                    if error.status != 404:
                        raise
                    raise MissingInputError(
                        f"the server at --host={host} is not Kubeflow Pipelines: it has no {_HEALTH}",
                        remedy="give the full address of Kubeflow Pipelines, including its path, e.g. "
                        "https://HOST/pipeline",
                    ) from None
                if not _is_json_object(self._healthz_api.api_client.last_response.data):
                    raise _login_required(
                        f"connect to Kubeflow Pipelines at {host}", f"{_HEALTH} is an HTML page, not JSON"
                    )
            return self._health

    return Client


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


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
