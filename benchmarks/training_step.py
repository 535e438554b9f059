"""A training step against stock Keras: ``model.fit`` on the same network, batch and data held in memory.

``python -m benchmarks.training_step``. Takes about fifteen minutes on two cores. ``--only`` chooses a part.
Both sides run in turns, each in a process of its own. The part ``frozen`` needs photos in
``../shared/data/flowers_224``, and the part ``start`` loads ImageNet weights where Keras has them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import REPOSITORY, print_result, print_table, run

PARTS = ("step", "start", "frozen")
# The batch and the steps that are measured after the first two: about ten seconds a side.
_MODELS: Mapping[str, tuple[int, int]] = {"resnet-50": (16, 5), "efficientnet-b0": (32, 5)}
_FLOWERS = REPOSITORY.parent / "shared" / "data" / "flowers_224"
_FROZEN_EPOCHS = 10
_FROZEN_BATCH = 32

Name = TypeVar("Name")
Side = Mapping[str, float]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    print_result(**measure(given.only or PARTS, turns=given.turns))


def measure(parts: Sequence[str] = PARTS, *, turns: int = 3) -> dict[str, float]:
    """Prints the tables and returns the ratios by their names; without photos, none for ``frozen``."""
    result: dict[str, float] = {}
    if "step" in parts:
        result |= _steps(turns)
    if "start" in parts:
        result["seconds_to_first_step"] = _start(turns)
    if "frozen" in parts:
        if _FLOWERS.is_dir():
            result["frozen_speedup"] = _frozen()
        else:
            print(f"NOT MEASURED: frozen_speedup needs the photos in {_FLOWERS}")
    return result


def _steps(turns: int) -> dict[str, float]:
    sides: dict[tuple[str, str], Callable[[], Side]] = {}
    for model, (batch, steps) in _MODELS.items():
        sides[model, "fit"] = _side("fit", model, batch, steps)
        sides[model, "float32"] = _side("ours", model, batch, steps, "float32")
    batch, steps = _MODELS["resnet-50"]
    sides["resnet-50", "bfloat16"] = _side("ours", "resnet-50", batch, steps, "bfloat16")
    measured = _in_turns(sides, turns)
    rows = [
        (model, side, f"{_median(runs, 'first_step'):.1f}", f"{_median(runs, 'images_per_second'):.2f}")
        for (model, side), runs in measured.items()
    ]
    print_table(("network", "side", "seconds to first step", "images/s"), rows)

    def ratio(model: str, side: str, name: str) -> float:
        both = zip(measured[model, side], measured[model, "fit"], strict=True)
        return statistics.median(ours[name] / fit[name] for ours, fit in both)

    return {
        **{f"step_vs_fit_{model}": ratio(model, "float32", "images_per_second") for model in _MODELS},
        "step_vs_fit_bf16_resnet-50": ratio("resnet-50", "bfloat16", "images_per_second"),
        # Of the slower one: from the start of the process on.
        "first_step_vs_fit": max(ratio(model, "float32", "first_step") for model in _MODELS),
    }


def _start(turns: int) -> float:
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder = Path(name)
        rows = folder / "images" / "rows.csv"
        names = write_corpus(folder / "images", images=300)
        write_rows(rows, names, rows=300)
        data = folder / "data"
        run(["-m", "imgpipe.components.convert", f"--train_csv={rows}", f"--output_dir={data}"])
        runs = _in_turns({"ours": _side("start", "mobilenet-v2", str(data))}, turns)["ours"]
    pieces = [(piece, f"{_median(runs, piece):.2f}") for piece in runs[0]]
    print_table(("mobilenet-v2 at 224, batch 32", "seconds"), pieces)
    return _median(runs, "first step done")


def _frozen() -> float:
    """Returns how many times as long stock Keras takes for ten epochs with a frozen backbone.

    Two epochs of it are run, and the second counted nine times: an epoch is like the next.
    """
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        data = Path(name) / "data"
        run(["-m", "imgpipe.components.convert", f"--images={_FLOWERS}", f"--output_dir={data}"])
        examples = sum(1 for path in (_FLOWERS / "train").rglob("*") if path.is_file())
        steps = _FROZEN_EPOCHS * examples // _FROZEN_BATCH
        ours = run(
            [
                *("-m", "imgpipe.components.train", f"--job-dir={name}/job", "--model_type=mobilenet-v2"),
                *(f"--training_data_path={data}/train-*", f"--validation_data_path={data}/validation-*"),
                *("--freeze=backbone", "--initial_learning_rate=0.05", f"--max_steps={steps}"),
                *(f"--train_batch_size={_FROZEN_BATCH}", f"--train_steps_per_eval={steps // _FROZEN_EPOCHS}"),
            ]
        ).seconds
        fit = _side("frozen-fit", str(_FLOWERS), _FROZEN_BATCH)()
    theirs = fit["first_epoch_done"] + (_FROZEN_EPOCHS - 1) * fit["second_epoch"]
    print_table(
        ("mobilenet-v2 frozen, ten epochs of photos, process start to end", "seconds"),
        [("model.fit (epochs 3 to 10 like the second)", f"{theirs:.0f}"), ("ours", f"{ours:.0f}")],
    )
    return theirs / ours


def _side(*words: object) -> Callable[[], Side]:
    def measured() -> Side:
        command = [sys.executable, "-m", "benchmarks.training_step_side", str(time.time()), *map(str, words)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        values: Side = json.loads(done.stdout.splitlines()[-1])
        return values

    return measured


def _in_turns(sides: Mapping[Name, Callable[[], Side]], turns: int) -> dict[Name, list[Side]]:
    measured: dict[Name, list[Side]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            measured[name].append(side())
    return measured


def _median(runs: Sequence[Side], name: str) -> float:
    return statistics.median(values[name] for values in runs)


if __name__ == "__main__":
    main()
