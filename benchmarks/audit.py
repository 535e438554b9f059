"""Measures how many errors that are planted in good photos the audit finds.

``python -m benchmarks.audit --photos FOLDER [--seeds 0,1,2]`` prints tables and ends with one JSON line. The
folder contains ``flowers_224`` (``train`` and ``val``). ``python -m benchmarks.audit --made-up
25000,50000,100000`` measures only how time and memory grow with the number of images, whose features,
thumbnails and labels are made up: ``audit_seconds_N`` and ``audit_mib_N``, the peak of the process.

- ``audit_label_recall``, ``audit_label_precision``: of wrong labels, 5% of all, given to random images; means
  over the seeds. The photos have wrong labels of their own, which count as mistakes of the audit. A table has
  other parts of wrong labels, labels that are given to similar classes, and two more sets: ``few``, 20 photos
  of each label, and ``shapes``, the drawings of ``benchmarks.accuracy_ratio``.
- ``cleanlab_recall``, ``cleanlab_precision``: of cleanlab, if it is installed (``pip install cleanlab``),
  with probabilities as in its tutorials: five folds of a logistic regression of the last layer's features;
  ``cleanlab_ours_...`` with our probabilities. ``audit_precision_at_cleanlab_recall``: of as many of our most
  doubted images as reach cleanlab's recall.
- ``audit_copies_found``: of 150 copies of training photos among the validation photos, a third each scaled,
  recompressed and cropped. ``audit_copies_false_alarms``: the findings of copies among the other
  photos, divided by their number; real ones, about two dozen, count as false.
- ``audit_shortcuts_found``: the part of ten plantings, in which most files of a random label get another
  format, size, JPEG quality or a camera's name, after which the audit names the label.
  ``audit_shortcuts_false_alarms``: the other labels that it names, in all of them.
- ``audit_seconds_4000``: all of the audit of 4,000 images but their features and the page.
- ``audit_forecast_covered``: the part of the learning curves, of all images and of each label, whose accuracy
  with 80% of the images is in the interval that was forecast from 10% to 40%; ``audit_forecast_error``: the
  mean difference.
- ``audit_accuracy_gain``: the accuracy of a linear classifier on the photos of ``val`` after what the audit
  names was dropped from the training photos with wrong labels, minus the accuracy before;
  ``audit_accuracy_gain_of_truth``: with the original labels.
"""

import argparse
import importlib
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy_ratio import draw_shapes
from benchmarks.measure import print_result, print_table
from benchmarks.needs import check_needs
from imgpipe.components.audit.inspection import ImageFacts, Inspection, file_traits, inspect_images
from imgpipe.components.audit.learning_curve import forecast, measure_accuracies
from imgpipe.components.audit.shortcuts import find_shortcuts
from imgpipe.components.audit.wrong_labels import (
    find_wrong_labels,
    out_of_sample_probabilities,
    wrong_label_probabilities,
)
from imgpipe.components.common.dataset import TRAIN, in_usual_order, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.records import ImageRecord, label_to_class
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

_IMAGES, _COPIES, _PLANTINGS = 4_000, 150, 10
_WRONG = 0.05
# Photos of each label in the set `few`.
_FEW = 20
_COPY, _FILLER = "copy-", "filler-"
_SHORTCUTS = ("PNG", "size", "quality", "camera")
_MODEL_TAG = 272
# The learning curve's sizes from which the last one is forecast.
_KNOWN = 4


