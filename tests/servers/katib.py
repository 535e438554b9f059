"""Katib on loopback: its controller, its suggestions, medianstop and the metrics collector of its pods.

A trial runs the command as changed by Katib's webhook. The collector reads its output line by line and
applies the early-stopping rules that the trial got when it was created.
"""

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
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from kubeflow_katib_api import models

from .kubeflow import KubeflowServer, start_kubeflow_server

RESOURCE_PATH = re.compile(
    r"/apis/kubeflow\.org/v1beta1/namespaces/([^/]+)/(experiments|trials)(?:/([^/]+))?"
)
KNOWN_ALGORITHMS = {"tpe", "random", "grid"}


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def has_condition(resource, kind):
    conditions = resource["status"]["conditions"]
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


def add_condition(resource, kind, message=""):
    for condition in resource["status"]["conditions"]:
        if condition["type"] == "Running" and kind != "Running":
            condition["status"] = "False"
    resource["status"]["conditions"].append(
        {"type": kind, "status": "True", "message": message, "lastTransitionTime": now()}
    )


class KatibServer(KubeflowServer):
    """Serves Katib's experiments and trials.

    Attributes:
        katib_experiments: Experiments by name.
        katib_trials: Trials by name.
        katib_logs: Log files by trial.
        katib_writes: Methods of the requests that changed an experiment.
        seed: Seed of the suggestions.
        faults: Status codes of the next responses.
        collects: Whether pods have the metrics collector, as in namespaces with Katib's label.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.katib_experiments, self.katib_trials = {}, {}
        self.katib_logs, self.katib_writes, self.faults = {}, [], []
        self.collects = True
        self.seed = 4
        self.run_commands = True

    def respond(self, method, path, query, body):
        match = RESOURCE_PATH.fullmatch(path)
        selected = re.fullmatch(r"katib\.kubeflow\.org/trial=(.+)", query.get("labelSelector", ""))
        with self.lock:
            if match is not None:
                if self.faults:
                    return self.faults.pop(0), "not now"
                return self._katib(method, *match.groups(), query, json.loads(body) if body else None)
            if path.endswith("/pods") and selected:
                items = [{"metadata": {"name": f"{selected[1]}-pod", "creationTimestamp": now()}}]
                return 200, {"kind": "PodList", "apiVersion": "v1", "items": items, "metadata": {}}
            log = re.fullmatch(r"/api/v1/namespaces/[^/]+/pods/(.+)-pod/log", path)
            if log is not None and log[1] in self.katib_logs:
                assert query["container"] == "metrics-logger-and-collector"
                text = self.katib_logs[log[1]].read_text().splitlines()
                return 200, "".join(f"I1123 12:00:00.000000      13 main.go:180] {line}\n" for line in text)
        return super().respond(method, path, query, body)

    def _katib(self, method, namespace, plural, name, query, body):
        if namespace == "forbidden":
            return 403, "experiments.kubeflow.org is forbidden"
        resources = self.katib_experiments if plural == "experiments" else self.katib_trials
        if method == "GET" and name is None:
            wanted = query["labelSelector"].removeprefix("katib.kubeflow.org/experiment=")
            items = [
                resource
                for resource in resources.values()
                if resource["metadata"]["labels"]["katib.kubeflow.org/experiment"] == wanted
            ]
            return 200, {"items": items}
        if method == "POST":
            if body["metadata"]["name"] in resources:
                return 409, "already exists"
            problem = self._problem(body)
            if problem:
                return (
                    400,
                    f'admission webhook "validator.experiment.katib.kubeflow.org" denied it: {problem}',
                )
            self.katib_writes.append("POST")
            body["metadata"]["creationTimestamp"] = now()
            body["status"] = {"conditions": []}
            add_condition(body, "Created")
            resources[body["metadata"]["name"]] = body
            threading.Thread(target=self._tune, args=(body,), daemon=True).start()
            return 200, body
        if name not in resources:
            return 404, f'{plural} "{name}" not found'
        if method == "DELETE":
            self.katib_writes.append("DELETE")
            deleted = resources.pop(name)
            for trial in [trial for trial in self.katib_trials if trial.startswith(f"{name}-")]:
                del self.katib_trials[trial]
                with suppress(KeyError, ProcessLookupError):
                    os.killpg(self.processes[trial].pid, signal.SIGTERM)
            return 200, deleted
        return 200, resources[name]

    def _problem(self, body):
        """Returns the error of Katib's validator, or an empty text."""
        models.V1beta1Experiment.from_dict(body)
        spec = body["spec"]
        template = spec["trialTemplate"]
        text = json.dumps(template["trialSpec"])
        if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", body["metadata"]["name"]):
            return "the name"
        if (
            spec["parallelTrialCount"] > spec["maxTrialCount"]
            or spec["maxFailedTrialCount"] > spec["maxTrialCount"]
        ):
            return "the counts"
        if spec["objective"]["type"] not in ("maximize", "minimize"):
            return "the objective's type"
        if spec["algorithm"]["algorithmName"] not in KNOWN_ALGORITHMS:
            return "the algorithm"
        for parameter in spec["parameters"]:
            space = parameter["feasibleSpace"]
            ranged = parameter["parameterType"] in ("int", "double")
            if ranged != ("min" in space) or ranged == ("list" in space):
                return f"the space of {parameter['name']}"
            if not all(isinstance(value, str) for key, value in space.items() if key != "list"):
                return f"texts in the space of {parameter['name']}"
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
        if "metadata" in template["trialSpec"]:
            return "the template's name"
        return ""

    def _tune(self, experiment):
        spec, name = experiment["spec"], experiment["metadata"]["name"]
        generator = random.Random(self.seed)  # noqa: S311 - not a secret
        with self.lock:
            add_condition(experiment, "Running")
        averages, threads = {}, []
        for number in range(spec["maxTrialCount"]):
            while sum(thread.is_alive() for thread in threads) >= spec["parallelTrialCount"]:
                time.sleep(0.01)
            with self.lock:
                if name not in self.katib_experiments or self._too_many_failed(experiment):
                    break
                assignments = [self._suggest(parameter, generator) for parameter in spec["parameters"]]
                # The end of a trial's name is random.
                trial_name = f"{name}-{generator.randrange(16**8):08x}"
                trial = {
                    "metadata": {
                        "name": trial_name,
                        "creationTimestamp": f"2026-11-23T12:00:{number:02}Z",
                        "labels": {"katib.kubeflow.org/experiment": name},
                    },
                    "spec": {
                        "parameterAssignments": assignments,
                        "earlyStoppingRules": self._rules(spec, name, averages),
                    },
                    "status": {"conditions": [], "startTime": now()},
                }
                add_condition(trial, "Running")
                self.katib_trials[trial_name] = trial
            threads.append(threading.Thread(target=self._trial, args=(spec, trial), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        with self.lock:
            if self._too_many_failed(experiment):
                add_condition(
                    experiment, "Failed", "Experiment has failed because max failed count has reached"
                )
            else:
                add_condition(experiment, "Succeeded", "max trial count has reached")

    def _trials_of(self, experiment):
        name = experiment["metadata"]["name"]
        return [
            trial for trial in self.katib_trials.values() if trial["metadata"]["name"].startswith(f"{name}-")
        ]

    def _too_many_failed(self, experiment):
        failed = sum(
            has_condition(trial, "Failed") or has_condition(trial, "MetricsUnavailable")
            for trial in self._trials_of(experiment)
        )
        return failed >= experiment["spec"]["maxFailedTrialCount"]

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
        assert stopping["algorithmName"] == "medianstop"
        settings = {setting["name"]: int(setting["value"]) for setting in stopping["algorithmSettings"]}
        assert set(settings) == {"min_trials_required", "start_step"}
        for trial in self.katib_trials.values():
            if trial["metadata"]["name"].startswith(f"{name}-") and has_condition(trial, "Succeeded"):
                first = trial["collected"][: settings["start_step"]]
                averages[trial["metadata"]["name"]] = statistics.mean(first)
        if len(averages) < settings["min_trials_required"]:
            return []
        mean = statistics.mean(averages.values())
        objective = spec["objective"]["objectiveMetricName"]
        rule = {"name": objective, "value": str(mean), "comparison": "less"}
        return [{**rule, "startStep": settings["start_step"]}]

    def _trial(self, spec, trial):
        name = trial["metadata"]["name"]
        values = {
            assignment["name"]: assignment["value"] for assignment in trial["spec"]["parameterAssignments"]
        }
        text = json.dumps(spec["trialTemplate"]["trialSpec"])
        for parameter in spec["trialTemplate"]["trialParameters"]:
            reference = parameter["reference"]
            value = name if reference == "${trialSpec.Name}" else values[reference]
            text = text.replace(f"${{trialParameters.{parameter['name']}}}", value)
        [container] = json.loads(text)["spec"]["template"]["spec"]["containers"]
        assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
        folder = Path(self.folder) / "pods" / name
        folder.mkdir(parents=True)
        log = self.katib_logs[name] = folder / "metrics.log"
        process = self.processes[name] = subprocess.Popen(
            self._wrap_command(container, trial, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                **{
                    variable["name"]: variable["value"]
                    for variable in container["env"]
                    if "value" in variable
                },
            },
        )
        filters = [
            re.compile(pattern)
            for pattern in spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
        ]
        stopped = self._watch(process, trial, log, filters, spec["objective"]["objectiveMetricName"])
        status = process.wait()
        lines = log.read_text().splitlines() if log.exists() else []
        with self.lock:
            found = self._collected(lines, filters, spec["objective"]["objectiveMetricName"])
            trial["collected"] = found if self.collects else []
            trial["status"]["completionTime"] = now()
            if stopped:
                assert status == 0, lines
                add_condition(trial, "EarlyStopped", "Trial is early stopped")
            elif status != 0:
                add_condition(trial, "Failed", "Trial has failed")
            elif trial["collected"]:
                trial["status"]["observation"] = {
                    "metrics": [{"max": str(max(found)), "latest": str(found[-1])}]
                }
                add_condition(trial, "Succeeded", "Trial has succeeded")
            else:
                add_condition(trial, "MetricsUnavailable", "Metrics are not available")

    def _wrap_command(self, container, trial, folder):
        """Returns the command as changed by Katib's webhook."""
        arguments = [*container["command"], *container.get("args", ())]
        command = ["sh", "-c"]
        if arguments[0] in ("sh", "bash") and arguments[1] == "-c":
            command, arguments = arguments[:2], arguments[2:]
        arguments.append(f"1>{folder}/metrics.log 2>&1")
        if trial["spec"]["earlyStoppingRules"]:
            arguments += [
                "||",
                f"if test -f {folder}/$$.pid && [ $(head -n 1 {folder}/$$.pid) = early-stopped ]; "
                "then echo Training Container was Early Stopped; "
                "else echo Training Container was Failed; exit 1; fi",
            ]
        arguments += ["&&", f"echo completed > {folder}/$$.pid"]
        return [*command, " ".join(arguments)]

    def _watch(self, process, trial, log, filters, objective):
        """Follows the output; returns whether the rule, which is applied only once, stopped the trial."""
        rules, applied = trial["spec"]["earlyStoppingRules"], False
        while process.poll() is None:
            time.sleep(0.02)
            if not rules or not log.exists() or applied:
                continue
            reported = self._reported(log.read_text().splitlines(), filters, objective)
            if len(reported) < rules[0]["startStep"]:
                continue
            applied = True
            if reported[rules[0]["startStep"] - 1] < float(rules[0]["value"]):
                (log.parent / f"{process.pid}.pid").write_text("early-stopped\n")
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                assert len(children) == 1, "Multiple children processes are not supported"
                os.kill(int(children[0]), signal.SIGTERM)
                process.wait(60)
                return True
        return False

    def _reported(self, lines, filters, objective):
        """Returns the values in the order of the lines, as the collector sees them while a trial runs."""
        found = []
        for line in (line for line in lines if objective in line):
            for pattern in filters:
                found += [float(match[1]) for match in pattern.findall(line) if match[0] == objective]
        return found

    def _collected(self, lines, filters, objective):
        """Returns the values in the order of their times, as in Katib's database."""
        found = []
        for position, line in enumerate(line for line in lines if objective in line):
            try:
                stamp = datetime.fromisoformat(line.partition(" ")[0])
            except ValueError:
                # The database returns values without a time in reverse order.
                stamp = datetime(1, 1, 1, tzinfo=UTC)
                position = -position
            for pattern in filters:
                found += [
                    (stamp, position, float(match[1]))
                    for match in pattern.findall(line)
                    if match[0] == objective
                ]
        return [value for _, _, value in sorted(found)]


@contextmanager
def start_katib_server(folder):
    """Yields a server that runs the trials of experiments."""
    with start_kubeflow_server(folder, KatibServer) as server:
        yield server
