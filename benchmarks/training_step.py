"""Compares the training step with stock Keras: ``model.fit`` on the same network, batch and data in memory.

``python -m benchmarks.training_step`` takes about fifteen minutes on two cores; ``--only`` selects a part.
Both sides run alternately, each run in a separate process. The part ``frozen`` needs photos in
``../shared/data/flowers_224`` and the ImageNet weights of mobilenet-v2. The part ``start`` loads these
weights if Keras has cached them.
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

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import REPOSITORY, in_turns, print_result, print_table, run
from benchmarks.needs import check_needs

PARTS = ("step", "start", "frozen")
# Batch size, and steps that are measured after the first two: about ten seconds per side.
_MODELS: Mapping[str, tuple[int, int]] = {"resnet-50": (16, 5), "efficientnet-b0": (32, 5)}
_FLOWERS = REPOSITORY.parent / "shared" / "data" / "flowers_224"
_FROZEN_EPOCHS = 10
_FROZEN_BATCH = 32

Side = Mapping[str, float]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print_result(**measure(options.only or PARTS, turns=options.turns))


def measure(parts: Sequence[str] = PARTS, *, turns: int = 3) -> dict[str, float]:
    """Prints the tables and returns the ratios by name; ``frozen`` is left out without photos."""
    if "frozen" in parts and not _FLOWERS.is_dir():
        print(f"NOT MEASURED: frozen_speedup needs the photos in {_FLOWERS}", flush=True)
        parts = [part for part in parts if part != "frozen"]
    check_needs(
        minutes=5 * len(parts), disk_gb=0.5, weights={"mobilenet-v2": 224} if "frozen" in parts else {}
    )
    result: dict[str, float] = {}
    if "step" in parts:
        result |= _steps(turns)
    if "start" in parts:
        result["seconds_to_first_step"] = _start(turns)
    if "frozen" in parts:
        result["frozen_speedup"] = _frozen()
    return result


def _steps(turns: int) -> dict[str, float]:
    sides: dict[tuple[str, str], Callable[[], Side]] = {}
    for model, (batch, steps) in _MODELS.items():
        sides[model, "fit"] = _side("fit", model, batch, steps)
        sides[model, "float32"] = _side("ours", model, batch, steps, "float32")
    batch, steps = _MODELS["resnet-50"]
    sides["resnet-50", "bfloat16"] = _side("ours", "resnet-50", batch, steps, "bfloat16")
    measured = in_turns(sides, turns)
    rows = [
        (model, side, f"{_median(runs, 'first_step'):.1f}", f"{_median(runs, 'images_per_second'):.2f}")
        for (model, side), runs in measured.items()
    ]
    print_table(("network", "side", "seconds to first step", "images/s"), rows)

    def ratio(model: str, side: str, name: str) -> float:
        pairs = zip(measured[model, side], measured[model, "fit"], strict=True)
        return statistics.median(ours[name] / fit[name] for ours, fit in pairs)

    return {
        **{f"step_vs_fit_{model}": ratio(model, "float32", "images_per_second") for model in _MODELS},
        "step_vs_fit_bf16_resnet-50": ratio("resnet-50", "bfloat16", "images_per_second"),
        # From the start of the process, for the network with the higher ratio.
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
        runs = in_turns({"ours": _side("start", "mobilenet-v2", str(data))}, turns)["ours"]
    phases = [(phase, f"{_median(runs, phase):.2f}") for phase in runs[0]]
    print_table(("mobilenet-v2 at 224, batch 32", "seconds"), phases)
    return _median(runs, "first step done")


def _frozen() -> float:
    """Returns the time of stock Keras for ten epochs with a frozen backbone, relative to ours.

    Keras runs two epochs, and the second one is counted nine times, since epochs take equal time.
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
    keras_seconds = fit["first_epoch_done"] + (_FROZEN_EPOCHS - 1) * fit["second_epoch"]
    print_table(
        ("mobilenet-v2 frozen, ten epochs of photos, process start to end", "seconds"),
        [
            ("model.fit (epochs 3 to 10 as the second)", f"{keras_seconds:.0f}"),
            ("ours", f"{ours:.0f}"),
        ],
    )
    return keras_seconds / ours


def _side(*arguments: object) -> Callable[[], Side]:
    def run_side() -> Side:
        module = ["-m", "benchmarks.training_step_side", str(time.time())]
        command = [sys.executable, *module, *map(str, arguments)]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
        values: Side = json.loads(result.stdout.splitlines()[-1])
        return values

    return run_side


def _median(runs: Sequence[Side], name: str) -> float:
    return statistics.median(values[name] for values in runs)


if __name__ == "__main__":
    main()
