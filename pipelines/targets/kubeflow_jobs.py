"""The runs and recurring runs of a Kubeflow Pipelines installation."""

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    UnavailableError,
)
from imgpipe.pipelines.targets.jobs import ENDED, Job, Schedule, no_such_job, only_schedule

_EXPERIMENT = "imgpipe"
_PODS_NAMESPACE = "kubeflow"
_SECONDS_BETWEEN_QUESTIONS = 3.0
# KFP's client leaves a number with a fraction unheeded.
_SECONDS_TO_ANSWER = 10
_HEALTH = "/apis/v2beta1/healthz"
_STATES = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING", None: "PENDING"}
_SCHEDULE_STATES = {"ENABLED": "ACTIVE", "DISABLED": "PAUSED"}


@dataclass
class KubeflowJobs:
    """The runs of imgpipe on an installation.

    Attributes:
        host: Address of its interface, e.g. ``http://localhost:8080`` of a port-forward.
        namespace: Of the user, where the installation has several; empty = it has one, and the pods are in
            ``kubeflow``.
        token: Bearer token, if the installation asks for one.
        pause: Waits between questions.
    """

    host: str
    namespace: str = ""
    token: str = ""
    pause: Callable[[float], None] = time.sleep
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def client(self) -> Any:
        """Returns the client, made once.

        Raises:
            InterruptedRunError: if the installation cannot be reached.
            UnavailableError: if it wants a token, or shows a page to log in.
            MissingInputError: if something else answers at the address.
        """
        if "client" not in self._kept:
            reaching = f"reach Kubeflow Pipelines at {self.host}"
            with _explained(reaching), warnings.catch_warnings(), _no_log():
                # That it works with version 2 alone.
                warnings.simplefilter("ignore", FutureWarning)
                made = _client_class(self.host)(host=self.host, existing_token=self.token or None)
                made.get_kfp_healthz()
                self._kept["client"] = made
        return self._kept["client"]

    def submit(
        self,
        job_id: str,
        parameters: Mapping[str, Any],
        pipeline_file: Path,
        *,
        service_account: str = "",
        pipeline_root: str = "",
    ) -> tuple[Job, bool]:
        """Starts a run of the pipeline, unless it was started before.

        Args:
            job_id: Its name.
            parameters: Of the pipeline; what is left out has its default.
            pipeline_file: The compiled pipeline.
            service_account: Of the pods; empty = the installation's.
            pipeline_root: For the artifacts; empty = the installation's.

        Returns:
            The job, and whether it was found rather than started.

        Raises:
            InvalidArgumentError: if a run of the name has another pipeline, image, argument, account or root.
            UnavailableError: if a page to log in answers.
        """
        found = self._run_named(job_id)
        if found is not None:
            different = _differences(found, parameters, pipeline_file, service_account, pipeline_root)
            if different:
                raise InvalidArgumentError(
                    f"the job id {job_id!r} was used for another request: with another {different}",
                    where=found.run_id,
                    remedy="give a new job id, or look at the old one with `imgpipe describe`",
                )
            return _described(found), True
        with _explained("start the run"):
            started = self.client.create_run_from_pipeline_package(
                str(pipeline_file),
                arguments=dict(parameters),
                run_name=job_id,
                experiment_name=_EXPERIMENT,
                namespace=self.namespace or None,
                service_account=service_account or None,
                pipeline_root=pipeline_root or None,
            )
            _check_id(started.run_info.run_id, "start the run")
        return _described(started.run_info), False

    def describe(self, job_id: str) -> Job:
        """Returns the run of a name, or of an id."""
        return _described(self._found(job_id))

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest runs of imgpipe's experiment, newest first."""
        with _explained("list the runs"):
            experiment = self._experiment()
            if not experiment:
                return []
            listed = self.client.list_runs(
                page_size=limit,
                sort_by="created_at desc",
                experiment_id=experiment,
                namespace=self.namespace or None,
            )
        return [_described(run) for run in listed.runs or []]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the output of the run's steps, as Kubernetes has it while the pods are there."""
        run = self._found(job_id)
        shown: dict[str, list[str]] = {}
        while True:
            ended = _described(run).state in ENDED
            for pod in self._pods(run.run_id):
                lines = self._log_of(pod)
                if lines is None:
                    continue
                before = shown.get(pod, [])
                # The node begins a new file when one is full: its first lines are others.
                yield from lines[len(before) if lines[: len(before)] == before else 0 :]
                shown[pod] = lines
            if ended or not follow:
                return
            self.pause(_SECONDS_BETWEEN_QUESTIONS)
            run = self._found(run.run_id)

    def cancel(self, job_id: str) -> None:
        """Stops the run; one that has ended is left alone."""
        run = self._found(job_id)
        if _described(run).state not in ENDED:
            with _explained(f"cancel {job_id}"):
                self.client.terminate_run(run.run_id)

    def create_schedule(
        self,
        name: str,
        cron: str,
        parameters: Mapping[str, Any],
        pipeline_file: Path,
        *,
        service_account: str = "",
        pipeline_root: str = "",
    ) -> tuple[Schedule, bool]:
        """Starts a recurring run; the arguments are as in ``submit``, ``cron`` has five fields.

        Returns:
            The schedule, and whether it was found rather than made.

        Raises:
            InvalidArgumentError: if there is one of that name for other runs, or if there are several.
            UnavailableError: if a page to log in answers.
        """
        named = [one for one in self._recurring_runs() if one.display_name == name]
        if named:
            only = only_schedule(name, [_schedule(one) for one in named], self.host)
            different = _differences(named[0], parameters, pipeline_file, service_account, pipeline_root)
            if only.cron != cron:
                different = " and ".join(filter(None, ("time", different)))
            if different:
                raise InvalidArgumentError(
                    f"there is a schedule {name!r} already, with another {different}",
                    where=only.resource,
                    remedy="delete it first, or give another name",
                )
            return only, True
        with _explained("create the recurring run"):
            experiment = self.client.create_experiment(_EXPERIMENT, namespace=self.namespace or None)
            _check_id(experiment.experiment_id, "create the experiment")
            created = self.client.create_recurring_run(
                experiment_id=experiment.experiment_id,
                job_name=name,
                **recurrence(cron),
                params=dict(parameters),
                pipeline_package_path=str(pipeline_file),
                service_account=service_account or None,
                pipeline_root=pipeline_root or None,
            )
            _check_id(created.recurring_run_id, "create the recurring run")
        return _schedule(created), False

    def list_schedules(self) -> list[Schedule]:
        """Returns the recurring runs of imgpipe's experiment."""
        return [_schedule(one) for one in self._recurring_runs()]

    def _recurring_runs(self) -> list[Any]:
        found: list[Any] = []
        token = ""
        with _explained("list the recurring runs"):
            experiment = self._experiment()
            while experiment:
                page = self.client.list_recurring_runs(
                    page_token=token,
                    page_size=100,
                    experiment_id=experiment,
                    namespace=self.namespace or None,
                )
                found += page.recurring_runs or []
                token = page.next_page_token or ""
                if not token:
                    break
        return found

    def pause_schedule(self, name: str) -> None:
        """Starts no more runs until it is resumed."""
        resource = self._schedule_named(name)
        with _explained(f"pause {name}"):
            self.client.disable_recurring_run(resource)

    def resume_schedule(self, name: str) -> None:
        """Starts runs again, without those that were missed."""
        resource = self._schedule_named(name)
        with _explained(f"resume {name}"):
            self.client.enable_recurring_run(resource)

    def delete_schedule(self, name: str) -> None:
        """Removes the recurring run; runs that were started go on."""
        resource = self._schedule_named(name)
        with _explained(f"delete {name}"):
            self.client.delete_recurring_run(resource)

    def _schedule_named(self, name: str) -> str:
        return only_schedule(name, self.list_schedules(), self.host).resource

    def _experiment(self) -> str:
        """Returns the id of imgpipe's experiment, or "" if nothing was ever started."""
        try:
            found = self.client.get_experiment(experiment_name=_EXPERIMENT, namespace=self.namespace or None)
        except ValueError:
            return ""
        return str(found.experiment_id)

    def _run_named(self, job_id: str) -> Any | None:
        with _explained("list the runs"):
            experiment = self._experiment()
            if not experiment:
                return None
            predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": job_id}
            listed = self.client.list_runs(
                sort_by="created_at desc",
                experiment_id=experiment,
                namespace=self.namespace or None,
                filter=json.dumps({"predicates": [predicate]}),
            )
        return next((run for run in listed.runs or [] if run.display_name == job_id), None)

    def _found(self, job_id: str) -> Any:
        run = self._run_named(job_id)
        if run is not None:
            return run
        try:
            with _explained(f"read {job_id}"):
                run = self.client.get_run(job_id)
                _check_id(run.run_id, f"read {job_id}")
                return run
        except (MissingInputError, InvalidArgumentError):
            raise no_such_job(job_id, self.host) from None

    def _core(self) -> Any:
        """Returns the client of Kubernetes itself, of which alone a pod's output can be had."""
        if "core" not in self._kept:
            try:
                from kubernetes import client, config
            except ImportError:
                raise UnavailableError(
                    "the client library of Kubernetes is not installed",
                    remedy="pip install 'image-classification-pipeline[katib]'",
                ) from None
            try:
                self._kept["core"] = client.CoreV1Api(config.new_client_from_config())
            except (config.ConfigException, yaml.YAMLError) as error:
                raise UnavailableError(
                    f"the logs lie in the cluster, and there is no access to it here: {error}",
                    remedy="set KUBECONFIG, or open the run in Kubeflow's own pages",
                ) from None
        return self._kept["core"]

    def _pods(self, run_id: str) -> list[str]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            listed = self._core().list_namespaced_pod(
                self.namespace or _PODS_NAMESPACE, label_selector=f"pipeline/runid={run_id}"
            )
        except ApiException as error:
            raise UnavailableError(
                f"the cluster refused to list the run's pods: {error.reason}",
                where=f"namespace {self.namespace or _PODS_NAMESPACE}",
                remedy="name the runs' namespace with --namespace, and have the right to list pods there",
            ) from None
        except HTTPError as error:
            raise InterruptedRunError(
                f"the cluster that KUBECONFIG names does not answer: {type(error).__name__}",
                remedy="check it with `kubectl get pods`, and try again; the run goes on meanwhile",
            ) from None
        pods = sorted(listed.items, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        # Kubeflow's own pods between the steps say nothing of the training.
        return [pod.metadata.name for pod in pods if "-driver-" not in pod.metadata.name]

    def _log_of(self, pod: str) -> list[str] | None:
        """Returns a pod's lines; None if they are not to be had now."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            text = self._core().read_namespaced_pod_log(
                pod, self.namespace or _PODS_NAMESPACE, container="main"
            )
        except (ApiException, HTTPError):
            # It has not begun, or is gone, or its node is silent for a moment.
            return None
        return str(text).splitlines()


def recurrence(cron: str) -> dict[str, Any]:
    """Returns when a recurring run starts, as the client wants it; ``cron`` has five fields."""
    return {
        # Kubeflow's cron begins with the seconds.
        "cron_expression": f"0 {cron}",
        "max_concurrency": 1,
        # A cluster that was off for a week does not train seven times when it comes back.
        "no_catchup": True,
    }


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns the client's errors into ours, and keeps what it prints out of our output."""
    import kfp_server_api
    import urllib3

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except kfp_server_api.ApiException as error:
        if error.status and 300 <= error.status < 400:
            location = (error.headers or {}).get("Location", "").partition("?")[0]
            raise _asks_for_login(what, f"it leads on to {location}") from None
        text = f"Kubeflow Pipelines refused to {what}: {error.reason}{_told(error.body)}"
        if error.status in (401, 403):
            raise UnavailableError(text, remedy="give a token with --token, or ask for the rights") from None
        if error.status == 404:
            raise MissingInputError(text, remedy="check the name and the address") from None
        if error.status and error.status < 500:
            raise InvalidArgumentError(text, remedy="correct what it says") from None
        raise InterruptedRunError(text, remedy="try again; a run that was started is found again") from None
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise InterruptedRunError(
            f"cannot {what}: {type(error).__name__}",
            remedy="check --host, e.g. kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80",
        ) from None


def _asks_for_login(what: str, how: str) -> UnavailableError:
    return UnavailableError(
        f"cannot {what}: it asks for a login: {how}",
        remedy="give --token (better KFP_TOKEN); if that is no page to log in, check the address in --host",
    )


def _check_id(identifier: str | None, what: str) -> None:
    """Refuses an answer without an id: the client makes an empty one of any page."""
    if not identifier:
        raise _asks_for_login(what, "the answer names no id")


def _client_class(host: str) -> Any:
    """Returns KFP's client, made to ask once and shortly whether the installation answers.

    By itself it goes on asking for minutes, and follows a redirection to a page for logging in. Everything
    else stays its own: the token or the cookie by which it is let in, and the way there.
    """
    # Imported here: it takes seconds to load.
    import kfp
    import kfp_server_api
    import urllib3

    class Client(kfp.Client):
        _health: Any = None

        def _load_config(self, *values: Any, **named: Any) -> Any:
            config = super()._load_config(*values, **named)
            config.retries = urllib3.Retry(1, redirect=0, raise_on_redirect=False)
            return config

        def get_kfp_healthz(self, *_: Any) -> Any:
            """Returns what the installation says of itself; it is asked once."""
            if self._health is None:
                try:
                    self._health = self._healthz_api.healthz_service_get_healthz(
                        _request_timeout=_SECONDS_TO_ANSWER
                    )
                except kfp_server_api.ApiException as error:
                    if error.status != 404:
                        raise
                    raise MissingInputError(
                        f"what answers at --host={host} is not Kubeflow Pipelines: it has no {_HEALTH}",
                        remedy="give the address of its interface, the whole one if it lies below a path, "
                        "e.g. https://HOST/pipeline",
                    ) from None
                if not _is_json_object(self._healthz_api.api_client.last_response.data):
                    raise _asks_for_login(
                        f"reach Kubeflow Pipelines at {host}", f"{_HEALTH} is a page and not JSON"
                    )
            return self._health

    return Client


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@contextlib.contextmanager
def _no_log() -> Iterator[None]:
    """Keeps the client's stack traces of what is explained out of our output."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _told(body: Any) -> str:
    try:
        return f" ({json.loads(body)['message']})"
    except (ValueError, LookupError, TypeError):
        return ""


def _differences(
    found: Any, parameters: Mapping[str, Any], pipeline_file: Path, service_account: str, pipeline_root: str
) -> str:
    """Returns in what a run or a recurring run differs from what is asked for; "" if in nothing.

    An account and a root that are not given are the installation's, which fills them in: anything goes then.
    The pipeline's text is compared in what a run depends on: the installation may write the rest otherwise.
    """
    config = found.runtime_config
    wanted, held = _told_by(_specification(pipeline_file)), _told_by(found.pipeline_spec)
    compared = {
        # Without its text it is one that was uploaded there.
        **{name: (held[name], value) for name, value in wanted.items() if held},
        "set of parameters": (dict((config and config.parameters) or {}), dict(parameters)),
        "service account": (found.service_account if service_account else "", service_account),
        "pipeline root": ((config and config.pipeline_root) if pipeline_root else "", pipeline_root),
    }
    return " and ".join(name for name, (one, other) in compared.items() if one != other)


def _specification(pipeline_file: Path) -> Any:
    with pipeline_file.open(encoding="utf-8") as stream:
        # The second document is that of the platform.
        return next(iter(yaml.safe_load_all(stream)))


def _told_by(text: Any) -> dict[str, Any]:
    """Returns the pipeline's name, its images and its defaults; {} if there is no text."""
    if not isinstance(text, Mapping):
        return {}
    spec = text.get("pipeline_spec", text)
    if "pipelineInfo" not in spec:
        return {}
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    inputs = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return {
        "pipeline": spec["pipelineInfo"].get("name"),
        "set of images": {name: one.get("container", {}).get("image") for name, one in executors.items()},
        "set of defaults": {name: one.get("defaultValue") for name, one in inputs.items()},
    }


def _described(run: Any) -> Job:
    steps = {}
    for task in (run.run_details.task_details if run.run_details else None) or []:
        steps[task.display_name] = _STATES.get(task.state, task.state)
    return Job(
        job_id=run.display_name,
        target="kubeflow",
        kind="pipeline run",
        state=_STATES.get(run.state, run.state),
        name=run.run_id,
        created=_time(run.created_at),
        ended=_time(run.finished_at),
        error=run.error.message if run.error else "",
        details={"steps": steps},
    )


def _schedule(recurring: Any) -> Schedule:
    cron = recurring.trigger.cron_schedule.cron if recurring.trigger.cron_schedule else ""
    return Schedule(
        name=recurring.display_name,
        target="kubeflow",
        state=_SCHEDULE_STATES.get(recurring.status, recurring.status or "ACTIVE"),
        cron=cron.split(" ", 1)[1] if len(cron.split()) == 6 else cron,
        resource=recurring.recurring_run_id,
    )


def _time(value: Any) -> str:
    # The interface writes the beginning of time for "not yet".
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value and value.year > 1970 else ""
