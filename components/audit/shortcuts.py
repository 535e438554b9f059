"""Labels that a property of the file gives away: a model may learn the property instead of the picture."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FOLDS = 5
# Values of fewer images are taken together.
_MIN_IMAGES = 5
_MIN_IMAGES_OF_CLASS = 10
# By how much more often the images of a class are recognized than those of other classes are mistaken for it.
_MIN_ADVANTAGE = 0.3
_STANDARD_ERRORS = 4.0
_RARE = "other values"


@dataclass(frozen=True)
class Shortcut:
    """A class that a property of the files gives away.

    Attributes:
        class_index: The class.
        trait: The property.
        value: Its value that has most images of the class among those that speak for it.
        share: The fraction of the class's images with this value, 0..1.
        share_of_others: That of all other images.
        advantage: True minus false positive rate of a classifier that sees only the property, on images that
            it was not fitted to.
    """

    class_index: int
    trait: str
    value: str
    share: float
    share_of_others: float
    advantage: float


def find_shortcuts(
    classes: NDArray[np.int64], traits: Sequence[Mapping[str, str]], num_classes: int
) -> list[Shortcut]:
    """Returns the classes that a property gives away, the clearest first, each with that property.

    For each class and property, a classifier is fitted that says yes for the values that are more frequent in
    the class than elsewhere, and measured on the fifth of the images that it was not fitted to. Chance is an
    advantage of 0. One of 0.3 is far more than the shape of a photo says about what it shows.

    If all PNG files are daisies, a JPEG file is more likely to be a rose: the images of a class that was
    found are left out of the search for the next one.

    Args:
        classes: The class of each image.
        traits: The properties of each image.
        num_classes: The number of classes.
    """
    columns = {name: _common_values([image.get(name, "") for image in traits]) for name in _names(traits)}
    columns = {name: column for name, column in columns.items() if len(column[0]) > 1}
    # Every fifth image of each class.
    folds = np.zeros(len(classes), np.int64)
    for index in range(num_classes):
        members = np.flatnonzero(classes == index)
        folds[members] = np.arange(len(members)) % _FOLDS
    found: list[Shortcut] = []
    left = np.ones(len(classes), bool)
    while True:
        candidates = [
            _measure(classes[left] == index, values[left], folds[left], name, names, index)
            for name, (names, values) in columns.items()
            for index in np.unique(classes[left]).tolist()
        ]
        best = max(filter(None, candidates), key=lambda shortcut: shortcut.advantage, default=None)
        if best is None:
            return found
        found.append(best)
        left &= classes != best.class_index


def _names(traits: Sequence[Mapping[str, str]]) -> list[str]:
    return sorted({name for image in traits for name in image})


def _common_values(texts: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Returns the values of a property, the rare ones as one, and the number of each image's value."""
    common = {text for text, count in Counter(texts).items() if count >= _MIN_IMAGES}
    names, values = np.unique([text if text in common else _RARE for text in texts], return_inverse=True)
    return names, values


def _measure(
    of_class: NDArray[np.bool_],
    values: NDArray[np.int64],
    folds: NDArray[np.int64],
    trait: str,
    names: NDArray[np.str_],
    class_index: int,
) -> Shortcut | None:
    inside, outside = int(of_class.sum()), int((~of_class).sum())
    if min(inside, outside) < _MIN_IMAGES_OF_CLASS:
        return None
    predicted = np.zeros(len(values), bool)
    for fold in range(_FOLDS):
        fitted = folds != fold
        rates = [
            np.bincount(values[fitted & part], minlength=len(names)) / max((fitted & part).sum(), 1)
            for part in (of_class, ~of_class)
        ]
        predicted[~fitted] = (rates[0] > rates[1])[values[~fitted]]
    hit, false = float(predicted[of_class].mean()), float(predicted[~of_class].mean())
    error = np.sqrt(hit * (1 - hit) / inside + false * (1 - false) / outside)
    advantage = hit - false
    if advantage < max(_MIN_ADVANTAGE, _STANDARD_ERRORS * error):
        return None
    share, others = (
        np.bincount(values[part], minlength=len(names)) / part.sum() for part in (of_class, ~of_class)
    )
    value = int((share - others).argmax())
    return Shortcut(
        class_index, trait, str(names[value]), float(share[value]), float(others[value]), advantage
    )
