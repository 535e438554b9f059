"""Katib 0.19 on loopback: controllers, suggestion services, medianstop, pods of trials with the collector.

Where it refuses, rewrites or delays, a comment names the file of github.com/kubeflow/katib v0.19.0. A trial
runs the command as changed by Katib's webhook.
"""

import itertools
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kubeflow_katib_api import models
from kubernetes import client

from imgpipe.components.common.log import LOG_FORMAT_VARIABLE

from .kubeflow import KubeflowServer, start_kubeflow_server
from .processes import end_process, start_process

RESOURCE_PATH = re.compile(
    r"/apis/kubeflow\.org/v1beta1/namespaces/([^/]+)/(experiments|trials|suggestions)(?:/([^/]+))?"
)
WORKFLOW_PATH = re.compile(r"/apis/argoproj\.io/v1alpha1/namespaces/[^/]+/workflows/([^/]+)")
PODS_PATH = re.compile(r"/api/v1/namespaces/[^/]+/pods(?:/([^/]+))?(/log)?")
EVENTS_PATH = re.compile(r"/api/v1/namespaces/[^/]+/events")
EXPERIMENT_LABEL, TRIAL_LABEL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
COLLECTOR = "metrics-logger-and-collector"
# Of the images in containers/Dockerfile, and of Katib's collector.
IMAGE_USER, COLLECTOR_USER = 65534, 0


def non_negative(text):
    return int(text) >= 0


def positive(text):
    return int(text) > 0


# Settings and their checks: pkg/suggestion/v1beta1/{hyperopt,optuna}/service.py. Which service has an
# algorithm: manifests/v1beta1/installs/katib-standalone/katib-config.yaml.
SETTINGS = {
    "tpe": {
        "gamma": lambda text: 0 < float(text) < 1,
        "prior_weight": lambda text: float(text) > 0,
        "n_EI_candidates": positive,
        "random_state": non_negative,
    },
    "random": {"random_state": non_negative},
    "grid": {"random_state": non_negative},
    "multivariate-tpe": dict.fromkeys(("n_startup_trials", "n_ei_candidates", "random_state"), non_negative),
}
# pkg/earlystopping/v1beta1/medianstop/service.py
STOPPING_SETTINGS = {"medianstop": {"min_trials_required": positive, "start_step": positive}}


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def has_condition(resource, kind):
    conditions = resource["status"]["conditions"]
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def add_condition(resource, kind, reason="", message="", status="True"):
    conditions = resource["status"]["conditions"]
    for condition in conditions:
        # medianstop appends its condition and leaves Running as it is (SetTrialStatus).
        if condition["type"] == "Running" and kind != "EarlyStopped":
            condition["status"] = "False"
    conditions[:] = [condition for condition in conditions if condition["type"] != kind]
    conditions.append(
        {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}
    )


