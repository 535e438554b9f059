"""Random deployments to KServe: whatever happens, what a step reports is what serves."""

import contextlib
import random
import re
import shutil
import threading
import time

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.deploy import kserve
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.platforms.kubernetes.kserve import InferenceService
from tests.servers.kserve import (
    CRASHES,
    EARLY_PORT,
    KNATIVE,
    NEVER_READY,
    NO_SIGNATURE,
    OTHER_ANSWERS,
    OTHER_LABELS,
    STANDARD,
)

GOOD, SLOW, CANARY, DAMAGED, KILLED, TERMINATED, SILENT = (
    "good",
    "slow",
    "canary",
    "damaged in the artifact",
    "killed",
    "terminated",
    "API server is silent",
)
BROKEN = (CRASHES, NO_SIGNATURE, OTHER_ANSWERS, OTHER_LABELS, NEVER_READY)
EVENTS = (GOOD, SLOW, EARLY_PORT, CANARY, DAMAGED, KILLED, TERMINATED, SILENT, *BROKEN)


class KilledError(BaseException):
    """The step's process ends here."""


class Deployments:
    """Deploys at random, and compares every report with what the cluster serves."""

    def __init__(self, seed, mode, cluster, on_kserve, models, folder, monkeypatch):
        self.draw = random.Random(seed)  # noqa: S311 - not for secrets
        self.mode, self.cluster, self.settings = mode, cluster, on_kserve
        self.models, self.folder, self.monkeypatch = models, folder, monkeypatch
        self.uris = [f"{on_kserve['deploy_dir']}/{model_digest(model)[:16]}" for model in models]
        cluster.mode = mode
        self.has_served = False

    def run(self, event):
        """Runs one event, and returns what is wrong afterwards; "" if nothing is."""
        cluster, number = self.cluster, self.draw.randrange(len(self.models))
        uri = self.uris[number]
        is_new = uri not in cluster.answering()
        cluster.behaviours = {uri: event} if is_new and event in (*BROKEN, EARLY_PORT) else {}
        cluster.start_seconds = 0.4 if event == SLOW else 0.05
        percent = self.draw.choice((10, 40, 60)) if event == CANARY else 100
        if event in (KILLED, TERMINATED):
            self.kill(number, is_terminated=event == TERMINATED)
            # The platform starts the step again.
        if event == SILENT:
            threading.Timer(self.draw.uniform(0, 0.1), self.be_silent).start()
        try:
            report = self.deploy(self.models[number], event, percent)
        except PipelineError as error:
            return self.check_failed(error, event, is_new=is_new)
        return self.check_served(report, uri, percent, event, is_new=is_new)

    def deploy(self, model, event, percent):
        if event == DAMAGED:
            model = shutil.copytree(model, self.folder / f"damaged-{time.monotonic_ns()}")
            (model / "saved_model.pb").write_bytes((model / "saved_model.pb").read_bytes()[:1000])
        timeout = 1 if event == NEVER_READY else 20
        arguments = DeployArguments(**self.settings, canary_percent=percent, deploy_timeout_seconds=timeout)
        return kserve.deploy_to_kserve(model, arguments)

    def be_silent(self):
        self.cluster.unavailable = True
        time.sleep(0.3)
        self.cluster.unavailable = False

    def kill(self, number, *, is_terminated):
        """Ends the step while it waits, or just before or after a change of the service."""
        remaining = self.draw.randrange(-2, 8)
        sleep, replace = time.sleep, InferenceService.replace

        def sleep_or_end(seconds):
            nonlocal remaining
            if threading.current_thread() is threading.main_thread():
                remaining -= 1
                if remaining == 0:
                    raise KilledError
            sleep(seconds)

        def replace_or_end(service, spec):
            if remaining == -2:
                raise KilledError
            replace(service, spec)
            if remaining == -1:
                raise KilledError

        with self.monkeypatch.context() as patched:
            patched.setattr(time, "sleep", sleep_or_end)
            if remaining < 0:
                patched.setattr(InferenceService, "replace", replace_or_end)
            if not is_terminated:
                patched.setattr(kserve, "_restore_before_exit", lambda *_: None)
            with contextlib.suppress(KilledError):
                self.deploy(self.models[number], KILLED, 100)

    def check_served(self, report, uri, percent, event, *, is_new):
        self.has_served = True
        answering = self.cluster.answering()
        expected = 100 if len(answering) == 1 else percent
        if is_new and event in (*BROKEN, DAMAGED):
            return f"reported as served: {event}"
        if not report.verified:
            return "not verified"
        if report.traffic_percent != answering.get(uri) or answering.get(uri) != expected:
            return f"reported {report.traffic_percent} % for {uri}, but {answering} answers"
        return self.check_champion(answering)

    def check_failed(self, error, event, *, is_new):
        answering = self.cluster.answering()
        is_refused = isinstance(error, InvalidArgumentError) and self.mode == STANDARD and event == CANARY
        if not (is_refused or event == DAMAGED or (is_new and event in BROKEN)):
            return f"failed: {error}"
        if not self.has_served:
            return f"an unverified model serves: {answering}" if answering else ""
        said = re.search(r"(gs://\S+) serves again and answers", str(error))
        if said and said[1] not in answering:
            return f"said that {said[1]} serves, but {answering} answers"
        return self.check_champion(answering)

    def check_champion(self, answering):
        if not answering:
            return "no model answers"
        found = kserve.find_kserve_model(DeployArguments(**self.settings))
        if answering.get(found) != max(answering.values()):
            return f"the champion is {found}, but {answering} answers"
        return ""


def check_random_deployments(count, seed, *arguments):
    deployments = Deployments(seed, *arguments)
    wrong = []
    for number in range(count):
        event = deployments.draw.choice(EVENTS)
        if problem := deployments.run(event):
            wrong.append((number, event, problem))
    assert wrong == []


@pytest.mark.parametrize("mode", [KNATIVE, STANDARD])
def test_every_report_equals_what_serves(mode, cluster, on_kserve, models, tmp_path, monkeypatch):
    check_random_deployments(15, 1, mode, cluster, on_kserve, models, tmp_path, monkeypatch)


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
@pytest.mark.parametrize("mode", [KNATIVE, STANDARD])
def test_every_report_of_200_equals_what_serves(
    mode, seed, cluster, on_kserve, models, tmp_path, monkeypatch
):
    """A quarter of them each, so that a part can be run alone."""
    check_random_deployments(50, seed, mode, cluster, on_kserve, models, tmp_path, monkeypatch)
