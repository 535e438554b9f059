"""Katib on loopback: its controller, its suggestions, medianstop and the metrics collector of its pods.

A trial's command is changed as Katib's webhook changes it and really run; the collector reads what it writes,
line by line, and ends it by the rules that it was given when it was made.
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

PLACE = re.compile(r"/apis/kubeflow\.org/v1beta1/namespaces/([^/]+)/(experiments|trials)(?:/([^/]+))?")
KNOWN_ALGORITHMS = {"tpe", "random", "grid"}


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def state(found, kind):
    return any(one["type"] == kind and one["status"] == "True" for one in found["status"]["conditions"])


def condition(found, kind, message=""):
    for one in found["status"]["conditions"]:
        if one["type"] == "Running" and kind != "Running":
            one["status"] = "False"
    found["status"]["conditions"].append(
        {"type": kind, "status": "True", "message": message, "lastTransitionTime": now()}
    )


class KatibServer(KubeflowServer):
    """Holds experiments and trials by name.

    Attributes:
        seed: Of what is suggested.
        faults: Statuses to answer with instead, one a request.
        collects: Whether the collector is put into pods: in namespaces with Katib's label.
    """

    def begin(self):
        self.katib_experiments, self.katib_trials = {}, {}
        self.katib_logs, self.katib_writes, self.faults = {}, [], []
        self.collects = True
        self.seed = 4
        self.run_commands = True

    def answer(self, method, path, query, body):
        match = PLACE.fullmatch(path)
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
        return super().answer(method, path, query, body)

    def _katib(self, method, namespace, plural, name, query, body):
        if namespace == "forbidden":
            return 403, "experiments.kubeflow.org is forbidden"
        held = self.katib_experiments if plural == "experiments" else self.katib_trials
        if method == "GET" and name is None:
            wanted = query["labelSelector"].removeprefix("katib.kubeflow.org/experiment=")
            items = [
                one
                for one in held.values()
                if one["metadata"]["labels"]["katib.kubeflow.org/experiment"] == wanted
            ]
            return 200, {"items": items}
        if method == "POST":
            if body["metadata"]["name"] in held:
                return 409, "already exists"
            wrong = self._wrong(body)
            if wrong:
                return 400, f'admission webhook "validator.experiment.katib.kubeflow.org" denied it: {wrong}'
            self.katib_writes.append("POST")
            body["metadata"]["creationTimestamp"] = now()
            body["status"] = {"conditions": []}
            condition(body, "Created")
            held[body["metadata"]["name"]] = body
            threading.Thread(target=self._tune, args=(body,), daemon=True).start()
            return 200, body
        if name not in held:
            return 404, f'{plural} "{name}" not found'
        if method == "DELETE":
            self.katib_writes.append("DELETE")
            gone = held.pop(name)
            for trial in [one for one in self.katib_trials if one.startswith(f"{name}-")]:
                del self.katib_trials[trial]
                with suppress(KeyError, ProcessLookupError):
                    os.killpg(self.processes[trial].pid, signal.SIGTERM)
            return 200, gone
        return 200, held[name]

    def _wrong(self, body):
        """Returns what Katib's validator would say."""
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
        for one in spec["parameters"]:
            space = one["feasibleSpace"]
            ranged = one["parameterType"] in ("int", "double")
            if ranged != ("min" in space) or ranged == ("list" in space):
                return f"the space of {one['name']}"
            if not all(isinstance(value, str) for key, value in space.items() if key != "list"):
                return f"texts in the space of {one['name']}"
        names = {one["name"] for one in spec["parameters"]} | {"${trialSpec.Name}"}
        for one in template["trialParameters"]:
            if one["reference"] not in names or f"${{trialParameters.{one['name']}}}" not in text:
                return f"the trial parameter {one['name']}"
        if set(re.findall(r"\$\{trialParameters\.([^}]+)\}", text)) != {
            one["name"] for one in template["trialParameters"]
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
        draw = random.Random(self.seed)  # noqa: S311 - no secret
        with self.lock:
            condition(experiment, "Running")
        averages, threads = {}, []
        for number in range(spec["maxTrialCount"]):
            while sum(thread.is_alive() for thread in threads) >= spec["parallelTrialCount"]:
                time.sleep(0.01)
            with self.lock:
                if name not in self.katib_experiments or self._too_many_failed(experiment):
                    break
                chosen = [self._chosen(one, draw) for one in spec["parameters"]]
                # Katib ends a trial's name at random.
                trial_name = f"{name}-{draw.randrange(16**8):08x}"
                trial = {
                    "metadata": {
                        "name": trial_name,
                        "creationTimestamp": f"2026-11-23T12:00:{number:02}Z",
                        "labels": {"katib.kubeflow.org/experiment": name},
                    },
                    "spec": {
                        "parameterAssignments": chosen,
                        "earlyStoppingRules": self._rules(spec, name, averages),
                    },
                    "status": {"conditions": [], "startTime": now()},
                }
                condition(trial, "Running")
                self.katib_trials[trial_name] = trial
            threads.append(threading.Thread(target=self._trial, args=(spec, trial), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        with self.lock:
            if self._too_many_failed(experiment):
                condition(experiment, "Failed", "Experiment has failed because max failed count has reached")
            else:
                condition(experiment, "Succeeded", "max trial count has reached")

    def _of(self, experiment):
        name = experiment["metadata"]["name"]
        return [one for one in self.katib_trials.values() if one["metadata"]["name"].startswith(f"{name}-")]

    def _too_many_failed(self, experiment):
        failed = sum(state(one, "Failed") or state(one, "MetricsUnavailable") for one in self._of(experiment))
        return failed >= experiment["spec"]["maxFailedTrialCount"]

    def _chosen(self, parameter, draw):
        space = parameter["feasibleSpace"]
        if "list" in space:
            return {"name": parameter["name"], "value": draw.choice(space["list"])}
        low, high = float(space["min"]), float(space["max"])
        value = draw.uniform(low, high)
        if space.get("distribution") == "logUniform":
            value = math.exp(draw.uniform(math.log(low), math.log(high)))
        text = str(round(value)) if parameter["parameterType"] == "int" else repr(value)
        return {"name": parameter["name"], "value": text}

    def _rules(self, spec, name, averages):
        """Returns what medianstop gives to a trial that begins now."""
        stopping = spec.get("earlyStopping")
        if stopping is None:
            return []
        assert stopping["algorithmName"] == "medianstop"
        settings = {one["name"]: int(one["value"]) for one in stopping["algorithmSettings"]}
        assert set(settings) == {"min_trials_required", "start_step"}
        for trial in self.katib_trials.values():
            if trial["metadata"]["name"].startswith(f"{name}-") and state(trial, "Succeeded"):
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
        values = {one["name"]: one["value"] for one in trial["spec"]["parameterAssignments"]}
        text = json.dumps(spec["trialTemplate"]["trialSpec"])
        for one in spec["trialTemplate"]["trialParameters"]:
            value = name if one["reference"] == "${trialSpec.Name}" else values[one["reference"]]
            text = text.replace(f"${{trialParameters.{one['name']}}}", value)
        [container] = json.loads(text)["spec"]["template"]["spec"]["containers"]
        assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
        folder = Path(self.folder) / "pods" / name
        folder.mkdir(parents=True)
        log = self.katib_logs[name] = folder / "metrics.log"
        process = self.processes[name] = subprocess.Popen(
            self._wrapped(container, trial, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                **{one["name"]: one["value"] for one in container["env"] if "value" in one},
            },
        )
        filters = [
            re.compile(one) for one in spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
        ]
        stopped = self._watched(process, trial, log, filters, spec["objective"]["objectiveMetricName"])
        status = process.wait()
        lines = log.read_text().splitlines() if log.exists() else []
        with self.lock:
            found = self._collected(lines, filters, spec["objective"]["objectiveMetricName"])
            trial["collected"] = found if self.collects else []
            trial["status"]["completionTime"] = now()
            if stopped:
                assert status == 0, lines
                condition(trial, "EarlyStopped", "Trial is early stopped")
            elif status != 0:
                condition(trial, "Failed", "Trial has failed")
            elif trial["collected"]:
                trial["status"]["observation"] = {
                    "metrics": [{"max": str(max(found)), "latest": str(found[-1])}]
                }
                condition(trial, "Succeeded", "Trial has succeeded")
            else:
                condition(trial, "MetricsUnavailable", "Metrics are not available")

    def _wrapped(self, container, trial, folder):
        """Returns the command as Katib's webhook leaves it."""
        words = [*container["command"], *container.get("args", ())]
        command = ["sh", "-c"]
        if words[0] in ("sh", "bash") and words[1] == "-c":
            command, words = words[:2], words[2:]
        words.append(f"1>{folder}/metrics.log 2>&1")
        if trial["spec"]["earlyStoppingRules"]:
            words += [
                "||",
                f"if test -f {folder}/$$.pid && [ $(head -n 1 {folder}/$$.pid) = early-stopped ]; "
                "then echo Training Container was Early Stopped; "
                "else echo Training Container was Failed; exit 1; fi",
            ]
        words += ["&&", f"echo completed > {folder}/$$.pid"]
        return [*command, " ".join(words)]

    def _watched(self, process, trial, log, filters, objective):
        """Follows the output; returns whether the rule stopped the trial, which is looked at once."""
        rules, seen = trial["spec"]["earlyStoppingRules"], 0
        while process.poll() is None:
            time.sleep(0.02)
            if not rules or not log.exists() or seen < 0:
                continue
            reported = self._reported(log.read_text().splitlines(), filters, objective)
            if len(reported) < rules[0]["startStep"]:
                continue
            seen = -1
            if reported[rules[0]["startStep"] - 1] < float(rules[0]["value"]):
                (log.parent / f"{process.pid}.pid").write_text("early-stopped\n")
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                assert len(children) == 1, "Multiple children processes are not supported"
                os.kill(int(children[0]), signal.SIGTERM)
                process.wait(60)
                return True
        return False

    def _reported(self, lines, filters, objective):
        """Returns the values in the order of the lines, as the collector counts them while a trial runs."""
        found = []
        for line in (line for line in lines if objective in line):
            for one in filters:
                found += [float(match[1]) for match in one.findall(line) if match[0] == objective]
        return found

    def _collected(self, lines, filters, objective):
        """Returns the values in the order of their times, as Katib's data base has them."""
        found = []
        for place, line in enumerate(line for line in lines if objective in line):
            try:
                stamp = datetime.fromisoformat(line.partition(" ")[0])
            except ValueError:
                # Without a time, the order is the data base's own.
                stamp = datetime(1, 1, 1, tzinfo=UTC)
                place = -place
            for one in filters:
                found += [(stamp, place, float(m[1])) for m in one.findall(line) if m[0] == objective]
        return [value for _, _, value in sorted(found)]


@contextmanager
def start_katib_server(folder):
    """Yields a server that runs what it is sent."""
    with start_kubeflow_server(folder) as held:
        held.__class__ = KatibServer
        held.begin()
        yield held
