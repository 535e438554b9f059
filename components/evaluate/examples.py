"""The images that the report shows: all mistakes as far as they fit, and some correct predictions."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.html_page import image_source, thumbnail, thumbnail_source
from imgpipe.components.common.log import log_event
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.evaluate.multi_label_metrics import THRESHOLD
from imgpipe.components.images.resize_modes import CROP, LETTERBOX, STRETCH

# The largest matrix of which every cell is shown; larger ones are unreadable.
MAX_MATRIX_CLASSES = 50
# Kubeflow's user interface shows pages of up to 5 MB: a part of that for the pictures, another for the list.
MAX_PICTURE_BYTES = 3_300_000
_MAX_PICTURES = 1000
_MAX_LISTED = 1500
# The worst mistakes have larger pictures.
_LARGE = 24
_LARGE_PIXELS = 160
_SMALL_PIXELS, _SMALL_QUALITY = 96, 70
_CORRECT_PER_CLASS = 3
# What is added to a picture where the attention is 1.
_TINT = np.array([255.0, 90.0, 0.0])


@dataclass(frozen=True)
class Example:
    """An image with its prediction.

    Attributes:
        index: Index of the image in the split.
        true_label: The name of its label, or of its labels.
        predicted_label: The name of the predicted label; for multi-label data that of the wrong decision.
        predicted_class: The index of that label, 0..N-1.
        probability: The probability of the predicted label, 0..1.
        true_probability: The probability of the true label; None for multi-label data.
        cell: The true and the predicted class; None for multi-label data.
        filename: Its source; may be empty.
        picture: A data URI; empty if the image cannot be decoded, or the page has no room for it.
        attention: A data URI of the picture with what supports the predicted label; may be empty.
    """

    index: int
    true_label: str
    predicted_label: str
    predicted_class: int
    probability: float
    true_probability: float | None = None
    cell: tuple[int, int] | None = None
    filename: str = ""
    picture: str = ""
    attention: str = ""

    @property
    def is_correct(self) -> bool:
        """Whether the predicted label is the true one."""
        return self.cell is not None and self.cell[0] == self.cell[1]


def choose_examples(
    classes: NDArray[Any], probabilities: NDArray[np.floating[Any]], labels: Sequence[str]
) -> list[Example]:
    """Returns the images to show, the most important first, without pictures.

    The 24 mistakes with the highest probability are the first, then up to three correct predictions of each
    class, those with the lowest probability, if the confusion matrix is shown. The other mistakes follow:
    first the worst of each cell of the confusion matrix, then the second of each cell, and so on.

    Args:
        classes: int [examples], the true classes; or bool [examples, N], whether the image has the label.
        probabilities: [examples, N].
        labels: The N label names.
    """
    if classes.ndim == 2:
        return _wrong_decisions(classes, probabilities, labels)
    predicted = probabilities.argmax(axis=1)

    def example(index: int) -> Example:
        true, found = int(classes[index]), int(predicted[index])
        of_found, of_true = (float(probabilities[index, label]) for label in (found, true))
        return Example(index, labels[true], labels[found], found, of_found, of_true, (true, found))

    wrong = np.flatnonzero(predicted != classes)
    # Equal probabilities keep the order of the images.
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    mistakes = [example(index) for index in worst.tolist()]
    others = mistakes[_LARGE:]
    in_cell: Counter[tuple[int, int] | None] = Counter(mistake.cell for mistake in mistakes[:_LARGE])
    ranks = []
    for mistake in others:
        ranks.append(in_cell[mistake.cell])
        in_cell[mistake.cell] += 1
    by_rank = [others[index] for index in np.argsort(ranks, kind="stable")]
    least_certain = (
        _least_certain(classes, predicted, probabilities) if len(labels) <= MAX_MATRIX_CLASSES else ()
    )
    return [*mistakes[:_LARGE], *map(example, least_certain), *by_rank[: _MAX_LISTED - _LARGE]]


def _wrong_decisions(
    targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]], labels: Sequence[str]
) -> list[Example]:
    """Returns labels that an image has but were not predicted, and vice versa, the most probable first."""
    predicted = probabilities >= THRESHOLD
    images, classes = np.nonzero(predicted != targets)
    of_label = probabilities[images, classes].astype(np.float64)
    confidence = np.where(predicted[images, classes], of_label, 1 - of_label)
    worst = np.argsort(-confidence, kind="stable")[:_MAX_LISTED]
    examples = []
    for image, label, probability in zip(
        *(a[worst].tolist() for a in (images, classes, confidence)), strict=True
    ):
        true_labels = (
            ", ".join(labels[index] for index in np.flatnonzero(targets[image]).tolist()) or "no label"
        )
        decision = labels[label] if predicted[image, label] else f"not {labels[label]}"
        examples.append(Example(image, true_labels, decision, label, probability))
    return examples


def _least_certain(
    classes: NDArray[Any], predicted: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]
) -> Iterator[int]:
    for label in range(probabilities.shape[1]):
        correct = np.flatnonzero((classes == label) & (predicted == label))
        yield from correct[np.argsort(probabilities[correct, label], kind="stable")][
            :_CORRECT_PER_CLASS
        ].tolist()


def with_pictures(
    examples: Sequence[Example],
    records: Iterator[ImageRecord],
    explain: Callable[[Sequence[bytes], Sequence[int]], NDArray[np.float32] | None] | None = None,
    resize: str = STRETCH,
) -> list[Example]:
    """Returns the examples with file names, and with pictures as far as they fit into the page.

    Args:
        examples: The most important first.
        records: All records of the split, in order; read once.
        explain: See ``attention_maps``; called with the images of the worst mistakes and their predicted
            classes. None = without.
        resize: How the network's square shows an image.
    """
    ranks = {example.index: rank for rank, example in reversed(list(enumerate(examples)))}
    pictures, names, large = {}, {}, {}
    for index, record in enumerate(records):
        rank = ranks.get(index)
        if rank is None:
            continue
        names[index] = record.filename
        if rank < _LARGE:
            large[index] = record.encoded
            pictures[index] = thumbnail_source(record.encoded, pixels=_LARGE_PIXELS)
        elif rank < _MAX_PICTURES:
            pictures[index] = thumbnail_source(record.encoded, pixels=_SMALL_PIXELS, quality=_SMALL_QUALITY)
    worst = [example for example in examples[:_LARGE] if not example.is_correct]
    attention = _attention_pictures(worst, large, explain, resize) if explain and worst else {}
    complete, left = [], MAX_PICTURE_BYTES - sum(map(len, attention.values()))
    for rank, example in enumerate(examples):
        picture = pictures.get(example.index, "")
        left -= len(picture)
        complete.append(
            replace(
                example,
                filename=names[example.index],
                picture=picture if left >= 0 else "",
                attention=attention.get(rank, ""),
            )
        )
    return complete


def _attention_pictures(
    worst: Sequence[Example],
    encoded: Mapping[int, bytes],
    explain: Callable[[Sequence[bytes], Sequence[int]], NDArray[np.float32] | None],
    resize: str,
) -> dict[int, str]:
    """Returns data URIs by the rank of a mistake."""
    try:
        maps = explain(
            [encoded[example.index] for example in worst], [example.predicted_class for example in worst]
        )
    except PipelineError:
        # E.g. the process was asked to terminate.
        raise
    except Exception as error:  # TensorFlow raises many classes; the report is useful without the maps.
        log_event(
            "attention_left_out",
            f"evaluate: the report does not show what led to the mistakes: {error}",
            severity="WARNING",
        )
        maps = None
    if maps is None:
        return {}
    pictures = {}
    for rank, (example, attention) in enumerate(zip(worst, maps, strict=True)):
        small = thumbnail(encoded[example.index], _LARGE_PIXELS)
        if small is not None and attention.any():
            pictures[rank] = image_source(_draw_attention(small, attention, resize))
    return pictures


def _draw_attention(image: Image.Image, attention: NDArray[np.float32], resize: str) -> Image.Image:
    """Returns an RGB image, dark where the map of the network's square is 0, and orange where it is 1."""
    width, height = image.size
    sides = {STRETCH: image.size, CROP: (min(image.size),) * 2, LETTERBOX: (max(image.size),) * 2}[resize]
    square = Image.fromarray(attention).resize(sides, Image.Resampling.BICUBIC)
    # Outside of a cropped square, nothing supports the label.
    strength = Image.new("F", image.size)
    strength.paste(square, ((width - sides[0]) // 2, (height - sides[1]) // 2))
    share = np.clip(np.asarray(strength), 0, 1)[..., None]
    pixels = np.asarray(image, np.float64) * (0.3 + 0.5 * share) + _TINT * 0.35 * share
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
