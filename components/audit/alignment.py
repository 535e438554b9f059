"""Compares the pixels of two images at all offsets and several scales: is one a part of the other?"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# The smallest side of a part, as a fraction of the whole image's.
_SMALLEST_PART = 0.6
_SCALES = 14
# The sides of a part are searched around the best of the coarse search, in pixels.
_SEARCH = (-2, -1, 0, 1, 2)
# The coarse search excludes pairs with less.
_COARSE_MATCH = 0.75
# A flat part matches anything: less variance, of the brightness 0..255, counts as this.
_MIN_VARIANCE = 4.0
_PAIRS_AT_ONCE = 512

_Images = NDArray[np.float32]


def match_parts(wholes: NDArray[np.uint8], parts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns how well each part fits somewhere into the whole image of the same number.

    Args:
        wholes: [pairs, side, side], brightness.
        parts: The same; each is compared at 60% to 100% of the size.

    Returns:
        The highest correlation of the pixels, -1..1, [pairs]; -1 where a coarse search finds nothing similar.
    """
    found = np.full(len(wholes), -1.0, np.float32)
    for start in range(0, len(wholes), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        found[block] = _match(wholes[block].astype(np.float32), parts[block].astype(np.float32))
    return found


def _match(wholes: _Images, parts: _Images) -> _Images:
    side = wholes.shape[1] // 2
    sizes = sorted({round(side * scale) for scale in np.linspace(_SMALLEST_PART, 1, _SCALES)})
    small_wholes, small_parts = (
        images.reshape(-1, side, 2, side, 2).mean(axis=(2, 4)) for images in (wholes, parts)
    )
    coarse, best = _best_correlation(small_wholes, small_parts, [(size, size) for size in sizes])
    found = np.full(len(wholes), -1.0, np.float32)
    for size in sizes:
        pairs = np.flatnonzero((coarse >= _COARSE_MATCH) & (best == size))
        if len(pairs):
            sides = {min(2 * size + change, 2 * side) for change in _SEARCH}
            shapes = [(height, width) for height in sides for width in sides]
            found[pairs], _ = _best_correlation(wholes[pairs], parts[pairs], shapes)
    return found


def _best_correlation(
    wholes: _Images, parts: _Images, shapes: Iterable[tuple[int, int]]
) -> tuple[_Images, NDArray[np.int64]]:
    """Returns the highest correlation of each pair and the height of the part there."""
    side = wholes.shape[1]
    spectrum = np.fft.rfft2(wholes)
    sums = [
        _cumulative(images) for images in (wholes.astype(np.float64), np.square(wholes, dtype=np.float64))
    ]
    best, heights = np.full(len(wholes), -1.0, np.float32), np.zeros(len(wholes), np.int64)
    for height, width in shapes:
        scaled = _averaging(side, height) @ parts @ _averaging(side, width).T
        scaled -= scaled.mean(axis=(1, 2), keepdims=True)
        scaled /= np.sqrt(np.square(scaled).sum(axis=(1, 2), keepdims=True)) + 1e-6
        padded = np.zeros_like(wholes)
        padded[:, :height, :width] = scaled
        products = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(padded)), s=(side, side))
        products = products[:, : side - height + 1, : side - width + 1]
        total, squares = (
            (area[:, height:, width:] - area[:, :-height, width:])
            - (area[:, height:, :-width] - area[:, :-height, :-width])
            for area in sums
        )
        count = height * width
        variance = np.maximum(squares - np.square(total) / count, _MIN_VARIANCE * count)
        correlation = (products / np.sqrt(variance)).max(axis=(1, 2))
        better = correlation > best
        best[better], heights[better] = correlation[better], height
    return best, heights


def _cumulative(images: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(images.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))


def _averaging(side: int, size: int) -> _Images:
    """Returns the matrix that scales a row of pixels down to ``size``: each is the mean of what it covers."""
    ends = np.linspace(0, side, size + 1)
    pixels = np.arange(side)
    covered = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return np.asarray(np.maximum(covered, 0) * (size / side), np.float32)
