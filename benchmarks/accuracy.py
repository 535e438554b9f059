"""What the recipes come to: accuracy, and the time of training.

``python -m benchmarks.accuracy [--photos FOLDER] [--seeds 0,1,2] [RECIPE ...]`` runs the training job of
each recipe with each seed in a process of its own, prints a table and ends with one JSON line: for each
recipe its mean accuracy ``top_1_<recipe>`` and its longest training ``seconds_<recipe>``.

The photos are a folder with ``flowers_224`` (``train`` and ``val``) and ``flowers_original``; without it the
recipes for photos are left out, and said to be. ``flowers_original``, which is small, is cross-validated:
five parts in turns, each once for validation.
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

from benchmarks.measure import REPOSITORY, print_result, print_table
from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.pipelines.recipes import RECIPES
from imgpipe.pipelines.sample_data import write_digits

_DIGITS = ("digits", "digits-efficientnet")
_FLOWERS = ("frozen-backbone", "fine-tune")
_ORIGINALS = "originals"
_PARTS = 5


@dataclass(frozen=True)
class Trained:
    """What one training came to.

    Attributes:
        top_1_accuracy: Of the best evaluation.
        seconds: Of the whole process.
    """

    top_1_accuracy: float
    seconds: float


def train(recipe: str, dataset: Path, seed: int) -> Trained:
    """Trains in a process of its own.

    Raises:
        RuntimeError: if that fails; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as job_dir:
        words = [f"--{name}={value}" for name, value in RECIPES[recipe].parameters.items()]
        command = [
            *(sys.executable, "-m", "imgpipe.components.train"),
            f"--training_data_path={dataset}/{TRAIN}-*",
            f"--validation_data_path={dataset}/{VALIDATION}-*",
            f"--job_dir={job_dir}",
            f"--seed={seed}",
            *words,
        ]
        started = time.monotonic()
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if result.returncode:
            raise RuntimeError(f"{recipe} failed:\n{(result.stdout + result.stderr)[-3000:]}")
        lines = (Path(job_dir) / "metrics.jsonl").read_text().splitlines()
    return Trained(max(json.loads(line)["top_1_accuracy"] for line in lines), seconds)


def digits_dataset(folder: Path) -> Path:
    """Writes the digits as a data set."""
    source = write_digits(folder / "sample")
    convert(ConvertArguments(train_csv=str(source)), folder / "digits")
    return folder / "digits"


def flowers_dataset(photos: Path, folder: Path) -> Path:
    """Writes the small photos with their own split as a data set."""
    convert(ConvertArguments(images=str(photos / "flowers_224")), folder / "flowers")
    return folder / "flowers"


def original_datasets(photos: Path, folder: Path) -> list[Path]:
    """Writes five data sets of the large photos: each part is once for validation."""
    paths = sorted((photos / "flowers_original").glob("*/*.*"))
    datasets = []
    for part in range(_PARTS):
        lists = {TRAIN: folder / f"train{part}.csv", VALIDATION: folder / f"validation{part}.csv"}
        # Sorted by class: every fifth photo gives each class its share.
        chosen = {VALIDATION: paths[part::_PARTS]}
        chosen[TRAIN] = [path for path in paths if path not in set(chosen[VALIDATION])]
        for split, file in lists.items():
            file.write_text("".join(f"{path},{path.parent.name}\n" for path in chosen[split]))
        dataset = folder / f"originals{part}"
        convert(ConvertArguments(train_csv=str(lists[TRAIN]), validation_csv=str(lists[VALIDATION])), dataset)
        datasets.append(dataset)
    return datasets


def main(words: Sequence[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder with flowers_224 and flowers_original")
    parser.add_argument("--seeds", default="0,1,2", help="comma list")
    parser.add_argument("recipes", nargs="*", default=[*_DIGITS, *_FLOWERS, _ORIGINALS])
    options = parser.parse_args(words)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    trained: dict[str, list[Trained]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for recipe in options.recipes:
            if recipe not in _DIGITS and options.photos is None:
                print(f"LEFT OUT: {recipe} needs --photos", file=sys.stderr)
                continue
            if recipe == _ORIGINALS:
                datasets = original_datasets(options.photos, folder)
                trained[recipe] = [train("frozen-backbone", dataset, seeds[0]) for dataset in datasets]
                continue
            made = folder / ("digits" if recipe in _DIGITS else "flowers")
            if not made.exists():
                _ = digits_dataset(folder) if recipe in _DIGITS else flowers_dataset(options.photos, folder)
            trained[recipe] = [train(recipe, made, seed) for seed in seeds]
    rows = [
        [
            recipe,
            " ".join(f"{each.top_1_accuracy:.4f}" for each in results),
            f"{statistics.mean(each.top_1_accuracy for each in results):.4f}",
            " ".join(f"{each.seconds:.0f}" for each in results),
        ]
        for recipe, results in trained.items()
    ]
    print_table(("recipe", "top-1 accuracy of each run", "mean", "seconds of each run"), rows)
    values = {}
    for recipe, results in trained.items():
        values[f"top_1_{recipe}"] = statistics.mean(each.top_1_accuracy for each in results)
        values[f"seconds_{recipe}"] = max(each.seconds for each in results)
    print_result(**values)


if __name__ == "__main__":
    main(sys.argv[1:])