@dataclass(frozen=True)
class Photos:
    """The audited images.

    Attributes:
        inspection: All of them, with planted copies and fillers.
        features: Of each layer, [images, features].
        own: The numbers of the photos themselves.
        classes: The label of each image.
    """

    inspection: Inspection
    features: Sequence[NDArray[np.float32]]
    own: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class LabelledFeatures:
    """Images into which wrong labels are planted.

    Attributes:
        features: Of each layer, [images, features].
        classes: The label of each image.
        groups: Copies of each other.
    """

    features: Sequence[NDArray[np.float32]]
    classes: NDArray[np.int64]
    groups: Sequence[Sequence[int]]

    @property
    def labels(self) -> int:
        """The number of labels."""
        return int(self.classes.max()) + 1

    def probabilities(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns what the audit judges labels by."""
        return out_of_sample_probabilities(self.features, classes, self.labels, self.groups)


def write_photos(photos: Path, folder: Path) -> dict[str, str]:
    """Writes the photos, copies of some, and parts of further ones; returns the name of each copy's photo."""
    draw = np.random.default_rng(0)
    sources = {}
    for split in ("train", "val"):
        for path in sorted((photos / "flowers_224" / split).glob("*/*.*")):
            target = folder / split / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    paths = sorted((folder / "train").glob("*/*.*"))
    count = _IMAGES - sum(1 for _ in folder.glob("*/*/*.*"))
    for number, index in enumerate(draw.choice(len(paths), count, replace=False).tolist()):
        path = paths[index]
        with Image.open(path) as image:
            if number < _COPIES:
                copy, quality = copy_of(image.convert("RGB"), number, draw)
                target = folder / "val" / path.parent.name / f"{_COPY}{number}.jpg"
                sources[f"val/{path.parent.name}/{target.name}"] = path.relative_to(folder).as_posix()
            else:
                # A quarter, which is another picture.
                left, top = draw.integers(0, 112, 2).tolist()
                copy, quality = image.crop((left, top, left + 112, top + 112)).resize((224, 224)), 90
                target = folder / "train" / path.parent.name / f"{_FILLER}{number}.jpg"
            copy.convert("RGB").save(target, quality=quality)
    return sources


def copy_of(image: Image.Image, number: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
    """Returns a scaled, recompressed or cropped copy, by the number, and the JPEG quality to save it with."""
    kind = number % 3
    if kind == 0:
        scale = draw.uniform(0.4, 0.8)
        return image.resize((round(image.width * scale), round(image.height * scale))), 90
    if kind == 1:
        return image, int(draw.integers(20, 60))
    part = draw.uniform(0.7, 0.92)
    width, height = round(image.width * part), round(image.height * part)
    left = int(draw.integers(0, image.width - width + 1))
    top = int(draw.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height)), 90


def measure_copies(
    photos: Photos, groups: Sequence[Sequence[int]], sources: dict[str, str]
) -> dict[str, float]:
    """Returns the copies that were found, and the photos that were called copies but are none."""
    paths = [image.path for image in photos.inspection.images]
    found: dict[str, list[bool]] = {"scaled": [], "recompressed": [], "cropped": []}
    group_of = {paths[number]: index for index, group in enumerate(groups) for number in group}
    for path, source in sources.items():
        kind = list(found)[int(Path(path).stem.removeprefix(_COPY)) % 3]
        found[kind].append(path in group_of and group_of[path] == group_of.get(source))
    planted = {*sources, *sources.values()}
    own = {paths[number] for number in photos.own.tolist()} - planted
    # Of each group, all but one are named. What is only like a filler or a planted copy is not counted.
    alarms = sum(max(sum(paths[number] in own for number in group) - 1, 0) for group in groups)
    print_table(
        ("copies", "found", "of"),
        [(kind, str(sum(values)), str(len(values))) for kind, values in found.items()],
    )
    return {
        "audit_copies_found": statistics.mean(value for values in found.values() for value in values),
        "audit_copies_false_alarms": alarms / len(own),
    }


def measure_labels(
    photos: Photos, drawings: LabelledFeatures, seeds: Sequence[int], groups: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Returns how well planted wrong labels are found, and what dropping them is worth."""
    own = photos.own
    position = {number: index for index, number in enumerate(own.tolist())}
    groups = [[position[number] for number in group if number in position] for group in groups]
    flowers = LabelledFeatures(
        [layer[own] for layer in photos.features],
        photos.classes[own],
        [group for group in groups if len(group) > 1],
    )
    is_train = photos.inspection.splits[own] == TRAIN
    few = np.concatenate(
        [np.flatnonzero(is_train & (flowers.classes == index))[:_FEW] for index in range(flowers.labels)]
    )
    few_flowers = LabelledFeatures([layer[few] for layer in flowers.features], flowers.classes[few], [])
    rows = []
    for name, images in (("flowers", flowers), ("few", few_flowers), ("shapes", drawings)):
        for confusable, part in ((False, 0.0), (False, 0.02), (False, _WRONG), (False, 0.1), (True, _WRONG)):
            found = [find_planted(images, part, seed, confusable=confusable) for seed in seeds]
            recall, precision, named = np.mean([values[:3] for values in found], axis=0).tolist()
            kind = "the most similar label" if confusable else "any label"
            rows.append((name, f"{part:.0%}", kind, f"{recall:.3f}", f"{precision:.3f}", f"{named:.1f}"))
    print_table(("set", "wrong", "planted", "recall", "precision", "named"), rows)
    results = [measure_photos(flowers, is_train, seed) for seed in seeds]
    print_table(
        ("seed", *results[0]),
        [
            (str(seed), *(f"{value:.3f}" for value in found.values()))
            for seed, found in zip(seeds, results, strict=True)
        ],
    )
    return {name: statistics.mean(values[name] for values in results) for name in results[0]}


def plant(
    images: LabelledFeatures, part: float, seed: int, *, confusable: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns labels, some of which are wrong: any other one, or the one that a label is most taken for."""
    draw = np.random.default_rng(seed)
    classes, count = images.classes, len(images.classes)
    wrong = draw.choice(count, round(part * count), replace=False)
    planted = classes.copy()
    planted[wrong] = (classes[wrong] + draw.integers(1, images.labels, len(wrong))) % images.labels
    if confusable:
        found = images.probabilities(classes)
        means = [found[classes == index].mean(axis=0) for index in range(images.labels)]
        confused = np.where(np.eye(images.labels, dtype=bool), 0.0, means).argmax(axis=1)
        planted[wrong] = confused[classes[wrong]]
    return planted, planted != classes


def find_planted(
    images: LabelledFeatures, part: float, seed: int, *, confusable: bool
) -> tuple[float, float, int]:
    """Returns recall and precision, of planted labels only, and how many images were named."""
    planted, wrong = plant(images, part, seed, confusable=confusable)
    named = [
        doubt.number for doubt in find_wrong_labels(images.features, planted, images.labels, images.groups)
    ]
    hits = int(wrong[named].sum())
    return hits / max(int(wrong.sum()), 1), hits / max(len(named), 1), len(named)


def measure_photos(images: LabelledFeatures, is_train: NDArray[np.bool_], seed: int) -> dict[str, float]:
    """Returns the measures of one seed, with those of cleanlab if it is installed."""
    planted, wrong = plant(images, _WRONG, seed)
    probabilities = images.probabilities(planted)
    doubts = wrong_label_probabilities(probabilities, planted)
    found = find_wrong_labels(images.features, planted, images.labels, images.groups)
    named = np.isin(np.arange(len(planted)), [doubt.number for doubt in found])
    kept = is_train & ~named
    last = images.features[-1]
    before, after, truth = (
        probe_accuracy(last, targets, images.classes, training, ~is_train)
        for targets, training in ((planted, is_train), (planted, kept), (images.classes, is_train))
    )
    values = {
        "audit_label_recall": float(named[wrong].mean()),
        "audit_label_precision": float(wrong[named].mean()),
        "audit_accuracy_gain": after - before,
        "audit_accuracy_gain_of_truth": truth - before,
    }
    try:
        # No dependency: it may be missing.
        find_label_issues = importlib.import_module("cleanlab.filter").find_label_issues
    except ImportError:
        print("cleanlab is not installed: without it, nothing is compared")
        return values
    for name, given in (("cleanlab", cross_validated(last, planted)), ("cleanlab_ours", probabilities)):
        issues = find_label_issues(planted, given)
        recall = float(issues[wrong].mean())
        order = np.argsort(-doubts, kind="stable")
        hits = np.cumsum(wrong[order])
        first = int(np.searchsorted(hits, recall * wrong.sum())) + 1
        values |= {
            f"{name}_recall": recall,
            f"{name}_precision": float(wrong[issues].mean()),
            f"audit_precision_at_{name}_recall": float(hits[first - 1] / first),
        }
    return values


def cross_validated(features: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns probabilities as in cleanlab's tutorials: five folds of a logistic regression."""
    # Imported here: it takes seconds to load.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    model = LogisticRegression(C=0.01, max_iter=300)
    found: NDArray[np.float64] = cross_val_predict(
        model, standardized(features), classes, method="predict_proba"
    )
    return found


def standardized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns features with mean 0 and variance 1."""
    scaled: NDArray[np.float32] = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    return scaled


def probe_accuracy(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    truth: NDArray[np.int64],
    training: NDArray[np.bool_],
    measured: NDArray[np.bool_],
) -> float:
    """Returns the accuracy of a logistic regression of the features."""
    # Imported here: it takes seconds to load.
    from sklearn.linear_model import LogisticRegression

    scaled = standardized(features)
    model = LogisticRegression(C=0.01, max_iter=300).fit(scaled[training], targets[training])
    return float((model.predict(scaled[measured]) == truth[measured]).mean())


def measure_shortcuts(photos: Photos, folder: Path) -> dict[str, float]:
    """Returns how many plantings of shortcuts were found."""
    images = [photos.inspection.images[number] for number in photos.own.tolist()]
    classes = photos.classes[photos.own]
    labels = photos.inspection.labels
    rows, found, alarms = [], 0, len(find_shortcuts(classes, [image.traits for image in images], len(labels)))
    for planting in range(_PLANTINGS):
        draw = np.random.default_rng(planting)
        chosen, kind = int(draw.integers(len(labels))), _SHORTCUTS[planting % len(_SHORTCUTS)]
        # Most files of the label, and a few of the others.
        share, others = draw.uniform(0.6, 1), draw.uniform(0, 0.1)
        changed = draw.random(len(images)) < np.where(classes == chosen, share, others)
        traits = [
            changed_traits(folder / image.path, kind) if change else image.traits
            for image, change in zip(images, changed.tolist(), strict=True)
        ]
        named = {shortcut.class_index for shortcut in find_shortcuts(classes, traits, len(labels))}
        found += chosen in named
        alarms += len(named - {chosen})
        names = ", ".join(labels[index] for index in sorted(named))
        rows.append((kind, labels[chosen], f"{share:.2f}", f"{others:.2f}", names))
    print_table(("shortcut", "label", "share of its files", "elsewhere", "named"), rows)
    return {"audit_shortcuts_found": found / _PLANTINGS, "audit_shortcuts_false_alarms": alarms}


def measure_forecasts(photos: Photos) -> dict[str, float]:
    """Returns how well accuracies with more images are forecast."""
    labels = photos.inspection.labels
    sizes, accuracies = measure_accuracies(
        photos.features[-1][photos.own], photos.classes[photos.own], len(labels)
    )
    rows, errors, covered = [], [], []
    for index, name in enumerate(["all", *labels]):
        center, lower, upper = forecast(sizes[:_KNOWN], accuracies[:, :_KNOWN, index], sizes[-1])
        measured = float(accuracies[:, -1, index].mean())
        errors.append(abs(center - measured))
        covered.append(lower <= measured <= upper)
        rows.append((name, f"{center:.3f}", f"{lower:.3f} to {upper:.3f}", f"{measured:.3f}"))
    print_table(("label", "forecast", "interval", "measured"), rows)
    return {
        "audit_forecast_covered": statistics.mean(covered),
        "audit_forecast_error": statistics.mean(errors),
    }


def changed_traits(path: Path, kind: str) -> dict[str, str]:
    """Returns the traits of a photo's file after it was saved in another way."""
    with Image.open(path) as image:
        size = round(image.width * 0.9), round(image.height * 0.9)
        exif = image.getexif()
        exif[_MODEL_TAG] = "Camera 1"
        buffer = io.BytesIO()
        if kind == "PNG":
            image.save(buffer, "PNG", compress_level=1)
        elif kind == "size":
            image.resize(size).save(buffer, "JPEG", quality=95)
        elif kind == "quality":
            image.save(buffer, "JPEG", quality=60)
        else:
            image.save(buffer, "JPEG", quality="keep", exif=exif)
    # The name keeps its extension: the content must be enough.
    return file_traits(ImageRecord(buffer.getvalue(), filename=str(path)))


def measure_growth(counts: Sequence[int]) -> dict[str, float]:
    """Returns the seconds and MiB of an audit of made-up images, without their features and the page."""
    from imgpipe.components.audit.audit import audit_images

    rows = []
    values: dict[str, float] = {}
    for count in counts:
        inspection, features = made_up_images(count)
        started = time.monotonic()
        found = audit_images(inspection, [features]).counts
        seconds = time.monotonic() - started
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(
            (f"{count:,}", f"{seconds:.1f}", f"{1e3 * seconds / count:.2f}", f"{mib:,.0f}", str(found))
        )
        print(*rows[-1], flush=True)
        values |= {f"audit_seconds_{count}": seconds, f"audit_mib_{count}": mib}
        del inspection, features
    print_table(("images", "seconds", "ms per image", "peak MiB", "found"), rows)
    return values


def made_up_images(count: int) -> tuple[Inspection, NDArray[np.float32]]:
    """Returns images of ten classes: 1% are copies, and 1% have wrong labels."""
    draw = np.random.default_rng(0)
    classes = np.arange(count) % 10
    features = draw.standard_normal((count, 1280), np.float32)
    features += draw.standard_normal((10, 1280), np.float32)[classes]
    thumbnails = draw.integers(0, 255, (count, 64, 64), np.uint8)
    copies = count // 100
    features[-copies:] = features[:copies] + 0.3 * draw.standard_normal((copies, 1280), np.float32)
    thumbnails[-copies:] = thumbnails[:copies]
    classes[-copies:] = classes[:copies]
    classes[copies : 2 * copies] = (classes[copies : 2 * copies] + 1) % 10
    images = tuple(
        ImageFacts(
            path=f"{number}.jpg",
            split=TRAIN,
            index=number,
            classes=(int(index),),
            digest=number.to_bytes(16),
            pixels=50_000,
            traits={"format": "JPEG RGB"},
            brightness=(120.0, 240.0),
            contrast=60.0,
            sharpness=0.3,
        )
        for number, index in enumerate(classes)
    )
    hashes = draw.integers(0, 255, (count, 32), np.uint8)
    colors = draw.integers(0, 255, (count, 3), np.uint8)
    return Inspection(tuple("abcdefghij"), images, hashes, colors, thumbnails), features


def main(command_line: Sequence[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", type=Path, help="folder with flowers_224")
    source.add_argument("--made-up", help="numbers of images, comma-separated, growing")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds of the wrong labels")
    options = parser.parse_args(command_line)
    if options.made_up:
        print_result(**measure_growth([int(count) for count in options.made_up.split(",")]))
        return
    check_needs(minutes=5, disk_gb=1, weights={"mobilenet-v2": 224})
    # Imported here: TensorFlow takes seconds to load.
    from imgpipe.components.audit.audit import audit_images
    from imgpipe.components.audit.copies import find_copies
    from imgpipe.components.audit.features import image_features

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = write_photos(options.photos, folder / "photos")
        convert(ConvertArguments(images=str(folder / "photos")), folder / "data")
        manifest = read_manifest(folder / "data")
        features = image_features(manifest, folder / "data", "mobilenet-v2", folder / "features")
        started = time.monotonic()
        inspection = inspect_images(manifest, folder / "data", DEFAULT_MAX_IMAGE_PIXELS)
        audit_images(inspection, features)
        seconds = time.monotonic() - started
        added = (_COPY, _FILLER)
        names = [Path(image.path).name for image in inspection.images]
        own = np.flatnonzero([not name.startswith(added) for name in names])
        classes = np.array([image.classes[0] for image in inspection.images])
        photos = Photos(inspection, features, own, classes)
        draw_shapes(folder / "shapes")
        convert(ConvertArguments(images=str(folder / "shapes")), folder / "drawn")
        drawn = read_manifest(folder / "drawn")
        drawings = LabelledFeatures(
            image_features(drawn, folder / "drawn", "mobilenet-v2", folder / "features"),
            np.array(
                [
                    label_to_class(record.label)
                    for split in in_usual_order(drawn.splits).values()
                    for record in read_split(folder / "drawn", split)
                ]
            ),
            [],
        )
        groups = find_copies(inspection, features[-1]).groups
        values = {
            **measure_labels(photos, drawings, [int(seed) for seed in options.seeds.split(",")], groups),
            **measure_copies(photos, groups, sources),
            **measure_shortcuts(photos, folder / "photos"),
            **measure_forecasts(photos),
            "audit_seconds_4000": seconds,
        }
    print_result(**values)


if __name__ == "__main__":
    main(sys.argv[1:])