class KatibServer(KubeflowServer):
    """Serves Katib's objects, the pods of its trials, and Argo's workflows.

    Attributes:
        katib_experiments: Experiments by name.
        katib_suggestions: Suggestions by name.
        katib_trials: Trials by name.
        katib_pods: Pods by name: those of the trials, and those that a test adds.
        katib_logs: Log files by trial.
        katib_requests: (method, path) of the requests to Kubernetes.
        katib_writes: Methods of the requests that changed an experiment.
        workflows: Argo's Workflows by name.
        seed: Seed of the suggestions.
        faults: Status codes of the next responses.
        collects: Whether the collector finds metrics.
        has_label: Whether the namespace has Katib's label.
        has_services: Whether the images of the suggestion services can be pulled.
        pod_faults: What happens to the next pods of trials instead of running: the status of the pod, or the
            message of the Job's event if no pod is created.
        event_status: Status of a request for events; pipeline-runner may not read them.
        stop_seconds: Seconds after which the collector reports a stopped trial that is still working.
        deletion_seconds: Seconds for which a deleted experiment exists.
        grace_seconds: Seconds between the SIGTERM of a deleted trial and its SIGKILL; a pod's default.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.katib_experiments, self.katib_suggestions, self.katib_trials = {}, {}, {}
        self.katib_pods, self.workflows, self.katib_requests = {}, {}, []
        self.katib_logs, self.katib_writes, self.faults, self.pod_faults = {}, [], [], []
        self.collects = self.has_label = self.has_services = True
        self.event_status = 403
        self.seed = 4
        # cmd/metricscollector/v1beta1/file-metricscollector/main.go waits 60 seconds.
        self.stop_seconds = 0.1
        self.deletion_seconds = 0.1
        self.grace_seconds = 30.0
        self.run_commands = True

    # ------------------------------------------------------------ requests

    def respond(self, method, path, query, body):
        katib, workflow = RESOURCE_PATH.fullmatch(path), WORKFLOW_PATH.fullmatch(path)
        pods, events = PODS_PATH.fullmatch(path), EVENTS_PATH.fullmatch(path)
        with self.lock:
            self.katib_requests.append((method, path))
            if (katib or workflow or pods or events) and self.faults:
                return self.faults.pop(0), "not now"
            if katib:
                return self._katib(method, *katib.groups(), query, json.loads(body) if body else None)
            if workflow:
                found = self.workflows.get(workflow[1])
                return (200, found) if found else (404, f'workflows "{workflow[1]}" not found')
            if events:
                if self.event_status != 200:
                    return self.event_status, "events is forbidden"
                name = query["fieldSelector"].partition(",")[0].removeprefix("involvedObject.name=")
                messages = [self.katib_trials[name]["event"]] if name in self.katib_trials else []
                items = [{"metadata": {}, "involvedObject": {}, "message": text} for text in messages]
                return 200, {"kind": "EventList", "apiVersion": "v1", "items": items, "metadata": {}}
            if pods and "pipeline/runid" not in query.get("labelSelector", ""):
                return self._pods(pods[1], bool(pods[2]), query)
        return super().respond(method, path, query, body)

    def _pods(self, name, is_log, query):
        if name is None:
            wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
            pods = self.katib_pods.values()
            items = [shown(pod) for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": items, "metadata": {}}
        if name not in self.katib_pods:
            return 404, f'pods "{name}" not found'
        pod = self.katib_pods[name]
        if not is_log:
            return 200, shown(pod)
        if "log" not in pod:
            return 400, f'container "{query["container"]}" in pod "{name}" is waiting to start'
        assert query["container"] == COLLECTOR
        lines = pod["log"].read_text().splitlines() if pod["log"].exists() else []
        lines = lines[-int(query.get("tailLines") or len(lines) or 1) :]
        return 200, "".join(f"I1123 12:00:00.000000      13 main.go:180] {line}\n" for line in lines)

    def _katib(self, method, namespace, plural, name, query, body):
        if namespace == "forbidden":
            return 403, "experiments.kubeflow.org is forbidden"
        resources = {
            "experiments": self.katib_experiments,
            "suggestions": self.katib_suggestions,
            "trials": self.katib_trials,
        }[plural]
        if method == "GET" and name is None:
            wanted = query["labelSelector"].removeprefix(f"{EXPERIMENT_LABEL}=")
            return 200, {"items": [shown(trial) for trial in self._trials_of(wanted)]}
        if method == "POST":
            return self._create(namespace, body)
        if name not in resources:
            return 404, f'{plural} "{name}" not found'
        if method == "GET":
            return 200, shown(resources[name])
        if method == "DELETE" and plural == "trials":
            self._delete_trial(name)
            return 200, {}
        assert (method, plural) == ("DELETE", "experiments")
        assert "Foreground" not in json.dumps(body), "never ends: the controller creates the trials again"
        if "deletionTimestamp" not in resources[name]["metadata"]:
            self.katib_writes.append("DELETE")
            # It exists until the controller removes its finalizer (experiment_controller_util.go).
            resources[name]["metadata"]["deletionTimestamp"] = now()
            threading.Thread(target=self._finalize, args=(name,), daemon=True).start()
        return 200, shown(resources[name])

    def _create(self, namespace, body):
        name = body["metadata"]["name"]
        if name in self.katib_experiments:
            return 409, "already exists"
        webhook = 'admission webhook "validator.experiment.katib.kubeflow.org" denied the request'
        if not self.has_label:
            # pkg/webhook/v1beta1/experiment/validation_webhook.go
            return 400, (
                f'{webhook}: Cannot create the Experiment "{name}" in namespace "{namespace}": the namespace '
                'lacks label "katib.kubeflow.org/metrics-collector-injection: enabled"'
            )
        problem = self._problem(body)
        if problem:
            return 400, f"{webhook}: {problem}"
        self.katib_writes.append("POST")
        body["metadata"] |= {"creationTimestamp": now(), "finalizers": ["update-prometheus-metrics"]}
        body["status"] = {"conditions": []}
        add_condition(body, "Created", "ExperimentCreated", "Experiment is created")
        self.katib_experiments[name] = body
        threading.Thread(target=self._control, args=(body,), daemon=True).start()
        return 200, body

    def _finalize(self, name):
        time.sleep(self.deletion_seconds)
        with self.lock:
            del self.katib_experiments[name]
            self.katib_suggestions.pop(name, None)
            for trial in self._trials_of(name):
                self._delete_trial(trial["metadata"]["name"])

    def _delete_trial(self, name):
        del self.katib_trials[name]
        for pod in self._pods_of(name):
            del self.katib_pods[pod["metadata"]["name"]]
        process = self.processes.get(name)
        if process and process.poll() is None:
            end_process(process)
            threading.Thread(target=self._kill_after_grace, args=(process,), daemon=True).start()

    def _kill_after_grace(self, process):
        try:
            process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            end_process(process, signal.SIGKILL)

    def evict(self, name):
        """Evicts the pod of a trial: its main process gets SIGTERM, and the others die with it."""
        self._pods_of(name)[-1]["evicted"] = True
        self.processes[name].send_signal(signal.SIGTERM)

    def kill_training(self, name):
        """Kills the only child of a trial's shell, as the kernel does when memory runs out."""
        process = self.processes.get(name)
        if process and process.poll() is None:
            # It may just have ended.
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)

    # ------------------------------------------------------------ webhook

    def _problem(self, body):
        """Returns the error of pkg/webhook/v1beta1/experiment/validator/validator.go, or an empty text."""
        models.V1beta1Experiment.from_dict(body)
        spec = body["spec"]
        template = spec["trialTemplate"]
        text = json.dumps(template["trialSpec"])
        if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", body["metadata"]["name"]):
            return "the name"
        if spec["resumePolicy"] not in ("Never", "LongRunning", "FromVolume"):
            return "invalid ResumePolicyType"
        if (
            not 0 < spec["parallelTrialCount"] <= spec["maxTrialCount"]
            or not 0 <= spec["maxFailedTrialCount"] <= spec["maxTrialCount"]
        ):
            return "the counts"
        if spec["objective"]["type"] not in ("maximize", "minimize"):
            return "the objective's type"
        if spec["algorithm"]["algorithmName"] not in SETTINGS:
            return "the algorithm"
        if spec.get("earlyStopping", {}).get("algorithmName", "medianstop") not in STOPPING_SETTINGS:
            return "the early stopping"
        for pattern in spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]:
            # Filters are joined with ; in the arguments of the collector (pod/inject_webhook.go).
            if not re.search(r"\(.*\).*\(.*\)", pattern) or ";" in pattern:
                return "two top subexpressions are required"
        for parameter in spec["parameters"]:
            space = parameter["feasibleSpace"]
            ranged = parameter["parameterType"] in ("int", "double")
            if ranged != ("min" in space) or ranged == ("list" in space):
                return f"the space of {parameter['name']}"
            if not all(isinstance(value, str) for key, value in space.items() if key != "list"):
                return f"texts in the space of {parameter['name']}"
        if not spec["parameters"]:
            return "spec.parameters or spec.nasConfig must be specified"
        for field in ("name", "reference"):
            used = [parameter[field] for parameter in template["trialParameters"]]
            if len(set(used)) < len(used):
                return f"a duplicate {field} of a trial parameter"
        names = {parameter["name"] for parameter in spec["parameters"]} | {"${trialSpec.Name}"}
        for parameter in template["trialParameters"]:
            placeholder = f"${{trialParameters.{parameter['name']}}}"
            if parameter["reference"] not in names or placeholder not in text:
                return f"the trial parameter {parameter['name']}"
        if set(re.findall(r"\$\{trialParameters\.([^}]+)\}", text)) != {
            parameter["name"] for parameter in template["trialParameters"]
        }:
            return "a parameter of the template"
        if not all(
            template.get(name) for name in ("primaryContainerName", "successCondition", "failureCondition")
        ):
            return "the template's conditions"
        job = template["trialSpec"]
        if {"name", "namespace"} & job.get("metadata", {}).keys():
            return "metadata.name and metadata.namespace in spec.trialTemplate must be omitted"
        if (job.get("apiVersion"), job.get("kind")) != ("batch/v1", "Job"):
            return "APIVersion and Kind in spec.trialTemplate must be specified"
        # validatePatchJob: a field that a Job does not have is refused, not ignored.
        wrong = unconvertible("V1Job", job)
        return wrong and f"invalid spec.trialTemplate: unable to convert: {wrong}"

    # ------------------------------------------------------------ controllers

    def _control(self, experiment):
        """Acts as the controllers of the Experiment and its Suggestion."""
        spec, name = experiment["spec"], experiment["metadata"]["name"]
        # An experiment of the same name gets other trials.
        generator = random.Random(self.seed + self.katib_writes.count("DELETE"))  # noqa: S311 - not a secret
        suggestion = {
            "metadata": {"name": name, "labels": {EXPERIMENT_LABEL: name}},
            "spec": {"algorithm": spec["algorithm"]},
            "status": {"conditions": []},
            "averages": {},
        }
        with self.lock:
            self.katib_suggestions[name] = suggestion
            add_condition(suggestion, "Created", "SuggestionCreated", "Suggestion is created")
        while True:
            with self.lock:
                if self.katib_experiments.get(name) is not experiment:
                    return
                if "deletionTimestamp" not in experiment["metadata"]:
                    self._reconcile(experiment, suggestion, generator)
                if has_condition(experiment, "Succeeded") or has_condition(experiment, "Failed"):
                    # resumePolicy Never: the service is deleted, and the experiment cannot be restarted.
                    if spec["resumePolicy"] == "Never" and not has_condition(suggestion, "Failed"):
                        add_condition(
                            suggestion, "Succeeded", "SuggestionSucceeded", "Suggestion is succeeded"
                        )
                    return
            time.sleep(0.01)

    def _reconcile(self, experiment, suggestion, generator):
        # pkg/controller.v1beta1/suggestion/suggestion_controller.go
        if not self.has_services:
            add_condition(
                suggestion, "DeploymentReady", "DeploymentNotReady", "Deployment is not ready", "False"
            )
            return
        spec, name = experiment["spec"], experiment["metadata"]["name"]
        if not has_condition(suggestion, "Running") and not has_condition(suggestion, "Failed"):
            refusal = refused_settings(spec)
            add_condition(suggestion, "DeploymentReady", "DeploymentReady", "Deployment is ready")
            if refusal:
                add_condition(suggestion, "Failed", "SuggestionFailed", f"Validation failed: {refusal}")
            else:
                add_condition(suggestion, "Running", "SuggestionRunning", "Suggestion is running")
        if has_condition(suggestion, "Failed"):
            # pkg/controller.v1beta1/experiment/experiment_controller.go
            add_condition(experiment, "Failed", "ExperimentFailed", "Suggestion has failed")
            return
        trials = self._trials_of(name)
        # A trial counts with the first of its conditions in this order: util/status_util.go
        kinds = ("Killed", "Failed", "Succeeded", "EarlyStopped", "Running", "MetricsUnavailable")
        counts = Counter(
            next((kind for kind in kinds if has_condition(trial, kind)), "Pending") for trial in trials
        )
        failed = counts["Failed"] + counts["MetricsUnavailable"]
        active = counts["Running"] + counts["Pending"]
        # The trials that run when the limit is reached continue.
        if failed and failed >= spec["maxFailedTrialCount"]:
            message = "Experiment has failed because max failed count has reached"
            add_condition(experiment, "Failed", "ExperimentFailed", message)
        elif len(trials) - active >= spec["maxTrialCount"]:
            message = "Experiment has succeeded because max trial count has reached"
            add_condition(experiment, "Succeeded", "ExperimentMaxTrialsReached", message)
        else:
            if trials:
                add_condition(experiment, "Running", "ExperimentRunning", "Experiment is running")
            # No new values until all stopped trials have their observations.
            incomplete = sum(
                has_condition(trial, "EarlyStopped") and "observation" not in trial["status"]
                for trial in trials
            )
            wanted = min(spec["maxTrialCount"] - (len(trials) - active), spec["parallelTrialCount"]) - active
            for _ in range(wanted - incomplete):
                self._start_trial(experiment, suggestion, generator)

    def _start_trial(self, experiment, suggestion, generator):
        spec, name = experiment["spec"], experiment["metadata"]["name"]
        assignments = [self._suggest(parameter, generator) for parameter in spec["parameters"]]
        number = suggestion["status"]["suggestionCount"] = suggestion["status"].get("suggestionCount", 0) + 1
        # The end of a trial's name is random.
        trial_name = f"{name}-{generator.randrange(16**8):08x}"
        trial = {
            "metadata": {
                "name": trial_name,
                "creationTimestamp": f"2026-11-23T12:{number // 60:02}:{number % 60:02}Z",
                "labels": {EXPERIMENT_LABEL: name},
            },
            "spec": {
                "parameterAssignments": assignments,
                "earlyStoppingRules": self._rules(spec, name, suggestion["averages"]),
            },
            "status": {"conditions": [], "startTime": now(), "completionTime": None},
            "collected": [],
            "event": "",
        }
        add_condition(trial, "Created", "TrialCreated", "Trial is created")
        self.katib_trials[trial_name] = trial
        threading.Thread(target=self._trial, args=(spec, trial), daemon=True).start()

    def _trials_of(self, experiment):
        return [
            trial
            for trial in list(self.katib_trials.values())
            if trial["metadata"]["labels"][EXPERIMENT_LABEL] == experiment
        ]

    def _pods_of(self, trial):
        pods = list(self.katib_pods.values())
        return [pod for pod in pods if pod["metadata"]["labels"].get(TRIAL_LABEL) == trial]

    def _suggest(self, parameter, generator):
        space = parameter["feasibleSpace"]
        if "list" in space:
            return {"name": parameter["name"], "value": generator.choice(space["list"])}
        low, high = float(space["min"]), float(space["max"])
        value = generator.uniform(low, high)
        if space.get("distribution") == "logUniform":
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        text = str(round(value)) if parameter["parameterType"] == "int" else repr(value)
        return {"name": parameter["name"], "value": text}

    def _rules(self, spec, name, averages):
        """Returns the rules that medianstop gives to a trial that starts now."""
        stopping = spec.get("earlyStopping")
        if stopping is None:
            return []
        settings = {setting["name"]: int(setting["value"]) for setting in stopping["algorithmSettings"]}
        for trial in self._trials_of(name):
            if has_condition(trial, "Succeeded") and not has_condition(trial, "EarlyStopped"):
                first = trial["collected"][: settings["start_step"]]
                averages[trial["metadata"]["name"]] = statistics.mean(first)
        if len(averages) < settings["min_trials_required"]:
            return []
        mean = statistics.mean(averages.values())
        objective = spec["objective"]["objectiveMetricName"]
        rule = {"name": objective, "value": str(mean), "comparison": "less"}
        return [{**rule, "startStep": settings["start_step"]}]

    # ------------------------------------------------------------ trials

    def _trial(self, spec, trial):
        """Acts as the controllers of the trial and of its Job."""
        name = trial["metadata"]["name"]
        values = {
            assignment["name"]: assignment["value"] for assignment in trial["spec"]["parameterAssignments"]
        }
        text = json.dumps(spec["trialTemplate"]["trialSpec"])
        for parameter in spec["trialTemplate"]["trialParameters"]:
            reference = parameter["reference"]
            value = name if reference == "${trialSpec.Name}" else values[reference]
            text = text.replace(f"${{trialParameters.{parameter['name']}}}", value)
        job = json.loads(text)["spec"]
        with self.lock:
            add_condition(trial, "Running", "TrialRunning", "Trial is running")
        for number in itertools.count(1):
            pod = self._run_pod(spec, trial, job["template"], number)
            if pod is None:
                return
            ignored = [
                condition["type"]
                for rule in job.get("podFailurePolicy", {}).get("rules", ())
                if rule["action"] == "Ignore"
                for condition in rule["onPodConditions"]
            ]
            # An evicted pod has this condition; without the rule, it uses up the Job's backoffLimit.
            ended_well = pod["status"]["phase"] == "Succeeded"
            if ended_well or "evicted" not in pod or "DisruptionTarget" not in ignored:
                break
        with self.lock:
            # pkg/controller.v1beta1/trial/util/job_util.go: of a running Job, nothing is read; so a stopped
            # trial has no observation before its pod has ended.
            trial["status"]["observation"] = {"metrics": [{"max": str(max(trial["collected"], default=0))}]}
            stopped = has_condition(trial, "EarlyStopped")
            if not stopped:
                # A stopped trial never gets a completionTime.
                trial["status"]["completionTime"] = now()
            if pod["status"]["phase"] == "Failed" and not stopped:
                message = "Trial has failed. Job message: Job has reached the specified backoff limit"
                add_condition(trial, "Failed", "TrialFailed. Job reason: BackoffLimitExceeded", message)
            elif not trial["collected"]:
                add_condition(
                    trial, "MetricsUnavailable", "TrialMetricsUnavailable", "Metrics are not available"
                )
            elif not stopped:
                add_condition(trial, "Succeeded", "TrialSucceeded", "Trial has succeeded")

    def _run_pod(self, spec, trial, template, number):
        """Runs one pod to its end and returns it; None if the trial is deleted before."""
        name = trial["metadata"]["name"]
        [container] = template["spec"]["containers"]
        assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
        folder = Path(self.folder) / "pods" / f"{name}-{number}"
        folder.mkdir(parents=True)
        created = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=number)
        labels = {**template["metadata"]["labels"], **trial["metadata"]["labels"], TRIAL_LABEL: name}
        pod = {
            "metadata": {
                "name": f"{name}-{number}",
                "creationTimestamp": created.isoformat(),
                "labels": labels,
            },
            "spec": {"containers": [{"name": "trial", "image": container["image"]}, {"name": COLLECTOR}]},
            "status": {"phase": "Pending"},
        }
        with self.lock:
            if name not in self.katib_trials:
                return None
            fault = self.pod_faults.pop(0) if self.pod_faults else None
            if isinstance(fault, str):
                trial["event"] = fault
            else:
                self.katib_pods[f"{name}-{number}"] = pod
                pod["status"] |= fault or {"phase": "Running"}
        while fault and name in self.katib_trials:
            time.sleep(0.02)
        if fault:
            return None
        log = pod["log"] = self.katib_logs[name] = folder / "metrics.log"
        command = self._wrap_command(container, template["spec"], trial, folder)
        # Under the lock: a trial that is deleted now is not started, or its process gets the SIGTERM.
        with self.lock:
            if name not in self.katib_trials:
                return None
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
            process = start_process(command, **{LOG_FORMAT_VARIABLE: "", "PATH": path, **given})
            self.processes[name] = process
        filters = [
            re.compile(pattern)
            for pattern in spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
        ]
        objective = spec["objective"]["objectiveMetricName"]
        self._collect(process, trial, folder, filters, objective)
        status = process.wait()
        # With the main process, the others of the container end.
        end_process(process, signal.SIGKILL)
        marker = folder / f"{process.pid}.pid"
        while marker.exists() and marker.read_text().strip() == "early-stopped":
            # pkg/metricscollector/v1beta1/common/pns.go waits until it says "completed".
            if name not in self.katib_trials:
                return None
            time.sleep(0.02)
        with self.lock:
            lines = log.read_text().splitlines() if log.exists() else []
            trial["collected"] = self._collected(lines, filters, objective) if self.collects else []
            pod["status"] = {
                "phase": "Failed" if status else "Succeeded",
                "containerStatuses": [
                    {
                        "name": "trial",
                        "image": "",
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "state": {"terminated": {"exitCode": status % 256, "reason": "Error"}},
                    }
                ],
            }
            return pod if name in self.katib_trials else None

    def _wrap_command(self, container, pod, trial, folder):
        """Returns the command as changed by pkg/webhook/v1beta1/pod/utils.go, and then by the kubelet."""
        arguments = [*container["command"], *container.get("args", ())]
        command = ["sh", "-c"]
        if arguments[0] in ("sh", "bash") and arguments[1] == "-c":
            command, arguments = arguments[:2], arguments[2:]
        arguments.append(f"1>{folder}/metrics.log 2>&1")
        if trial["spec"]["earlyStoppingRules"]:
            arguments += [
                "||",
                f"if test -f {folder}/$$$$.pid && [ $(head -n 1 {folder}/$$.pid) = early-stopped ]; "
                "then echo Training Container was Early Stopped; "
                "else echo Training Container was Failed; exit 1; fi",
            ]
        mark = f"echo completed > {folder}/$$$$.pid"
        user = pod.get("securityContext", {}).get("runAsUser")
        if (IMAGE_USER if user is None else user) != (COLLECTOR_USER if user is None else user):
            # Not even root writes to a file of another user here: tests may run as root.
            mark = f"if test -f {folder}/$$$$.pid; then echo Permission denied; exit 2; else {mark}; fi"
        arguments += ["&&", mark]
        variables = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        return [*command, expand(" ".join(arguments), variables)]

    def _collect(self, process, trial, folder, filters, objective):
        """Acts as the collector: applies the rule once, stops the trial, reports it after a limit."""
        rules, log = trial["spec"]["earlyStoppingRules"], folder / "metrics.log"
        while rules and process.poll() is None:
            time.sleep(0.02)
            reported = self._reported(
                log.read_text().splitlines() if log.exists() else [], filters, objective
            )
            if len(reported) < rules[0]["startStep"]:
                continue
            # The best value so far: updateStopRules in file-metricscollector/main.go.
            if max(value for _, value in reported[: rules[0]["startStep"]]) >= float(rules[0]["value"]):
                return
            (folder / f"{process.pid}.pid").write_text("early-stopped")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == 1, "Multiple children processes are not supported"
            os.kill(int(children[0]), signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.stop_seconds)
            with self.lock:
                add_condition(trial, "EarlyStopped", "TrialEarlyStopped", "Trial is early stopped")
            return

    def _reported(self, lines, filters, objective):
        """Returns the lines with the objective, and its values, as the collector sees them meanwhile."""
        return [
            (line, float(value))
            for line in lines
            for pattern in filters
            for name, value in pattern.findall(line)
            if name == objective
        ]

    def _collected(self, lines, filters, objective):
        """Returns the values in the order of their times, as in Katib's database."""
        found = []
        for position, (line, value) in enumerate(self._reported(lines, filters, objective)):
            try:
                found.append((datetime.fromisoformat(line.partition(" ")[0]), position, value))
            except ValueError:
                # The database returns values without a time in reverse order.
                found.append((datetime(1, 1, 1, tzinfo=UTC), -position, value))
        return [value for _, _, value in sorted(found)]


