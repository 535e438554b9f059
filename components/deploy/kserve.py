"""Deploys to Kubernetes as an InferenceService of KServe."""

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import not_
from pathlib import Path
from typing import Any, TypeVar

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.shared_arguments import KSERVE_TARGET
from imgpipe.components.common.verification import Verification, WrongAnswerError, read_verified_model
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment, DeploymentTarget
from imgpipe.components.deploy.server_answers import NoAnswerError, check_answers
from imgpipe.components.deploy.upload import read_uploaded_verification, upload_model
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.kserve import (
    FAILED,
    FINGERPRINT,
    KNATIVE,
    READY,
    STANDARD,
    STOP,
    InferenceService,
    address_inside,
    address_of_latest,
    deployment_mode,
    has_rolled_out_revision,
    has_same_pods,
    is_stopped,
    percent_of_latest,
    predictor_status,
    specified_uri,
)
from imgpipe.components.platforms.kubernetes.serving_runtimes import check_runtime
from imgpipe.components.platforms.kubernetes.storage_access import check_s3_access
from imgpipe.components.platforms.polling import poll
from imgpipe.components.storage import Location, parse_location

Result = TypeVar("Result")

POLL_SECONDS = 1.0
# For a server that is ready according to its probe: to load the model, and for requests to reach it.
ANSWER_SECONDS = 120.0
# Requests may still reach the pods of the previous model, until all nodes have the new routes.
ROUTING_SECONDS = 10.0
_CANARY = "canaryTrafficPercent"
_LOG_REMEDY = "see the log of the predictor's pod"


class NotVerifiedError(CheckFailedError):
    """The model may serve, but no request has reached it."""


