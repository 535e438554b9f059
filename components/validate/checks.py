"""Checks of the counts in a data set: against its manifest, and against the training arguments."""

from collections.abc import Iterator, Mapping, Sequence

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION, Manifest
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import class_to_label, label_to_class
from imgpipe.components.common.shared_arguments import multi_label_problem, multi_label_remedy
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.findings import ERROR, WARNING, Finding
from imgpipe.components.validate.reading import Reading

FEW_TRAINING_IMAGES = 10
STRONG_IMBALANCE = 10
FAR_SMALLER = 4
FAR_LARGER = 8
_MAX_NAMED_LABELS = 10
_FIX_MANIFEST = "convert again, or correct the manifest"


def count_findings(manifest: Manifest, reading: Reading) -> Iterator[Finding]:
    """Yields the labels with a different number of images in the shards than in the manifest.

    Only for splits that were read completely: elsewhere the unread records explain the difference.
    """
    for name, split in reading.splits.items():
        if not split.complete:
            continue
        declared = manifest.splits[name].images_per_label
        if len(declared) != manifest.num_classes:
            yield Finding(
                ERROR,
                "label_count",
                f"the manifest counts the images of {plural(len(declared), 'label')} in {name}, "
                f"but names {plural(manifest.num_classes, 'label')}",
                remedy=_FIX_MANIFEST,
            )
            continue
        for label, expected, counted in zip(manifest.labels, declared, split.images_per_label, strict=True):
            if expected != counted:
                yield Finding(
                    ERROR,
                    "label_count",
                    f"the manifest lists {plural(expected, 'image')} of {label!r} in {name}, "
                    f"the shards contain {counted:,}",
                    remedy=_FIX_MANIFEST,
                )


def name_findings(reading: Reading) -> Iterator[Finding]:
    """Yields the labels that records give a different name: a sign that labels are off by one."""
    for label, (count, text, where) in sorted(reading.other_names.items()):
        name = reading.labels[label_to_class(label)]
        yield Finding(
            WARNING,
            "label_name",
            f"label {label} is {name!r}, but {plural(count, 'record')} with this label "
            f"{'has' if count == 1 else 'have'} another name; the first one has {text!r}",
            where,
            "check that line i of the labels file, counted from 1, is the name of label i",
        )


def size_findings(reading: Reading, trained_size: int) -> Iterator[Finding]:
    """Yields a warning for images that are much smaller than the training size, and one for much larger ones.

    Args:
        reading: The data that was read.
        trained_size: Side in pixels of the square to which training scales images.
    """
    sides = reading.shorter_sides
    small = sum(count for side, count in sides.items() if side * FAR_SMALLER < trained_size)
    large = sum(count for side, count in sides.items() if side > trained_size * FAR_LARGER)
    total = plural(sides.total(), "image")
    if small and reading.extremes.smallest:
        yield Finding(
            WARNING,
            "image_far_smaller",
            f"the shorter side of {small:,} of {total} is less than 1/{FAR_SMALLER} of the training size of "
            f"{plural(trained_size, 'pixel')}; the smallest is {reading.extremes.smallest[1]}",
            remedy="set a smaller image_size, or use larger images: upscaling adds no detail",
        )
    if large and reading.extremes.largest:
        yield Finding(
            WARNING,
            "image_far_larger",
            f"the shorter side of {large:,} of {total} is more than {FAR_LARGER} times the training size of "
            f"{plural(trained_size, 'pixel')}; the largest is {reading.extremes.largest[1]}",
            remedy="downscale them before converting: training reads them faster and loses less small detail",
        )


def class_findings(
    labels: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    examples: Mapping[str, int],
    first_of_label: Mapping[str, Mapping[int, str]],
    *,
    multi_label: bool,
) -> Iterator[Finding]:
    """Yields errors and warnings about the numbers of images per class and split.

    Args:
        labels: The N names.
        counts: By split: the number of images of each label.
        examples: By split: the number of images.
        first_of_label: By split: the name of the first record of each class that has one.
        multi_label: Whether an image may have several labels or none: a single label is valid then.
    """
    train = counts.get(TRAIN, [0] * len(labels))
    validation = counts.get(VALIDATION, [0] * len(labels))
    if len(labels) < 2 and not multi_label:
        yield Finding(
            ERROR,
            "single_label",
            f"there is only one label ({', '.join(labels)}): every model would predict it",
            remedy="provide images of at least two labels",
        )
    if not examples.get(TRAIN):
        yield Finding(
            ERROR,
            "empty_split",
            "there are no training images",
            remedy="provide training data, or set a smaller validation_fraction",
        )
    else:
        elsewhere = {
            class_index: f"the first one in {name}: {where}"
            for name, records in first_of_label.items()
            for class_index, where in records.items()
        }
        yield from _training_findings(labels, train, elsewhere)
    if not examples.get(VALIDATION):
        yield Finding(
            ERROR,
            "empty_split",
            "there are no validation images",
            remedy="provide validation data, or set a larger validation_fraction",
        )
    else:
        for label, validation_images, training_images in zip(labels, validation, train, strict=True):
            if training_images and not validation_images:
                yield Finding(
                    WARNING,
                    "label_without_validation",
                    f"label {label!r} has no validation images: its accuracy cannot be measured",
                    remedy="add validation images of this label",
                )