def expand(text, variables):
    """Expands the text of a command: kubernetes/third_party/forked/golang/expansion/expand.go."""

    def value(match):
        return "$" if match[1] is None else variables.get(match[1], match[0])

    return re.sub(r"\$(?:\$|\(([^)]*)\))", value, text)


def unconvertible(kind, value, path=""):
    """Returns the path of a field that a Kubernetes type does not have, or of another type; "" if none."""
    parts = []
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return path
        parts = [(match[1], item, f"{path}/{number}") for number, item in enumerate(value)]
    elif match := re.fullmatch(r"dict[\[(]str, (.+)[\])]", kind):
        parts = [(match[1], item, f"{path}/{name}") for name, item in value.items()]
    elif kind in ("str", "int", "bool"):
        return "" if type(value).__name__ == kind else path
    elif model := getattr(client, kind, None):
        types = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        if not isinstance(value, dict):
            return path
        for name in value:
            if name not in types:
                return f"{path}/{name}"
        parts = [(types[name], item, f"{path}/{name}") for name, item in value.items()]
    return next(filter(None, (unconvertible(*part) for part in parts)), "")


def shown(resource):
    """Returns a copy of a resource as the API returns it."""
    fields = ("apiVersion", "kind", "metadata", "spec", "status")
    return json.loads(json.dumps({key: resource[key] for key in fields if key in resource}))


