"""A whole run on one machine, compared with one script that does the same; and the steps of each pipeline.

``python -m benchmarks.run``. Both sides train on scikit-learn's digits, with the same number of steps and
one evaluation at the end: `imgpipe run`, whose steps are processes, and ``benchmarks.run_script``, which
calls the steps' functions in one process. ``run_vs_script`` is how many times as long the run takes.

``steps`` is the largest number of tasks of a compiled pipeline: on Kubeflow and Vertex AI, each costs the
platform about 20 seconds.
"""

import argparse
import statistics
import sys
import tempfile
from itertools import count
from pathlib import Path

import yaml

from benchmarks.measure import (
    Measured,
    in_turns,
    median_seconds,
    print_result,
    print_table,
    ratio,
    run,
)
from benchmarks.needs import check_needs
from imgpipe.components.common.log import parse_event
from imgpipe.pipelines.compiled_pipelines import COMPILED

MAX_RATIO, MAX_STEPS = 1.3, 6
# Of the training: enough for a run as short as one that trains on a few hundred photos.
_TRAINING_STEPS = 50


def main() -> int:
    """Prints the tables and the result; returns 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="times that each side runs")
    turns = parser.parse_args().turns
    check_needs(minutes=turns, disk_gb=2, packages=["sklearn"])
    tasks = tasks_of_pipelines()
    print_table(("pipeline", "steps"), [(name, " ".join(steps)) for name, steps in tasks.items()])
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder, numbers = Path(name), count()
        sides = {
            "imgpipe run": lambda: _imgpipe_run(folder / str(next(numbers))),
            "script": lambda: _script(folder / str(next(numbers))),
        }
        # Reads the files of TensorFlow and writes bytecode.
        sides["script"]()
        measured = in_turns(sides, turns)
        work = statistics.median(work_seconds(log) for log in folder.glob("*/run.log"))
    print_table(
        ("side", "seconds", "least", "most"),
        [
            (
                side,
                f"{median_seconds(runs):.1f}",
                f"{min(run.seconds for run in runs):.1f}",
                f"{max(run.seconds for run in runs):.1f}",
            )
            for side, runs in measured.items()
        ],
    )
    run_vs_script = ratio(measured["imgpipe run"], measured["script"])
    most_steps = max(map(len, tasks.values()))
    print_result(
        run_vs_script=run_vs_script,
        run_seconds=median_seconds(measured["imgpipe run"]),
        script_seconds=median_seconds(measured["script"]),
        run_overhead_seconds=median_seconds(measured["imgpipe run"]) - work,
        steps=most_steps,
    )
    return int(run_vs_script > MAX_RATIO or most_steps > MAX_STEPS)


def tasks_of_pipelines() -> dict[str, list[str]]:
    """Returns the tasks of each compiled pipeline, those of nested graphs too, by its target and name."""
    tasks = {}
    for file in sorted(COMPILED.rglob("*.yaml")):
        spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        graphs = [spec["root"], *(part for part in spec["components"].values() if "dag" in part)]
        tasks[f"{file.parent.name}/{file.stem}"] = [
            name for graph in graphs for name in graph["dag"]["tasks"]
        ]
    return tasks


def work_seconds(log: Path) -> float:
    """Returns the time that the components of a run worked, without the starts of processes."""
    events = (event for line in log.read_text(encoding="utf-8").splitlines() if (event := parse_event(line)))
    return float(sum(event["work_seconds"] for event in events if event["event"] == "step_finished"))


def _imgpipe_run(folder: Path) -> Measured:
    options = ["--max-steps", str(_TRAINING_STEPS), "--train-steps-per-eval", str(_TRAINING_STEPS)]
    command = [str(Path(sys.executable).with_name("imgpipe")), "run", "--job-dir", str(folder), *options]
    return run(command, measure_memory=False)


def _script(folder: Path) -> Measured:
    command = ["-m", "benchmarks.run_script", str(folder), str(_TRAINING_STEPS)]
    return run(command, measure_memory=False)


if __name__ == "__main__":
    sys.exit(main())