def _training_findings(
    labels: Sequence[str], train: Sequence[int], elsewhere: Mapping[int, str]
) -> Iterator[Finding]:
    for class_index, (label, images) in enumerate(zip(labels, train, strict=True)):
        if not images:
            yield Finding(
                ERROR,
                "label_without_training",
                f"label {class_to_label(class_index)} ({label!r}) has no training images",
                elsewhere.get(class_index, ""),
                remedy="add training images of this label, or remove the label from the labels file",
            )
        elif images < FEW_TRAINING_IMAGES:
            yield Finding(
                WARNING,
                "few_training_images",
                f"label {label!r} has {plural(images, 'training image')}, fewer than {FEW_TRAINING_IMAGES}",
                remedy="add training images of this label: so few are rarely enough to learn a class",
            )
    present = [(images, label) for label, images in zip(labels, train, strict=True) if images]
    if not present:
        return
    (smallest, rare), (largest, common) = min(present), max(present)
    if largest > STRONG_IMBALANCE * smallest:
        yield Finding(
            WARNING,
            "imbalance",
            f"label {common!r} has {largest:,} training images, {rare!r} has {smallest:,}: "
            f"{largest / smallest:,.0f} times as many",
            remedy="add images of the rare labels: the model will favor the common ones",
        )


def argument_findings(
    manifest: Manifest, examples: Mapping[str, int], arguments: ValidateArguments
) -> Iterator[Finding]:
    """Yields the arguments that do not fit the data.

    Args:
        manifest: The data set's manifest.
        examples: By split: the number of images.
        arguments: The training arguments.
    """
    labels = manifest.labels
    train, validation = examples.get(TRAIN, 0), examples.get(VALIDATION, 0)
    if arguments.multi_label != manifest.multi_label:
        yield Finding(
            ERROR,
            "multi_label",
            multi_label_problem(arguments.multi_label),
            remedy=multi_label_remedy(arguments.multi_label),
            about_arguments=True,
        )
    if arguments.num_classes not in (0, len(labels)):
        named = ", ".join(labels[:_MAX_NAMED_LABELS])
        hidden = len(labels) - _MAX_NAMED_LABELS
        more = f" and {hidden:,} more" if hidden > 0 else ""
        yield Finding(
            ERROR,
            "num_classes",
            f"the data has {plural(len(labels), 'label')} ({named}{more}), "
            f"but num_classes is {arguments.num_classes}",
            remedy=f"set num_classes to {len(labels)}, or to 0 to use every label in the data",
            about_arguments=True,
        )
    if arguments.evaluation_split == TEST and not examples.get(TEST):
        yield Finding(
            ERROR,
            "evaluation_split",
            "evaluation_split is test, but the data has no test images",
            remedy="set test_data_path to TFRecord files with test images, or evaluation_split to validation"
            if manifest.made_by.get("source", {}).get("form") == "tfrecord"
            else "add images for test (a folder test, rows with ml_use test, or test_csv), or set "
            "test_fraction if validation images are set aside too; or set evaluation_split to validation",
            about_arguments=True,
        )
    # An empty split is reported by class_findings; a limit of 0 images would be no help.
    if train and arguments.train_batch_size > train:
        yield Finding(
            ERROR,
            "train_batch_size",
            f"train_batch_size is {arguments.train_batch_size:,}, "
            f"but there {'is' if train == 1 else 'are'} only {plural(train, 'training image')}",
            remedy=f"set train_batch_size to at most {train}",
            about_arguments=True,
        )
    if validation and arguments.num_eval_images > validation:
        yield Finding(
            ERROR,
            "num_eval_images",
            f"num_eval_images is {arguments.num_eval_images:,}, "
            f"but there {'is' if validation == 1 else 'are'} only {plural(validation, 'validation image')}",
            remedy=f"set num_eval_images to at most {validation}, or to 0 to use all",
            about_arguments=True,
        )