def refused_settings(spec):
    """Returns the error of the suggestion service or of medianstop, as the Suggestion has it."""
    algorithm, stopping = spec["algorithm"], spec.get("earlyStopping")
    checks = [("ValidateAlgorithmSettings", SETTINGS, algorithm)]
    if stopping:
        checks.append(("ValidateEarlyStoppingSettings", STOPPING_SETTINGS, stopping))
    for function, table, part in checks:
        name = part["algorithmName"]
        for setting in part.get("algorithmSettings") or ():
            check = table[name].get(setting["name"])
            if check is None:
                return f"{function} Error: unknown setting {setting['name']} for algorithm {name}"
            if not check(setting["value"]):
                return f"{function} Error: {setting['name']} is out of range"
    if algorithm["algorithmName"] == "grid":
        # pkg/suggestion/v1beta1/optuna/service.py, _validate_grid_setting
        combinations = 1
        for parameter in spec["parameters"]:
            space = parameter["feasibleSpace"]
            if "list" not in space and not space.get("step"):
                return f"ValidateAlgorithmSettings Error: Param {parameter['name']} step is nil"
            if "list" in space:
                combinations *= len(space["list"])
            else:
                steps = (float(space["max"]) - float(space["min"])) / float(space["step"])
                combinations *= int(steps + 1e-9) + 1
        if spec["maxTrialCount"] > combinations:
            return (
                f"ValidateAlgorithmSettings Error: Max Trial Count: {spec['maxTrialCount']} > all possible "
                f"search combinations: {combinations}"
            )
    return ""


def start_katib_server(folder):
    """Starts a server that runs the trials of experiments."""
    return start_kubeflow_server(folder, KatibServer)
