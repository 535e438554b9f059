"""Vertex AI's tuning on loopback: trials run in parallel as processes and are stopped by the median rule.

A trial gets its parameters on the command line and its number in the environment. It reports to a file
written by the library ``hypertune``, as on Vertex AI.
"""

import json
import math
import random
import statistics
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from google.cloud import aiplatform_v1 as vertex

from .processes import end_process, start_process
from .vertex import STATES, VertexServer, start_vertex_server

TRIAL = vertex.Trial.State


class TuningServer(VertexServer):
    """Runs the trials of HyperparameterTuningJobs."""

    def _create(self, parent, collection, query, body):
        before = set(self.resources)
        status, content = super()._create(parent, collection, query, body)
        for name in set(self.resources) - before:
            if collection == "hyperparameterTuningJobs" and self.run_commands:
                threading.Thread(target=self._tune, args=(name,), daemon=True).start()
        return status, content

    def _cancel(self, name):
        super()._cancel(name)
        for trial, process in list(self.processes.items()):
            if trial.startswith(f"{name}/"):
                end_process(process)

    def _tune(self, name):
        job = self.resources[name]
        generator = random.Random(4)  # noqa: S311 - not a secret
        with self.lock:
            job.state = STATES.JOB_STATE_RUNNING
        threads = []
        for number in range(1, job.max_trial_count + 1):
            while sum(thread.is_alive() for thread in threads) >= job.parallel_trial_count:
                time.sleep(0.01)
            if job.state == STATES.JOB_STATE_CANCELLED or self._too_many_failed(job):
                break
            with self.lock:
                parameters = [self._sample(spec, generator) for spec in job.study_spec.parameters]
                job.trials.append(
                    vertex.Trial(
                        id=str(number),
                        state=TRIAL.ACTIVE,
                        parameters=parameters,
                        start_time=datetime.now(UTC),
                    )
                )
            threads.append(threading.Thread(target=self._trial, args=(name, number - 1), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join()
        with self.lock:
            if job.state == STATES.JOB_STATE_CANCELLED:
                return
            if self._too_many_failed(job):
                job.state = STATES.JOB_STATE_FAILED
                job.error = {"code": 3, "message": "Too many failed trials; the last: non-zero status of 70"}
            else:
                job.state = STATES.JOB_STATE_SUCCEEDED

    def _too_many_failed(self, job):
        failed = sum(trial.state == TRIAL.INFEASIBLE for trial in job.trials)
        return bool(job.max_failed_trial_count) and failed >= job.max_failed_trial_count

    def _sample(self, spec, generator):
        kind = vertex.StudySpec.ParameterSpec.pb(spec).WhichOneof("parameter_value_spec")
        if kind == "categorical_value_spec":
            value = generator.choice(list(spec.categorical_value_spec.values))
        elif kind == "discrete_value_spec":
            value = generator.choice(list(spec.discrete_value_spec.values))
        else:
            low, high = getattr(spec, kind).min_value, getattr(spec, kind).max_value
            scales = vertex.StudySpec.ParameterSpec.ScaleType
            value = generator.uniform(low, high)
            if spec.scale_type == scales.UNIT_LOG_SCALE:
                value = math.exp(generator.uniform(math.log(low), math.log(high)))
            if kind == "integer_value_spec":
                # The service passes whole numbers as floats.
                value = float(round(value))
        return {"parameter_id": spec.parameter_id, "value": value}

    def _trial(self, name, index):
        job = self.resources[name]
        trial = job.trials[index]
        container = job.trial_job_spec.worker_pool_specs[0].container_spec
        parameters = [f"--{parameter.parameter_id}={parameter.value}" for parameter in trial.parameters]
        metrics = Path(self.folder) / "hypertune" / name.split("/")[-1] / trial.id
        metrics.parent.mkdir(parents=True, exist_ok=True)
        key = f"{name}/{trial.id}"
        with self.lock:
            if job.state == STATES.JOB_STATE_CANCELLED:
                return
            process = self.processes[key] = start_process(
                self.local_command(*container.command, *container.args, *parameters),
                CLOUD_ML_TRIAL_ID=trial.id,
                CLOUD_ML_HP_METRIC_FILE=str(metrics),
            )
        lines = self.logs.setdefault(key, [])
        reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        reader.start()
        stopped = False
        while process.poll() is None:
            time.sleep(0.02)
            self._measure(job, index, metrics)
            if not stopped and self._is_unpromising(job, index):
                stopped = True
                with self.lock:
                    job.trials[index].state = TRIAL.STOPPING
                end_process(process)
        reader.join()
        self._measure(job, index, metrics)
        with self.lock:
            trial = job.trials[index]
            trial.end_time = datetime.now(UTC)
            if process.returncode == 0 or stopped:
                trial.state = TRIAL.SUCCEEDED
                trial.final_measurement = max(
                    trial.measurements, key=lambda measurement: measurement.metrics[0].value, default=None
                )
            else:
                trial.state = TRIAL.INFEASIBLE
                trial.infeasible_reason = f"exited with a non-zero status of {process.returncode}"

    def _measure(self, job, index, metrics):
        try:
            reported = [json.loads(line) for line in metrics.read_text().splitlines()]
        except (OSError, ValueError):
            return
        metric = job.study_spec.metrics[0].metric_id
        measurements = [
            {
                "step_count": int(report["global_step"]),
                "metrics": [{"metric_id": metric, "value": float(report[metric])}],
            }
            for report in reported
        ]
        with self.lock:
            job.trials[index].measurements = measurements

    def _is_unpromising(self, job, index):
        if "median_automated_stopping_spec" not in job.study_spec:
            return False
        own = job.trials[index].measurements
        if len(own) < 2:
            return False
        step = own[-1].step_count
        others = [
            statistics.mean(
                measurement.metrics[0].value
                for measurement in trial.measurements
                if measurement.step_count <= step
            )
            for other, trial in enumerate(job.trials)
            if other != index and trial.measurements and trial.measurements[-1].step_count >= step
        ]
        best = max(measurement.metrics[0].value for measurement in own)
        return len(others) >= 2 and best < statistics.median(others)


@contextmanager
def start_tuning_server(folder):
    """Yields a server that runs jobs and trials."""
    with start_vertex_server(folder, TuningServer) as server:
        server.run_commands = True
        yield server
