"""Compares the error of the default recipe with that of two common recipes, in the same time.

``python -m benchmarks.accuracy_ratio --photos FOLDER [--minutes 4] [--seeds 0,1,2] [SET ...]``. All train
mobilenet-v2 from the same ImageNet weights on the same images, each in a process of its own that gets the
same minutes, its start included; ``benchmarks.accuracy_side`` has the two recipes. The error is that on test
images that no training run has seen. Three sides, three seeds and three sets take 27 times ``--minutes``.

* ``flowers``: four fifths of ``FOLDER/flowers_224/train``; the test images are ``flowers_224/val``.
* ``few``: 20 images of each class of them, with the same test images.
* ``shapes``: six classes of drawings, with clutter, which ImageNet's photos do not have.

``error_ratio`` is the mean over the sets of our error divided by that of the better recipe, both of which are
means over the seeds. ``ece`` is the mean expected calibration error of our models on the test images.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.accuracy import evaluate_on_test, train
from benchmarks.measure import REPOSITORY, print_result, print_table
from benchmarks.needs import check_needs
from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert

_OURS, _THEIRS = "head-then-fine-tune", ("keras-guide", "fastai")
_SETS = ("flowers", "few", "shapes")
_TEST = "test"
_FEW = 20
_SHAPES = {"ellipse": 0, "triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "star": 10}
_SHAPE_IMAGES = {TRAIN: 80, VALIDATION: 20, _TEST: 100}


def main(command_line: Sequence[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with flowers_224")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each training run")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds")
    parser.add_argument("sets", nargs="*", default=_SETS)
    options = parser.parse_args(command_line)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = (1 + len(_THEIRS)) * len(seeds) * len(options.sets)
    check_needs(minutes=runs * (options.minutes + 0.5), disk_gb=2, weights={"mobilenet-v2": 224})
    rows, ratios, calibration = [], [], []
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as temporary:
        for name in options.sets:
            folder = Path(temporary) / name
            _write_set(name, folder, options.photos)
            dataset = _convert(folder)
            errors: dict[str, list[float]] = defaultdict(list)
            for seed in seeds:
                job_dir = folder / f"job{seed}"
                train(_OURS, dataset, seed, job_dir, max_minutes=options.minutes)
                evaluation = evaluate_on_test(dataset, job_dir / "model", folder / f"evaluation{seed}")
                errors[_OURS].append(1 - evaluation["top_1_accuracy"])
                calibration.append(evaluation["calibration"]["expected_calibration_error"])
                for recipe in _THEIRS:
                    errors[recipe].append(1 - _accuracy_of(recipe, folder, options.minutes, seed))
                found = {side: round(values[-1], 4) for side, values in errors.items()}
                print(f"{name}, seed {seed}: errors {found}, ECE {calibration[-1]:.4f}", flush=True)
            means = {side: statistics.mean(values) for side, values in errors.items()}
            better = min(means[recipe] for recipe in _THEIRS)
            # Half an image: without it, two sides without an error could not be compared.
            least = 0.5 / len(list((folder / _TEST).glob("*/*")))
            ratios.append(max(means[_OURS], least) / max(better, least))
            rows.append((name, *(f"{means[side]:.4f}" for side in (_OURS, *_THEIRS)), f"{ratios[-1]:.2f}"))
    print_table(("set", *(f"error of {side}" for side in (_OURS, *_THEIRS)), "ratio"), rows)
    print_result(
        error_ratio=statistics.mean(ratios),
        ece=statistics.mean(calibration),
        **{f"error_ratio_{name}": value for name, value in zip(options.sets, ratios, strict=True)},
    )


def _write_set(name: str, folder: Path, photos: Path) -> None:
    if name == "shapes":
        draw_shapes(folder)
        return
    draw = random.Random(0)  # noqa: S311 - not a secret
    for source in sorted((photos / "flowers_224" / "train").iterdir()):
        paths = sorted(source.iterdir())
        draw.shuffle(paths)
        if name == "few":
            paths = paths[:_FEW]
        held_out = len(paths) // 5
        tested = sorted((photos / "flowers_224" / "val" / source.name).iterdir())
        for split, selected in (
            (TRAIN, paths[held_out:]),
            (VALIDATION, paths[:held_out]),
            (_TEST, tested),
        ):
            target = folder / split / source.name
            target.mkdir(parents=True)
            for path in selected:
                shutil.copy(path, target)


def draw_shapes(folder: Path) -> None:
    """Draws one large shape of the class among small pieces of any class."""
    draw = random.Random(0)  # noqa: S311 - not a secret

    def colour() -> tuple[int, int, int]:
        return draw.randrange(256), draw.randrange(256), draw.randrange(256)

    for split, count in _SHAPE_IMAGES.items():
        for name in _SHAPES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (224, 224), colour())
                canvas = ImageDraw.Draw(image)
                for _ in range(25):
                    _draw_shape(canvas, draw.choice(list(_SHAPES)), draw.uniform(5, 14), colour(), draw)
                _draw_shape(canvas, name, draw.uniform(30, 60), colour(), draw)
                image.save(folder / split / name / f"{number}.jpg", quality=90)


def _draw_shape(
    canvas: ImageDraw.ImageDraw, name: str, radius: float, colour: tuple[int, int, int], draw: random.Random
) -> None:
    x, y = (draw.uniform(radius, 224 - radius) for _ in range(2))
    if name == "ellipse":
        height = radius * draw.uniform(0.6, 1)
        canvas.ellipse((x - radius, y - height, x + radius, y + height), fill=colour)
        return
    corners = _SHAPES[name]
    angles = draw.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    radii = np.where((np.arange(corners) % 2 == 1) & (name == "star"), 0.45, 1.0) * radius
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    canvas.polygon([tuple(point) for point in points.tolist()], fill=colour)


def _convert(folder: Path) -> Path:
    lists = {split: folder / f"{split}.csv" for split in (TRAIN, VALIDATION, _TEST)}
    for split, file in lists.items():
        paths = sorted((folder / split).glob("*/*"))
        file.write_text("".join(f"{path},{path.parent.name}\n" for path in paths))
    arguments = ConvertArguments(
        train_csv=str(lists[TRAIN]),
        validation_csv=str(lists[VALIDATION]),
        test_csv=str(lists[_TEST]),
    )
    convert(arguments, folder / "dataset")
    return folder / "dataset"


def _accuracy_of(recipe: str, folder: Path, minutes: float, seed: int) -> float:
    command = [sys.executable, "-m", "benchmarks.accuracy_side", recipe, str(folder), str(minutes), str(seed)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{recipe} failed:\n{(result.stdout + result.stderr)[-3000:]}")
    accuracy: float = json.loads(result.stdout.splitlines()[-1])["accuracy"]
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1:])
