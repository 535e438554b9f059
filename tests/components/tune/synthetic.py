"""A synthetic training run, computed from a formula; processes, connections and files are real.

``python -m tests.components.tune.synthetic SETTINGS`` runs a search of synthetic trials; SETTINGS is JSON.
"""

import dataclasses
import faulthandler
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from imgpipe.components.common.dataset import Manifest, read_manifest
from imgpipe.components.common.errors import CheckFailedError, InvalidDataError, PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.step import log_error
from imgpipe.components.common.termination import defer_termination
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import TuningSpec
from imgpipe.components.tune.search_space import read_request
from imgpipe.components.tune.trial_run import write_result
from imgpipe.components.tune.trials import SUCCEEDED

# Of a trial on another machine.
REMOTE_COMMAND = ("python", "-m", "tests.components.tune.remote_synthetic")
STEPS = 40
TRAINING = TrainingArguments(max_steps=STEPS, train_steps_per_eval=10, model_type="resnet-18", weights="none")
# Of a real network, on images of 32 pixels.
REAL_TRAINING = TrainingArguments(
    max_steps=4,
    train_batch_size=4,
    model_type="resnet-18",
    weights="none",
    image_size=32,
    train_steps_per_eval=1,
)


def accuracy(rate, step):
    """The best learning rate is 0.02; higher rates learn faster."""
    final = 0.98 - 0.04 * math.log(rate / 0.02) ** 2
    return max(0.1, final * (1 - math.exp(-6 * step / STEPS)))


def learn(task, should_stop):
    """Trains with one checkpoint per evaluation, and the faults that plan.json assigns to the trial."""
    folder, model = Path(task.folder), Path(task.model)
    plan = (
        json.loads((folder.parent / "plan.json").read_text())
        if (folder.parent / "plan.json").exists()
        else {}
    )
    fault = plan.get(str(task.trial), "")
    checkpoint = folder / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    rate = task.arguments["initial_learning_rate"]
    pause = plan.get("pause", 0.0)
    with (folder / "runs.txt").open("a") as file:
        file.write(f"{os.getpid()} {task.threads} {os.environ.get('CUDA_VISIBLE_DEVICES')} from {step}\n")
    evaluations = [evaluation(rate, at) for at in range(10, step + 1, 10)]
    with defer_termination() as stopped:
        while step < STEPS:
            step += 10
            time.sleep(pause)
            inject(fault, step)
            evaluations.append(evaluation(rate, step))
            reason = should_stop(evaluations)
            checkpoint.write_text(str(step))
            if stopped():
                sys.exit(75)
            if reason:
                break
    model.mkdir(parents=True, exist_ok=True)
    (model / "saved_model.pb").write_text(str(rate))
    best = evaluations[-1]
    write_result(parse_location(folder), {**best, "examples": 100})
    if fault == "linger":
        time.sleep(60)


def evaluation(rate, step):
    value = accuracy(rate, step)
    return {
        "step": step,
        "top_1_accuracy": value,
        "top_5_accuracy": 1.0,
        "loss": 1 - value,
        "train_loss": 0.5,
    }


def inject(fault, step):
    """Injects the planned fault at the second evaluation."""
    if step != 20 or not fault:
        return
    log_event("fault", f"about to inject the fault {fault}")
    if fault == "crash":
        raise RuntimeError("it crashed, as planned")
    if fault == "segfault":
        # Enabled by pytest; its stack dump is longer than the lines that are kept.
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "nan":
        raise CheckFailedError("the training loss is not a number any more at step 20")
    if fault == "data":
        raise InvalidDataError("an image cannot be decoded", remedy="validate the data")
    if fault == "hang":
        time.sleep(600)


def search(
    job_dir,
    *,
    tune="initial_learning_rate=log:0.001:0.2",
    warm=True,
    silence=60,
    seed=3,
    max_minutes=0.0,
    **settings,
):
    """Returns a search of synthetic trials."""
    # Imported here because it loads Optuna, which a search on other machines does not need.
    from imgpipe.components.tune.engines.local import LocalSearch

    training = dataclasses.replace(TRAINING, max_minutes=max_minutes)
    tuning = TuneArguments(tune=tune, seed=seed, trial_silence_limit=silence, **settings)
    spec = TuningSpec(
        read_request(tuning), tuning, training, job_dir / "dataset", Manifest((), {}, {}), job_dir
    )
    return LocalSearch(spec, warm=warm, function=learn)


def tuning_spec(dataset, job_dir, training=None, **settings):
    """Returns a tuning run on another machine, of six trials unless ``settings`` say otherwise."""
    settings = {"tune": "initial_learning_rate=log:0.001:0.2", "max_trials": 6, **settings}
    tuning = TuneArguments(**{"max_parallel_trials": min(3, settings["max_trials"]), **settings})
    request, manifest = read_request(tuning), read_manifest(dataset)
    return TuningSpec(request, tuning, training or TRAINING, dataset, manifest, job_dir)


def check_real_training(search):
    """Tunes real training runs with the real command of a trial, and checks what they report."""
    trials = search(
        command=("python", "-m", "imgpipe.components.tune.remote_trial"),
        training=REAL_TRAINING,
        max_trials=2,
        max_parallel_trials=1,
        trial_early_stopping="off",
        tune="initial_learning_rate=log:0.001:0.01; train_batch_size=2,4",
    ).run(lambda _: None)
    assert [trial.state for trial in trials] == [SUCCEEDED] * 2, trials
    for trial in trials:
        provenance = read_provenance(Path(trial.model))
        assert provenance["arguments"]["train_batch_size"] == trial.values["train_batch_size"]
        assert trial.objective is not None
        assert [evaluation["step"] for evaluation in trial.evaluations] == [1, 2, 3, 4]


def main():
    # Imported by name: a spawned trial cannot import __main__.
    from tests.components.tune import synthetic

    settings = json.loads(sys.argv[1])
    try:
        synthetic.search(Path(settings.pop("job_dir")), **settings).run(lambda _: None)
    except PipelineError as error:
        log_error("tune", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