@dataclass(frozen=True)
class _Rollout:
    """One change of a service: a specification, without its traffic, and what proves that it serves.

    Attributes:
        service: The service.
        spec: The specification.
        percent: The share of the requests that the model gets in the end.
        verification: The answers that it must give; None if they are not known.
        deadline: The limit of all waiting, a value of ``time.monotonic``.
        allow_unverified: Whether the specification stays if no request reaches its model.
    """

    service: InferenceService
    spec: dict[str, Any]
    percent: int
    verification: Verification | None
    deadline: float
    allow_unverified: bool = False

    def place(self) -> tuple[bool, bool]:
        """Makes the specification serve, and waits until its model has answered.

        With Knative, a new revision first answers without traffic, and then gets its share.

        Returns:
            Whether anything was changed, and whether the model has answered.

        Raises:
            CheckFailedError: if the model cannot be loaded, gives wrong answers, or is not ready in time.
            NotVerifiedError: if no request reaches it, and ``allow_unverified`` is not set.
        """
        current = self._call(self._read)
        is_new = not has_same_pods(current["spec"], self.spec)
        is_knative = deployment_mode(current) == KNATIVE
        if is_new:
            percent = 0 if is_knative and has_rolled_out_revision(current) else self.percent
            self._call(lambda: self.service.replace(with_percent(self.spec, percent)))
        is_verified = self.wait_for_answer(use_tag=is_knative)
        is_moved = is_knative and self._set_traffic()
        if is_moved and is_verified and self.percent == 100:
            is_verified = self.wait_for_answer(use_tag=False)
        return is_new or is_moved, is_verified

    def wait_for_answer(self, *, use_tag: bool) -> bool:
        """Waits until the model is ready and has answered correctly; returns whether it has answered.

        Args:
            use_tag: Asks the newest revision of Knative, whatever its traffic; else the service.
        """
        try:
            self._wait(self._answers_when_ready(use_tag=use_tag))
        except NotVerifiedError as error:
            if not self.allow_unverified:
                raise
            log_event("not_verified", f"deploy: {error.problem}", severity="WARNING")
            return False
        return self.verification is not None

    def is_answering(self) -> bool:
        """Returns whether the model answers correctly now, without waiting."""
        try:
            return self._answers_when_ready(use_tag=True)() == ""
        except PipelineError:
            return False

    def _set_traffic(self) -> bool:
        """Gives the newest revision of Knative its share, and waits until the status reports it."""
        current = self._call(self._read)
        is_changed = _percent(current["spec"]) != self.percent
        if is_changed:
            self._call(lambda: self.service.replace(with_percent(self.spec, self.percent)))
        expected = self.percent if has_rolled_out_revision(current) else 100

        def has_traffic() -> str:
            percent = percent_of_latest(self._read())
            return "" if percent == expected else f"the model gets {percent}% of the traffic"

        self._wait(has_traffic)
        return is_changed

    def _answers_when_ready(self, *, use_tag: bool) -> Callable[[], str]:
        """Returns a check: "" if the model is ready and has answered correctly, else what is missing."""
        ready_since: float | None = None

        def check() -> str:
            nonlocal ready_since
            state, reason = self.service.rollout(self.spec)
            if state == FAILED:
                raise CheckFailedError(f"the model cannot be served: {reason}", where=self.service.name)
            if state != READY:
                ready_since = None
                return reason
            if self.verification is None:
                return ""
            ready_since = ready_since or time.monotonic()
            waited = time.monotonic() - ready_since
            try:
                self._ask(use_tag=use_tag)
            except WrongAnswerError as error:
                if waited > ROUTING_SECONDS:
                    raise
                return error.problem
            except NoAnswerError as error:
                if waited > ANSWER_SECONDS and error.is_from_server:
                    raise WrongAnswerError(f"the model does not answer: {error}") from None
                if waited > ANSWER_SECONDS:
                    raise NotVerifiedError(
                        f"the model is not verified, because no request reaches it: {error}",
                        where=self.service.name,
                        remedy="allow requests from the pods of the step to the service (network policies, "
                        "service mesh), or set allow_unverified to deploy without this check",
                    ) from None
                return str(error)
            return ""

        return check

    def _ask(self, *, use_tag: bool) -> None:
        service = self._read()
        address, host = address_of_latest(service) if use_tag else ("", "")
        address = address or address_inside(service)
        if not address:
            raise NoAnswerError("the service has no address yet")
        assert self.verification is not None  # noqa: S101 - checked by the only caller
        check_answers(self.verification, address, self.service.model_name, host=host)

    def _read(self) -> dict[str, Any]:
        service = self.service.read()
        if service is None:
            raise CheckFailedError("the service was deleted", where=self.service.name)
        return service

    def _call(self, request: Callable[[], Result]) -> Result:
        return _until_response(request, self.deadline)

    def _wait(self, check: Callable[[], str]) -> None:
        """Repeats a check until it returns ""; an API server that does not respond is asked again."""
        last_reason = ""

        def check_and_log() -> str:
            nonlocal last_reason
            try:
                reason = check()
            except (InterruptedRunError, InvalidResponseError) as error:
                reason = error.problem
            if reason and reason != last_reason:
                log_event("waiting", f"deploy: waiting for {self.service.name}: {reason}")
            last_reason = reason
            return reason

        left = self.deadline - time.monotonic()
        try:
            poll(check_and_log, not_, first_pause=POLL_SECONDS, max_pause=POLL_SECONDS, timeout=left)
        except TimeoutError:
            raise CheckFailedError(
                f"the model was not ready in time: {last_reason}", where=self.service.name
            ) from None


