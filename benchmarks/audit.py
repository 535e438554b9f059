"""Measures what the audit finds of the faults that are planted into good photos.

``python -m benchmarks.audit --photos FOLDER [--seeds 0,1,2]`` prints tables and ends with one JSON line. The
folder contains ``flowers_224`` (``train`` and ``val``).

- ``audit_label_recall``, ``audit_label_precision``: of wrong labels, 5% of all, given to random images; means
  over the seeds. The photos have wrong labels of their own, about 2%, which count as mistakes of the audit.
  ``audit_label_precision_planted`` leaves out the images that the audit doubts with their own labels too.
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
  names was dropped from the training photos with wrong labels, minus the accuracy before.
"""

import argparse
import io
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

from benchmarks.measure import print_result, print_table
from benchmarks.needs import check_needs
from imgpipe.components.audit.inspection import Inspection, file_traits, inspect_images
from imgpipe.components.audit.learning_curve import forecast, measure_accuracies
from imgpipe.components.audit.shortcuts import find_shortcuts
from imgpipe.components.audit.wrong_labels import find_wrong_labels
from imgpipe.components.common.dataset import TRAIN, read_manifest
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

_IMAGES, _COPIES, _PLANTINGS = 4_000, 150, 10
_WRONG = 0.05
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
        features: [images, features].
        own: The numbers of the photos themselves.
        classes: The label of each image.
    """

    inspection: Inspection
    features: NDArray[np.float32]
    own: NDArray[np.int64]
    classes: NDArray[np.int64]


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


def measure_labels(photos: Photos, seeds: Sequence[int], groups: Sequence[Sequence[int]]) -> dict[str, float]:
    """Returns how well planted wrong labels are found, and what dropping them is worth."""
    own = photos.own
    position = {number: index for index, number in enumerate(own.tolist())}
    groups = [[position[number] for number in group if number in position] for group in groups]
    groups = [group for group in groups if len(group) > 1]
    features, classes = photos.features[own], photos.classes[own]
    is_train = photos.inspection.splits[own] == TRAIN
    labels = len(photos.inspection.labels)
    doubted_anyway = {doubt.number for doubt in find_wrong_labels(features, classes, labels, groups)}
    rows, found = [], []
    for seed in seeds:
        draw = np.random.default_rng(seed)
        wrong = draw.choice(len(own), round(_WRONG * len(own)), replace=False)
        planted = classes.copy()
        planted[wrong] = (classes[wrong] + draw.integers(1, labels, len(wrong))) % labels
        named = {doubt.number for doubt in find_wrong_labels(features, planted, labels, groups)}
        wrong_images = set(wrong.tolist())
        hits = len(named & wrong_images)
        kept = is_train & ~np.isin(np.arange(len(own)), list(named))
        accuracies = [
            probe_accuracy(features, targets, classes, training, ~is_train)
            for targets, training in ((planted, is_train), (planted, kept), (classes, is_train))
        ]
        values = {
            "audit_label_recall": hits / len(wrong),
            "audit_label_precision": hits / max(len(named), 1),
            "audit_label_precision_planted": hits
            / max(len(named - (doubted_anyway - set(wrong.tolist()))), 1),
            "audit_accuracy_gain": accuracies[1] - accuracies[0],
        }
        found.append(values)
        rows.append((str(seed), *(f"{value:.3f}" for value in (*list(values.values())[:3], *accuracies))))
    header = (
        "recall",
        "precision",
        "precision without own",
        "accuracy",
        "after dropping",
        "without wrong labels",
    )
    print_table(("seed", *header), rows)
    print(f"doubted with their own labels: {len(doubted_anyway)} of {len(own)}")
    return {name: statistics.mean(values[name] for values in found) for name in found[0]}


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

    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
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
        photos.features[photos.own], photos.classes[photos.own], len(labels)
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


def main(command_line: Sequence[str]) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with flowers_224")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds of the wrong labels")
    options = parser.parse_args(command_line)
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
        groups = find_copies(inspection, features).groups
        values = {
            **measure_labels(photos, [int(seed) for seed in options.seeds.split(",")], groups),
            **measure_copies(photos, groups, sources),
            **measure_shortcuts(photos, folder / "photos"),
            **measure_forecasts(photos),
            "audit_seconds_4000": seconds,
        }
    print_result(**values)


if __name__ == "__main__":
    main(sys.argv[1:])
