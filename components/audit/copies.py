"""Finds images that are copies of each other: scaled, recompressed, recolored, mirrored, or a part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.audit.alignment import match_parts
from imgpipe.components.audit.findings import ACROSS_SPLITS, COPY, TWO_LABELS, Finding
from imgpipe.components.audit.inspection import Inspection
from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.convert.decisions import DROP
from imgpipe.components.convert.near_duplicates import group_hashes, unite_pairs

# Each image is compared with so many others, those with the most similar features.
_NEIGHBORS = 5
# The cosine of two images' features: less similar images are not compared.
_MIN_SIMILARITY = 0.65
# The correlation of the pixels of copies: high, or very high if the features are less similar.
_MATCH, _SIMILAR = 0.92, 0.8
_CERTAIN_MATCH = 0.97
_ROWS_AT_ONCE = 1024
# More images are divided into cells of so many; each is compared with the images of the cells nearest to it.
_MAX_COMPARED_WITH_ALL = 20_000
_CELL_IMAGES = 2_000
_NEAR_CELLS = 4
# The images of a measurement stay; those that a model is trained on may go.
_KEPT_FIRST = {TEST: 0, VALIDATION: 1, TRAIN: 2}


@dataclass(frozen=True)
class Copies:
    """The copies in a data set.

    Attributes:
        groups: The images of each group, two or more.
        matches: For each image, the highest correlation with another one of its group; 1 for equal hashes.
    """

    groups: tuple[tuple[int, ...], ...]
    matches: dict[int, float]


def find_copies(inspection: Inspection, features: NDArray[np.float32]) -> Copies:
    """Returns the groups of copies.

    Perceptual hashes find copies that are scaled or recompressed. Copies that are cropped or mirrored have
    other hashes, but similar features: each image is compared, pixel by pixel, with those that have the most
    similar ones.

    Args:
        inspection: The images.
        features: [images, features].
    """
    count = len(inspection.images)
    roots = np.arange(count)
    matches: dict[int, float] = {}
    hashed = np.flatnonzero(inspection.hashes.any(axis=1))
    roots[hashed] = hashed[group_hashes(inspection.hashes[hashed], inspection.colors[hashed])]
    by_digest: dict[bytes, int] = {}
    equal = [(by_digest.setdefault(image.digest, n), n) for n, image in enumerate(inspection.images)]
    roots = unite_pairs(roots, *np.array(equal, np.int64).reshape(-1, 2).T)
    in_group = np.bincount(roots, minlength=count)[roots] > 1
    matches |= dict.fromkeys(np.flatnonzero(in_group).tolist(), 1.0)
    left, right, similarity = _similar_pairs(features)
    apart = (roots[left] != roots[right]) & np.isin(left, hashed) & np.isin(right, hashed)
    left, right, similarity = left[apart], right[apart], similarity[apart]
    found = np.full(len(left), -1.0, np.float32)
    for start in range(0, len(left), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        found[block] = _match(inspection.thumbnails[left[block]], inspection.thumbnails[right[block]])
    is_copy = (found >= _CERTAIN_MATCH) | ((found >= _MATCH) & (similarity >= _SIMILAR))
    for first, second, match in zip(left[is_copy], right[is_copy], found[is_copy].tolist(), strict=True):
        for number in (int(first), int(second)):
            matches[number] = max(matches.get(number, 0.0), match)
    roots = unite_pairs(roots, left[is_copy], right[is_copy])
    members: dict[int, list[int]] = {}
    for number in np.flatnonzero(np.bincount(roots, minlength=count)[roots] > 1).tolist():
        members.setdefault(int(roots[number]), []).append(number)
    return Copies(tuple(map(tuple, members.values())), matches)


def _match(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns how well one thumbnail of each pair fits into the other, or into the other mirrored."""
    found = [
        match_parts(whole, part)
        for whole, part in (
            (left, right),
            (left, right[:, :, ::-1]),
            (right, left),
            (right, left[:, :, ::-1]),
        )
    ]
    return np.asarray(np.max(found, axis=0))


def _similar_pairs(
    features: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Returns pairs of images, each once, with the cosine of their features.

    Many images are divided into cells, each around an image; an image is compared with those of the cells
    that it is nearest to. Otherwise the time would grow with the square of their number.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    count = len(unit)
    cells = count // _CELL_IMAGES if count > _MAX_COMPARED_WITH_ALL else 1
    centers = unit[np.arange(cells) * count // cells] if count else unit
    near = np.empty((count, min(_NEAR_CELLS, cells)), np.int64)
    for start in range(0, count, _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        near[start:end] = np.argsort(-(unit[start:end] @ centers.T), axis=1)[:, : near.shape[1]]
    found = [np.zeros((0, 3))]
    for cell in range(cells):
        members = np.flatnonzero(near[:, 0] == cell)
        compared = np.flatnonzero((near == cell).any(axis=1)) if len(members) else members
        for start in range(0, len(compared), _ROWS_AT_ONCE):
            rows = compared[start : start + _ROWS_AT_ONCE]
            cosines = unit[rows] @ unit[members].T
            cosines[rows[:, None] == members] = -1
            nearest = np.argpartition(-cosines, min(_NEIGHBORS, len(members)) - 1, axis=1)[:, :_NEIGHBORS]
            similarity = np.take_along_axis(cosines, nearest, axis=1)
            row, column = np.nonzero(similarity >= _MIN_SIMILARITY)
            found.append(
                np.stack([rows[row], members[nearest[row, column]], similarity[row, column]], axis=1)
            )
    left, right, similarity = np.concatenate(found).T
    # Of all cells, the nearest neighbors of each image.
    order = np.lexsort((-similarity, left))
    left, right, similarity = left[order].astype(np.int64), right[order].astype(np.int64), similarity[order]
    is_near = np.arange(len(left)) - np.searchsorted(left, left) < _NEIGHBORS
    pairs = np.sort(np.stack([left, right], axis=1)[is_near], axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return pairs[:, 0], pairs[:, 1], similarity[is_near][first].astype(np.float32)


def copy_findings(inspection: Inspection, copies: Copies, excluded: set[int]) -> Iterator[Finding]:
    """Yields a finding for each copy but the one of its group that should stay.

    That is an image of the test split, else of the validation split, and the largest of those.

    Args:
        inspection: The images.
        copies: From ``find_copies``.
        excluded: Images that other findings suggest to drop, e.g. placeholders.
    """
    images = inspection.images
    for group in copies.groups:
        # A row that is repeated to balance classes does not count as a copy.
        distinct = {
            (images[n].path, images[n].classes, images[n].split): n for n in group if n not in excluded
        }
        first, *others = sorted(
            distinct.values(), key=lambda n: (_KEPT_FIRST.get(images[n].split, 3), -images[n].pixels, n)
        ) or [-1]
        for number in others:
            score = copies.matches[number]
            if images[number].classes != images[first].classes:
                yield Finding(TWO_LABELS, number, score, other=first)
            elif images[number].split != images[first].split:
                yield Finding(ACROSS_SPLITS, number, score, DROP, first)
            else:
                yield Finding(COPY, number, score, DROP, first)
