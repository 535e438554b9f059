"""The benefit of early stopping, Bayesian search and parallel trials, and the overhead of the tuner.

``python -m benchmarks.tune``. Takes about ten minutes on two cores. Trials are trained on the digits, one at
a time and two in parallel. Their learning curves, and synthetic ones, are then replayed for ten seeds with
and without early stopping: the tuner, its processes and its study are real, only the training is simulated.
"""

import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import print_result, print_table
from benchmarks.needs import check_needs
from benchmarks.tune_curves import PLAN, STEPS, learn
from imgpipe.components.common.dataset import Manifest, read_manifest
from imgpipe.components.common.log import parse_event
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import TuningSpec
from imgpipe.components.tune.engines.local import LocalSearch
from imgpipe.components.tune.search_space import read_request
from imgpipe.components.tune.study import open_study
from imgpipe.components.tune.trial_process import TrialFunction
from imgpipe.components.tune.trial_run import LOG_FILE, run_trial
from imgpipe.components.tune.trials import Trial

SEEDS = range(10)
RATE = "initial_learning_rate=log:0.001:0.2"
TRIALS, PARALLEL = 6, 3
DIGITS_TRIALS = 6
SEARCH_TRIALS = 30
DIGITS = TrainingArguments(
    model_type="resnet-18",
    image_size=32,
    weights="none",
    max_steps=100,
    train_batch_size=32,
    warmup_steps=10,
    train_steps_per_eval=5,
    weight_decay=5e-4,
)


def main() -> None:
    """Runs the benchmark."""
    check_needs(minutes=10, disk_gb=0.5)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder = Path(name)
        synthetic = [_compare_stopping(folder / f"synthetic-{seed}", seed, []) for seed in SEEDS]
        overhead = _overhead(folder / "overhead")
        regret = {kind: _regret(folder / kind, kind) for kind in ("bayesian", "random")}
        dataset = _digits(folder)
        alone, alone_seconds = _digits_search(folder / "alone", dataset, parallel=1)
        together, together_seconds = _digits_search(folder / "together", dataset, parallel=2)
        recorded = [
            {
                "rate": trial.values["initial_learning_rate"],
                "values": [(point["step"], point["top_1_accuracy"]) for point in trial.evaluations],
            }
            for trial in (*alone, *together)
        ]
        digits = [
            _compare_stopping(folder / f"digits-{seed}", seed, _sample(recorded, seed)) for seed in SEEDS
        ]
        startup = statistics.median(_startup(folder / "alone", trial) for trial in alone)
    rows = [
        (
            title,
            f"{statistics.mean(shares):.3f}",
            f"{100 * statistics.mean(losses):.2f}",
            f"{min(stopped)} to {max(stopped)}",
        )
        for title, results in (("synthetic", synthetic), ("digits", digits))
        for shares, losses, stopped in [zip(*results, strict=True)]
    ]
    print_table(("curves", "share of steps", "accuracy loss in points", "trials stopped"), rows)
    print(
        f"regret after {SEARCH_TRIALS} trials: random {regret['random']:.4f}, "
        f"bayesian {regret['bayesian']:.4f}"
    )
    print(
        f"{DIGITS_TRIALS} trials on the digits: {alone_seconds:.0f} s one at a time, "
        f"{together_seconds:.0f} s two in parallel"
    )
    shares, losses, _ = zip(*synthetic, *digits, strict=True)
    print_result(
        steps_share=statistics.mean(shares),
        # A fraction; the table has points.
        accuracy_loss=statistics.mean(losses),
        bayesian_vs_random=regret["bayesian"] / regret["random"],
        parallel_time_share=together_seconds / alone_seconds,
        overhead_s=overhead,
        trial_startup_s=startup,
    )


def _compare_stopping(folder: Path, seed: int, recorded: Sequence[Any]) -> tuple[float, float, int]:
    """Returns the share of steps, the accuracy loss and the stopped trials of early stopping.

    Both searches try the same values.
    """
    results = {}
    for stopping in ("on", "off"):
        job_dir = folder / stopping
        (job_dir / "trials").mkdir(parents=True)
        plan = {"seed": seed, "recorded": list(recorded), "pause": 0.01}
        (job_dir / "trials" / PLAN).write_text(json.dumps(plan), encoding="utf-8")
        results[stopping] = _run(
            job_dir,
            TuneArguments(
                tune=RATE,
                max_trials=TRIALS,
                max_parallel_trials=PARALLEL,
                trial_early_stopping=stopping,
                search_algorithm="random",
                seed=seed,
            ),
            TrainingArguments(max_steps=_steps_of(recorded)),
            folder,
            learn,
        )
    steps = {name: sum(trial.steps for trial in trials) for name, trials in results.items()}
    best = {name: max(trial.objective or 0.0 for trial in trials) for name, trials in results.items()}
    stopped = sum(bool(trial.stop_reason) for trial in results["on"])
    return steps["on"] / steps["off"], best["off"] - best["on"], stopped


