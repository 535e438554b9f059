"""Measures the accuracy and the training time of the recipes.

``python -m benchmarks.accuracy [--photos FOLDER] [--seeds 0,1,2] [RECIPE ...]`` runs the training job of each
recipe with each seed in a separate process, prints a table and ends with one JSON line: the mean accuracy
``top_1_<recipe>`` and the longest training ``seconds_<recipe>`` of each recipe.

``calibration`` trains frozen-backbone on ``flowers_224/train``, with a fifth set aside for validation, and
measures the served model on ``flowers_224/val``, which neither the training nor the temperature has used:
``ece`` and ``ece_before``, the mean expected calibration error with and without the temperature, the mean
accuracy ``top_1_calibration`` and ``set_coverage``, the mean share of true labels in the label sets.

The folder of photos contains ``flowers_224`` (``train`` and ``val``) and ``flowers_original``; without it,
the recipes for photos are skipped with a message. ``flowers_original``, which is small, is cross-validated
with five parts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import REPOSITORY, print_result, print_table
from benchmarks.needs import check_needs
from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.pipelines.sample_data import write_digits

_DIGITS = ("digits", "digits-efficientnet")
_FLOWERS = ("head-then-fine-tune", "frozen-backbone", "fine-tune")
_ORIGINALS = "originals"
_CALIBRATION = "calibration"
_PARTS = 5


@dataclass(frozen=True)
class Trained:
    """The result of one training run.

    Attributes:
        top_1_accuracy: Accuracy of the best evaluation.
        seconds: Duration of the whole process.
    """

    top_1_accuracy: float
    seconds: float


def train(
    recipe: str, dataset: Path, seed: int, job_dir: Path | None = None, *, max_minutes: float = 0.0
) -> Trained:
    """Trains in a separate process; without ``job_dir``, the model is not kept.

    Raises:
        RuntimeError: if the training fails, with the end of its output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = job_dir or Path(temporary)
        command = [
            *(sys.executable, "-m", "imgpipe.components.train"),
            f"--training_data_path={dataset}/{TRAIN}-*",
            f"--validation_data_path={dataset}/{VALIDATION}-*",
            f"--job_dir={folder}",
            f"--seed={seed}",
            f"--recipe={recipe}",
            f"--max_minutes={max_minutes}",
        ]
        started = time.monotonic()
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if result.returncode:
            raise RuntimeError(f"{recipe} failed:\n{(result.stdout + result.stderr)[-3000:]}")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    return Trained(max(json.loads(line)["top_1_accuracy"] for line in lines), seconds)


def digits_dataset(folder: Path) -> Path:
    """Converts the digits to a data set."""
    source = write_digits(folder / "sample")
    convert(ConvertArguments(train_csv=str(source)), folder / "digits")
    return folder / "digits"


def flowers_dataset(photos: Path, folder: Path) -> Path:
    """Converts the small photos, with their given split, to a data set."""
    convert(ConvertArguments(images=str(photos / "flowers_224")), folder / "flowers")
    return folder / "flowers"


def original_datasets(photos: Path, folder: Path) -> list[Path]:
    """Converts the large photos to five data sets, each with another part for validation."""
    paths = sorted((photos / "flowers_original").glob("*/*.*"))
    datasets = []
    for part in range(_PARTS):
        lists = {TRAIN: folder / f"train{part}.csv", VALIDATION: folder / f"validation{part}.csv"}
        # The paths are sorted by class, so taking every fifth photo stratifies the split.
        splits = {VALIDATION: paths[part::_PARTS]}
        splits[TRAIN] = [path for path in paths if path not in set(splits[VALIDATION])]
        for split, file in lists.items():
            file.write_text("".join(f"{path},{path.parent.name}\n" for path in splits[split]))
        dataset = folder / f"originals{part}"
        convert(ConvertArguments(train_csv=str(lists[TRAIN]), validation_csv=str(lists[VALIDATION])), dataset)
        datasets.append(dataset)
    return datasets


