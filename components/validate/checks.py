"""What can be said of a data set from its counts, and against the arguments."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest
from imgpipe.components.common.records import class_to_label, label_to_class
from imgpipe.components.common.shared_arguments import multi_label_problem, multi_label_remedy
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.findings import ERROR, WARNING, Finding
from imgpipe.components.validate.reading import Reading

FEW_TRAINING_IMAGES = 10
STRONG_IMBALANCE = 10
_NAMED_LABELS = 10
_NOWHERE: Mapping[str, Mapping[int, str]] = MappingProxyType({})
FAR_SMALLER = 4
FAR_LARGER = 8


def count_findings(manifest: Manifest, reading: Reading) -> Iterator[Finding]:
    """Yields where the numbers of images per label, as counted, differ from the manifest's.

    Only for a split that could be read whole: otherwise the difference says nothing new.
    """
    for name, split in reading.splits.items():
        if not split.complete:
            continue
        declared = manifest.splits[name].images_per_label
        if len(declared) != manifest.num_classes:
            yield Finding(
                ERROR,
                "label_count",
                f"the manifest counts {len(declared)} labels in {name} and names {manifest.num_classes}",
                remedy="convert again, or correct the manifest",
            )
            continue
        for label, said, counted in zip(manifest.labels, declared, split.images_per_label, strict=True):
            if said != counted:
                yield Finding(
                    ERROR,
                    "label_count",
                    f"the manifest says {said:,} images of {label!r} in {name}, the shards have {counted:,}",
                    remedy="convert again, or correct the manifest",
                )


def name_findings(reading: Reading) -> Iterator[Finding]:
    """Yields the labels whose records carry another name: the sign of labels that are off by one."""
    for label, (count, text, where) in sorted(reading.other_names.items()):
        name = reading.labels[label_to_class(label)]
        yield Finding(
            WARNING,
            "label_name",
            f"label {label} is {name!r}, but {count:,} of its records name it otherwise, the first {text!r}",
            where,
            "check that line i of the labels file, counted from 1, is the name of label i",
        )


def size_findings(reading: Reading, trained: int) -> Iterator[Finding]:
    """Yields a warning each for images that are far smaller and far larger than they are trained at.

    Args:
        reading: What was read of the data.
        trained: Side in pixels of the square to which training scales images.
    """
    sides = reading.shorter_sides
    small = sum(count for side, count in sides.items() if side * FAR_SMALLER < trained)
    large = sum(count for side, count in sides.items() if side > trained * FAR_LARGER)
    if small and reading.extremes.smallest:
        yield Finding(
            WARNING,
            "image_far_smaller",
            f"{small:,} of {sides.total():,} images have a side of less than 1/{FAR_SMALLER} of the "
            f"{trained} pixels to which training scales them; the smallest is {reading.extremes.smallest[1]}",
            remedy="set a smaller image_size, or give larger images: enlarged ones show nothing more",
        )
    if large and reading.extremes.largest:
        yield Finding(
            WARNING,
            "image_far_larger",
            f"{large:,} of {sides.total():,} images are more than {FAR_LARGER} times as large as the "
            f"{trained} pixels to which training scales them; the largest is {reading.extremes.largest[1]}",
            remedy="scale them down before: training reads them faster and loses fewer small things",
        )


def class_findings(
    labels: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    first_places: Mapping[str, Mapping[int, str]] = _NOWHERE,
    *,
    examples: Mapping[str, int] | None = None,
    multi_label: bool = False,
) -> Iterator[Finding]:
    """Yields what is wrong or doubtful about the numbers of images per class and split.

    Args:
        labels: The N names.
        counts: By split: N numbers of images.
        first_places: By split: the name of the first record of each class that has one.
        examples: By split: the number of images; None = the sum of the classes' numbers, which it is where
            every image has one label.
        multi_label: Whether an image may have no label: a single label is a question of yes or no then.
    """
    examples = examples or {name: sum(some) for name, some in counts.items()}
    train = counts.get(TRAIN, [0] * len(labels))
    validation = counts.get(VALIDATION, [0] * len(labels))
    if len(labels) < 2 and not multi_label:
        yield Finding(
            ERROR,
            "single_label",
            f"there is only one label ({', '.join(labels)}): every model answers it",
            remedy="give images of at least two labels",
        )
    if not examples.get(TRAIN):
        yield Finding(
            ERROR,
            "empty_split",
            "there is no training image",
            remedy="give training data, or a smaller validation_fraction",
        )
    else:
        elsewhere = {
            class_index: f"the first one in {name}: {where}"
            for name, places in first_places.items()
            for class_index, where in places.items()
        }
        yield from _training_findings(labels, train, elsewhere)
    if not examples.get(VALIDATION):
        yield Finding(
            ERROR,
            "empty_split",
            "there is no validation image",
            remedy="give validation data, or a larger validation_fraction",
        )
    else:
        for label, images, trained in zip(labels, validation, train, strict=True):
            if not images and trained:
                yield Finding(
                    WARNING,
                    "label_without_validation",
                    f"label {label!r} has no validation image: how well it is told apart is not measured",
                    remedy="add validation images of it",
                )


def _training_findings(
    labels: Sequence[str], train: Sequence[int], elsewhere: Mapping[int, str]
) -> Iterator[Finding]:
    for class_index, (label, images) in enumerate(zip(labels, train, strict=True)):
        if not images:
            yield Finding(
                ERROR,
                "label_without_training",
                f"label {class_to_label(class_index)} ({label!r}) has no training image",
                elsewhere.get(class_index, ""),
                remedy="add training images of it, or take the label out of the label map",
            )
        elif images < FEW_TRAINING_IMAGES:
            yield Finding(
                WARNING,
                "few_training_images",
                f"label {label!r} has {images} training image{'s' if images > 1 else ''}, "
                f"fewer than {FEW_TRAINING_IMAGES}",
                remedy="add training images of it; a class is rarely learned from so few",
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
            remedy="add images of the rare labels; the model will prefer the common ones",
        )


def argument_findings(
    manifest: Manifest, examples: Mapping[str, int], arguments: ValidateArguments
) -> Iterator[Finding]:
    """Yields the arguments that the data cannot satisfy.

    Args:
        manifest: Of the data.
        examples: By split: the number of images.
        arguments: What the training will ask for.
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
        named = ", ".join(labels[:_NAMED_LABELS])
        more = f" and {len(labels) - _NAMED_LABELS} more" if len(labels) > _NAMED_LABELS else ""
        yield Finding(
            ERROR,
            "num_classes",
            f"the data has {len(labels)} label{'s' if len(labels) != 1 else ''} ({named}{more}), "
            f"num_classes is {arguments.num_classes}",
            remedy=f"set num_classes={len(labels)}, or 0 to take what the data has",
            about_arguments=True,
        )
    # An empty split is a finding of its own; that nothing fits into it says nothing more.
    if train and arguments.train_batch_size > train:
        yield Finding(
            ERROR,
            "train_batch_size",
            f"train_batch_size is {arguments.train_batch_size:,}, there are {train:,} training images",
            remedy=f"set train_batch_size to at most {train}",
            about_arguments=True,
        )
    if validation and arguments.num_eval_images > validation:
        yield Finding(
            ERROR,
            "num_eval_images",
            f"num_eval_images is {arguments.num_eval_images:,}, there are {validation:,} validation images",
            remedy=f"set num_eval_images to at most {validation}, or 0 to use all",
            about_arguments=True,
        )