def _steps_of(recorded: Sequence[Any]) -> int:
    return int(recorded[0]["values"][-1][0]) if recorded else STEPS


def _sample(recorded: Sequence[Any], seed: int) -> list[Any]:
    indices = np.random.default_rng(seed).choice(len(recorded), TRIALS + 2, replace=False)
    return [recorded[index] for index in indices]


def _overhead(folder: Path) -> float:
    (folder / "trials").mkdir(parents=True)
    (folder / "trials" / PLAN).write_text(json.dumps({"seed": 0, "recorded": [], "pause": 0.0}))
    arguments = TuneArguments(tune=RATE, max_trials=20, trial_early_stopping="on")
    started = time.monotonic()
    _run(folder, arguments, TrainingArguments(max_steps=200), folder, learn)
    return (time.monotonic() - started) / 20


def _regret(folder: Path, algorithm: str) -> float:
    """Returns the difference between the optimum of a surface and the best trial, mean over the seeds."""
    regrets = []
    for seed in SEEDS:
        tuned = f"{RATE}; weight_decay=log:1e-6:1e-2; label_smoothing=linear:0:0.5"
        request = read_request(
            TuneArguments(tune=tuned, max_trials=SEARCH_TRIALS, search_algorithm=algorithm)
        )
        best = 0.0
        with open_study(folder / str(seed), request, identity={}, seed=seed) as study:
            for _ in range(SEARCH_TRIALS):
                trial = study.ask(1)
                value = _surface(trial.values, seed)
                best = max(best, value)
                study.succeed(trial.id, {"step": 1, "top_1_accuracy": value, "loss": 1 - value}, "")
        regrets.append(1 - best)
    return statistics.mean(regrets)


def _surface(values: dict[str, Any] | Any, seed: int) -> float:
    """Returns a smooth function of three parameters; its maximum, 1, depends on the seed."""
    draw = np.random.default_rng(seed)
    rate = math.log(values["initial_learning_rate"] / math.exp(draw.uniform(math.log(0.005), math.log(0.08))))
    decay = math.log(values["weight_decay"] / math.exp(draw.uniform(math.log(1e-5), math.log(1e-3))))
    smoothing = values["label_smoothing"] - draw.uniform(0.05, 0.3)
    return math.exp(-(0.15 * rate**2 + 0.02 * decay**2 + 1.5 * smoothing**2 + 0.03 * rate * decay))


def _digits(folder: Path) -> Path:
    from imgpipe.components.convert.arguments import ConvertArguments
    from imgpipe.components.convert.convert import convert
    from imgpipe.pipelines.sample_data import write_digits

    with _quiet():
        convert(ConvertArguments(train_csv=str(write_digits(folder / "raw"))), folder / "digits")
    return folder / "digits"


def _digits_search(job_dir: Path, dataset: Path, *, parallel: int) -> tuple[Sequence[Trial], float]:
    """Returns the trials and the seconds of a search on the digits without early stopping."""
    arguments = TuneArguments(
        tune=RATE,
        max_trials=DIGITS_TRIALS,
        max_parallel_trials=parallel,
        trial_early_stopping="off",
        search_algorithm="random",
        # Different values, to have more curves to replay; they do not change the time of a step.
        seed=parallel,
    )
    started = time.monotonic()
    trials = _run(job_dir, arguments, DIGITS, dataset, run_trial)
    return trials, time.monotonic() - started


def _run(
    job_dir: Path,
    arguments: TuneArguments,
    training: TrainingArguments,
    dataset: Path,
    function: TrialFunction,
) -> Sequence[Trial]:
    manifest = read_manifest(dataset) if function is run_trial else Manifest((), {}, {})
    spec = TuningSpec(read_request(arguments), arguments, training, dataset, manifest, job_dir)
    with _quiet():
        return LocalSearch(spec, function=function).run(lambda _: None)


def _startup(job_dir: Path, trial: Trial) -> float:
    """Returns the seconds from the decision to start a trial until its network is built."""
    started = datetime.fromisoformat(trial.started).timestamp()
    for line in (job_dir / "trials" / str(trial.id) / LOG_FILE).read_text(encoding="utf-8").splitlines():
        event = parse_event(line)
        if event and event["event"] == "model_built":
            return datetime.fromisoformat(event["time"]).timestamp() - started
    raise RuntimeError(f"trial {trial.id} did not build a model")


@contextmanager
def _quiet() -> Iterator[None]:
    with redirect_stdout(StringIO()):
        yield


if __name__ == "__main__":
    main()