def calibration_dataset(photos: Path, folder: Path) -> Path:
    """Converts the small photos to a data set with the split ``val`` for testing."""
    lists = {name: folder / f"{name}.csv" for name in ("train", "val")}
    for name, file in lists.items():
        paths = sorted((photos / "flowers_224" / name).glob("*/*.*"))
        file.write_text("".join(f"{path},{path.parent.name}\n" for path in paths))
    dataset = folder / "calibration"
    convert(ConvertArguments(train_csv=str(lists["train"]), test_csv=str(lists["val"])), dataset)
    return dataset


def evaluate_on_test(dataset: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Returns the content of metrics.json of an evaluation on the test split."""
    command = [
        *(sys.executable, "-m", "imgpipe.components.evaluate"),
        f"--dataset={dataset}",
        f"--model={model}",
        f"--output={folder}",
        "--evaluation_split=test",
        "--champion=none",
    ]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def calibration(photos: Path, folder: Path, seeds: Sequence[int]) -> dict[str, float]:
    """Prints the calibration of each seed's model on the test images, and returns the means."""
    dataset = calibration_dataset(photos, folder)
    rows, found = [], []
    for seed in seeds:
        job_dir = folder / f"job{seed}"
        train("frozen-backbone", dataset, seed, job_dir)
        metrics = evaluate_on_test(dataset, job_dir / "model", folder / f"evaluation{seed}")
        scaling = metrics["temperature_scaling"]
        values = {
            "ece": metrics["calibration"]["expected_calibration_error"],
            "ece_before": scaling["before"]["expected_calibration_error"],
            "top_1_calibration": metrics["top_1_accuracy"],
            "set_coverage": metrics["label_sets"]["coverage"],
        }
        found.append(values)
        rows.append(
            (str(seed), f"{scaling['temperature']:g}", *(f"{value:.4f}" for value in values.values()))
        )
    print_table(("seed", "temperature", "ECE", "ECE before", "top-1 accuracy", "set coverage"), rows)
    return {name: statistics.mean(values[name] for values in found) for name in found[0]}


def main(command_line: Sequence[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder with flowers_224 and flowers_original")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds")
    parser.add_argument("recipes", nargs="*", default=[*_DIGITS, *_FLOWERS, _ORIGINALS, _CALIBRATION])
    options = parser.parse_args(command_line)
    photos = [recipe for recipe in options.recipes if recipe not in _DIGITS and options.photos]
    check_needs(
        minutes=5 * len(options.recipes) * (1 + options.seeds.count(",")),
        disk_gb=2,
        weights={"mobilenet-v2": 224} if photos else {},
    )
    seeds = [int(seed) for seed in options.seeds.split(",")]
    trained: dict[str, list[Trained]] = {}
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for recipe in options.recipes:
            if recipe not in _DIGITS and options.photos is None:
                print(f"SKIPPED: {recipe} needs --photos", file=sys.stderr)
                continue
            if recipe == _CALIBRATION:
                values |= calibration(options.photos, folder, seeds)
                continue
            if recipe == _ORIGINALS:
                datasets = original_datasets(options.photos, folder)
                trained[recipe] = [train("frozen-backbone", dataset, seeds[0]) for dataset in datasets]
                continue
            dataset = folder / ("digits" if recipe in _DIGITS else "flowers")
            if not dataset.exists():
                _ = digits_dataset(folder) if recipe in _DIGITS else flowers_dataset(options.photos, folder)
            trained[recipe] = [train(recipe, dataset, seed) for seed in seeds]
    rows = []
    for recipe, results in trained.items():
        accuracies = [result.top_1_accuracy for result in results]
        seconds = [result.seconds for result in results]
        rows.append(
            (
                recipe,
                " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
                f"{statistics.mean(accuracies):.4f}",
                " ".join(f"{duration:.0f}" for duration in seconds),
            )
        )
        values[f"top_1_{recipe}"] = statistics.mean(accuracies)
        values[f"seconds_{recipe}"] = max(seconds)
    if rows:
        print_table(("recipe", "top-1 accuracy of each run", "mean", "seconds of each run"), rows)
    print_result(**values)


if __name__ == "__main__":
    main(sys.argv[1:])