def deploy_to_kserve(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Creates or changes the InferenceService, and waits until the new model itself has answered.

    The model's answers to the images of verification.json are compared with the evaluation's. If it does not
    give them, the service gets the specification back that was verified last, which must answer too; a
    service that has never served is deleted. With Knative, a new model gets no traffic before it has
    answered, and ``canary_percent`` is its share; deploying the same model again with 100 gives it all.

    Args:
        model_folder: The model that the export step published.
        arguments: ``deploy_dir`` (the folder in a bucket or on a volume), ``deploy_name``, ``namespace``, ...

    Raises:
        InvalidArgumentError: for a canary in Standard mode; nothing was changed.
        MissingInputError: if the export step did not write the model, or, for a model in S3, there is no
            ServiceAccount of that name.
        CheckFailedError: if the model's files were changed after the export, the runtime cannot load it, the
            service is stopped, or the model does not answer correctly; the message says which model serves.
        OutputError: if imgpipe did not create the service of that name.
        UnavailableError: if the cluster rejects a request.
        InterruptedRunError: if the cluster does not respond.
    """
    verification = read_verified_model(model_folder)
    digest = model_digest(model_folder)
    deadline = time.monotonic() + arguments.deploy_timeout_seconds
    cluster = connect("deploy to", arguments.namespace)
    service = InferenceService(cluster, arguments.resolved_name())
    current = _until_response(service.read, deadline)
    if current is not None:
        _check_mode(deployment_mode(current), arguments, service.name)
        _check_runs(current, service)
    model = current["spec"].get("predictor", {}).get("model") or {} if current else {}
    _until_response(lambda: check_runtime(cluster, model_folder, arguments.serving_image, model), deadline)
    if arguments.deploy_dir.startswith("s3://"):
        _until_response(lambda: check_s3_access(cluster, arguments.serving_service_account), deadline)
    storage_uri = upload_model(model_folder, arguments.deploy_dir, digest)
    record = parse_location(arguments.deploy_dir) / f"deployments/{service.name}.json"
    recorded = _read_record(record)
    spec = _specification(current["spec"] if current else {}, arguments, storage_uri)
    percent = _wanted_percent(current, spec, arguments)
    rollout = _Rollout(service, spec, percent, verification, deadline, arguments.allow_unverified)
    previous = None if current is None else _previous(service, current, spec, recorded, deadline)
    is_created = current is None
    try:
        if is_created:
            _until_response(lambda: service.create(spec), deadline)
            changed, is_verified = True, rollout.wait_for_answer(use_tag=False)
        else:
            changed, is_verified = rollout.place()
    except PipelineError as error:
        raise _roll_back(rollout, previous, error, arguments, is_created=is_created) from None
    except Exception:
        raise
    except BaseException:
        # SIGTERM or Ctrl-C, which may arrive while a connection is taken from the pool, whose lock then stays
        # held: with new connections.
        _restore_before_exit(_service(arguments), spec, previous)
        raise
    placed = with_percent(spec, percent)
    if is_verified and (recorded is None or not _is_same(recorded, placed)):
        record.write(json.dumps({"verified": placed}, indent=1).encode() + b"\n")
    return _deployment(rollout, arguments, digest, changed=changed, is_verified=is_verified)


def find_kserve_model(target: DeploymentTarget) -> str:
    """Returns the storage URI of the model that answers most requests of the InferenceService now.

    It is read from the ready pods (Standard) or from the traffic and the revisions (Knative), not from the
    specification. If several models serve, the log names them with their shares; of models with the same
    share, the oldest is returned.

    Args:
        target: Namespace and name of the service.

    Raises:
        MissingInputError: if there is no such service.
        OutputError: if imgpipe did not create it.
        UnavailableError: if no model serves, or the cluster rejects the request.
        InterruptedRunError: if the cluster does not respond.
    """
    service = _service(target)
    if service.read() is None:
        raise MissingInputError(
            f"there is no InferenceService {service.name}",
            remedy="check deploy_name and namespace; before the first deployment there is no model",
        )
    served = service.served_models()
    if not served:
        raise UnavailableError(
            f"the InferenceService {service.name} does not serve: the pods of the model that gets its "
            "requests are not ready",
            remedy="see the log of the predictor's pod, and start the step again once the service is ready",
        )
    if len(served) > 1:
        shares = ", ".join(f"{model.storage_uri} with {model.percent:.0f}%" for model in served)
        log_event("several_models_serve", f"{service.name} serves {len(served)} models: {shares}")
    return served[0].storage_uri


def _check_mode(mode: str, arguments: DeployArguments, name: str) -> None:
    if mode not in (STANDARD, KNATIVE, ""):
        raise InvalidArgumentError(
            f"{name} has the deployment mode {mode}", remedy="use a service in Standard or Knative mode"
        )
    if arguments.canary_percent < 100 and mode != KNATIVE:
        shown = f"{name} is in Standard mode" if mode else f"the deployment mode of {name} is not known"
        raise InvalidArgumentError(
            f"canary_percent={arguments.canary_percent} requires Knative, but {shown}: all requests would "
            "get the new model",
            remedy="deploy with canary_percent=100, deploy the new model as a second service with another "
            "deploy_name, or install Knative",
        )


def _check_runs(current: dict[str, Any], service: InferenceService) -> None:
    if is_stopped(current):
        raise CheckFailedError(
            f"{service.name} is stopped by its annotation {STOP}: no pod would start",
            remedy=f"run `kubectl annotate inferenceservice {service.model_name} {STOP}- "
            f"--namespace={service.namespace}`",
        )


def _service(target: DeploymentTarget) -> InferenceService:
    return InferenceService(connect("deploy to", target.namespace), target.resolved_name())


def _specification(current: dict[str, Any], arguments: DeployArguments, storage_uri: str) -> dict[str, Any]:
    """Returns a specification with our fields set, and the other fields of the current one."""
    spec = copy.deepcopy(current)
    predictor = spec.setdefault("predictor", {})
    model = predictor.setdefault("model", {})
    model.update(modelFormat={"name": "tensorflow"}, storageUri=storage_uri)
    ours = {"image": arguments.serving_image, "serviceAccountName": arguments.serving_service_account}
    for owner, name in ((model, "image"), (predictor, "serviceAccountName")):
        if ours[name]:
            owner[name] = ours[name]
        else:
            owner.pop(name, None)
    predictor.pop(_CANARY, None)
    # It identifies the pods of these fields, also if only the image was changed.
    fingerprint = hashlib.sha256(json.dumps([storage_uri, ours], sort_keys=True).encode()).hexdigest()[:16]
    predictor["annotations"] = {**(predictor.get("annotations") or {}), FINGERPRINT: fingerprint}
    return spec


def _wanted_percent(current: dict[str, Any] | None, spec: dict[str, Any], arguments: DeployArguments) -> int:
    """Returns the share of the requests for a specification: all that it has already, else the canary's.

    Beside a revision that has all traffic, KServe has none to give the rest to, or takes the one before.
    """
    if current is None:
        return 100
    if has_same_pods(current["spec"], spec) and _percent(current["spec"]) == 100:
        if arguments.canary_percent < 100:
            log_event("canary_kept", "deploy: the model already gets all requests: its share stays 100%")
        return 100
    return arguments.canary_percent


def with_percent(spec: dict[str, Any], percent: int) -> dict[str, Any]:
    """Returns a specification with another share of the traffic for its model."""
    changed = copy.deepcopy(spec)
    changed["predictor"].pop(_CANARY, None)
    if percent < 100:
        changed["predictor"][_CANARY] = percent
    return changed


def _is_same(spec: dict[str, Any], other: dict[str, Any]) -> bool:
    """Returns whether two specifications have the same model, settings and share of the traffic."""
    return has_same_pods(spec, other) and _percent(spec) == _percent(other)


def _percent(spec: dict[str, Any]) -> int:
    percent = spec.get("predictor", {}).get(_CANARY)
    return 100 if percent is None else int(percent)


def _read_record(record: Location) -> dict[str, Any] | None:
    """Returns the specification of a service that was verified last; None if there is no record.

    The record is a small file beside the models. Not an annotation of the service: annotations are copied to
    the pods, so that writing one restarts them.
    """
    try:
        spec = json.loads(record.read())["verified"]
    except (MissingInputError, FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return spec if isinstance(spec, dict) else None


def _previous(
    service: InferenceService,
    current: dict[str, Any],
    spec: dict[str, Any],
    recorded: dict[str, Any] | None,
    deadline: float,
) -> dict[str, Any] | None:
    """Returns the specification to restore if the new model fails; None if none has ever served.

    It is the current one, unless a deployment that was interrupted has left it there without verifying it.
    """
    found: dict[str, Any] = current["spec"]
    if recorded is None:
        return None if has_same_pods(found, spec) else found
    if _is_same(found, recorded):
        return found
    if has_same_pods(found, spec) or _percent(found) == 0:
        return recorded
    verification = read_uploaded_verification(specified_uri(found))
    is_in_use = _Rollout(service, found, _percent(found), verification, deadline).is_answering()
    return found if is_in_use else recorded


def _roll_back(
    rollout: _Rollout,
    previous: dict[str, Any] | None,
    error: PipelineError,
    arguments: DeployArguments,
    *,
    is_created: bool,
) -> PipelineError:
    """Restores the previous specification, verifies its model, and returns the error of the step."""
    name = rollout.service.name
    deadline = time.monotonic() + arguments.deploy_timeout_seconds
    uri = specified_uri(previous) if previous else ""
    try:
        if not _has_specification(rollout, deadline):
            # Another client has created, changed or deleted it: there is nothing of ours to undo.
            return error
        if previous is None:
            result = _withdraw(rollout.service, error, deadline, is_created=is_created)
        elif has_same_pods(previous, rollout.spec) and _percent(previous) == rollout.percent:
            # There is no other model: waiting for it once more would change nothing.
            return CheckFailedError(
                f"{name} serves the same model as before, but {error.problem}",
                where=error.where,
                remedy=f"{error.remedy or _LOG_REMEDY}; the service was not changed",
            )
        else:
            restored = _Rollout(
                rollout.service,
                with_percent(previous, 100),
                _percent(previous),
                read_uploaded_verification(uri),
                deadline,
                allow_unverified=True,
            )
            _, answers = restored.place()
            result = f"{uri} serves again" + (
                " and answers" if answers else ", but its answers were not checked"
            )
    except PipelineError as failure:
        log_event("rollback_failed", f"deploy: {failure.problem}", severity="ERROR", serving=uri)
        return CheckFailedError(
            f"{name} has failed: {error.problem}; and it could not be rolled back: {failure.problem}",
            where=error.where,
            remedy=f"check the service with kubectl; {uri or 'no model'} served before",
        )
    log_event("rolled_back", f"deploy: {name}: {result}", severity="WARNING", serving=uri)
    return CheckFailedError(
        f"{name} was rolled back: {error.problem}",
        where=error.where,
        remedy=f"{error.remedy or _LOG_REMEDY}; {result}",
    )


def _has_specification(rollout: _Rollout, deadline: float) -> bool:
    """Returns whether the service exists, is imgpipe's, and has the specification of a rollout."""
    try:
        current = _until_response(rollout.service.read, deadline)
    except OutputError:
        return False
    return current is not None and has_same_pods(current["spec"], rollout.spec)


def _withdraw(service: InferenceService, error: PipelineError, deadline: float, *, is_created: bool) -> str:
    """Deletes a service that no verified model has served, and returns what was done.

    A service that existed before this step is kept while its pods may serve: its record may have been lost.
    """
    if not is_created and not isinstance(error, WrongAnswerError):
        is_serving = bool(_until_response(service.served_models, deadline))
        if isinstance(error, NotVerifiedError) or is_serving:
            return "the service was not changed"
    _until_response(service.delete, deadline)
    return "no model served before, and the service was deleted"


def _restore_before_exit(
    service: InferenceService, spec: dict[str, Any], previous: dict[str, Any] | None
) -> None:
    """Restores what served before, without waiting: the step has seconds until it is killed.

    A new revision of Knative stays, without traffic: a restarted step continues with it.
    """
    current = service.read()
    if current is None or not has_same_pods(current["spec"], spec):
        return
    if previous is None:
        service.delete()
        return
    is_new = not has_same_pods(previous, spec)
    if is_new and deployment_mode(current) == KNATIVE and has_rolled_out_revision(current):
        restored, result = with_percent(spec, 0), f"the new model of {service.name} gets no requests"
    else:
        restored = previous
        result = f"{service.name} has the specification of {specified_uri(previous)} again"
    if not _is_same(current["spec"], restored):
        service.replace(restored)
    log_event(
        "rolled_back",
        f"deploy: the step was terminated: {result}",
        severity="WARNING",
        serving=specified_uri(previous),
    )


def _until_response(request: Callable[[], Result], deadline: float) -> Result:
    """Repeats a request until the API server responds or the deadline has passed."""
    return poll(
        request,
        lambda _: True,
        first_pause=POLL_SECONDS,
        max_pause=POLL_SECONDS,
        silence_limit=deadline - time.monotonic(),
    )


def _deployment(
    rollout: _Rollout, arguments: DeployArguments, digest: str, *, changed: bool, is_verified: bool
) -> Deployment:
    deadline = time.monotonic() + arguments.deploy_timeout_seconds
    current = _until_response(rollout.service.read, deadline)
    if current is None:
        raise CheckFailedError("the service was deleted", where=rollout.service.name)
    revision = predictor_status(current).get("latestReadyRevision")
    # In Standard mode, all pods that get requests have this model.
    percent = 100
    if revision:
        # The rest beside a canary may go to an older revision of the same model.
        uri = specified_uri(rollout.spec)
        served = _until_response(rollout.service.served_models, deadline)
        percents = [round(model.percent) for model in served if model.storage_uri == uri]
        percent = percents[0] if percents else percent_of_latest(current)
    url = (current.get("status") or {}).get("url") or address_inside(current)
    return Deployment(
        target=KSERVE_TARGET,
        name=rollout.service.name,
        version=str(revision or current["metadata"].get("generation", 1)),
        location=str(url),
        traffic_percent=percent,
        changed=changed,
        model_digest=digest,
        verified=is_verified,
    )
