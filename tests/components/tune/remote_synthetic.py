"""The command line of a trial on another machine, with a synthetic training run.

It reports evaluations as the training does: to hypertune, to stdout and to metrics.jsonl.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.common.step import run_command
from imgpipe.components.common.termination import defer_termination
from imgpipe.components.storage import parse_location
from imgpipe.components.train.job_dir import METRICS_FILE
from imgpipe.components.train.katib_lines import KATIB_TRIAL_NAME, is_stopped_by_katib, write_katib_line
from imgpipe.components.tune.remote_trial import main
from imgpipe.components.tune.trial_run import write_result

from .synthetic import STEPS, evaluation


def read_lines(file):
    try:
        return [json.loads(line) for line in file.read().splitlines()]
    except (OSError, MissingInputError):
        return []


def learn(task, should_stop):
    folder = parse_location(task.folder)
    rate = task.arguments["initial_learning_rate"]
    if os.environ.get("FAIL_ABOVE") and rate > float(os.environ["FAIL_ABOVE"]):
        raise RuntimeError("it crashed, as planned")
    tuner = None
    if "CLOUD_ML_TRIAL_ID" in os.environ:
        import hypertune

        tuner = hypertune.HyperTune()
    evaluations = read_lines(folder / METRICS_FILE)
    if os.environ.get(KATIB_TRIAL_NAME):
        for past in evaluations:
            write_katib_line("top_1_accuracy", past["top_1_accuracy"])
    log_event("resumed", f"train: starts after {len(evaluations)} evaluations")
    with defer_termination() as stopped:
        for step in range(10 * len(evaluations) + 10, STEPS + 1, 10):
            time.sleep(0.15)
            if stopped():
                break
            evaluations.append(evaluation(rate, step))
            value = evaluations[-1]["top_1_accuracy"]
            log_event("evaluation", f"train: step {step}: top_1_accuracy={value:.6g} loss={1 - value:.6g}")
            if os.environ.get(KATIB_TRIAL_NAME):
                write_katib_line("top_1_accuracy", value)
            if tuner:
                tuner.report_hyperparameter_tuning_metric("top_1_accuracy", value, step)
            lines = "".join(json.dumps(line) + "\n" for line in evaluations)
            (folder / METRICS_FILE).write(lines.encode())
        # The training notices a stop at the next step.
        time.sleep(0.15)
    time.sleep(float(os.environ.get("PUBLISH_SECONDS", "0")))
    is_evicted = stopped() and os.environ.get(KATIB_TRIAL_NAME) and not is_stopped_by_katib()
    if evaluations and not is_evicted:
        with tempfile.TemporaryDirectory() as model:
            (Path(model) / "saved_model.pb").write_text(str(rate))
            publish_model_at(Path(model), parse_location(task.model))
        write_result(folder, {**evaluations[-1], "examples": 100})
    if stopped():
        sys.exit(75)


if __name__ == "__main__":
    run_command("trial", lambda: main(sys.argv[1:], learn))
