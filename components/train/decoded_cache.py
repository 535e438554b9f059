"""Caches decoded images between epochs, in memory or on the local disk."""

import os
import tempfile
import threading
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.log import log_event
from imgpipe.components.common.resources import free_disk_bytes

# Memory limit for the decoded images of training and validation together.
_MEMORY_BYTES = 2**30
# The fraction of the free disk space that may be used: checkpoints and the model need some too.
_DISK_FRACTION = 0.5


class CacheLocation(Enum):
    """Where decoded images are cached."""

    NONE = "none"
    MEMORY = "memory"
    DISK = "disk"


def choose_cache(
    *,
    training_images: int,
    training_size: int,
    validation_images: int,
    validation_size: int,
    images_seen: int,
    allow_disk: bool = True,
) -> tuple[CacheLocation, bool]:
    """Chooses where to cache the training images, and whether to cache the validation images in memory.

    The cache in memory takes at most 1 GiB. Training images have priority, since they are seen more often. If
    they do not fit, they are cached on the local disk, in the folder for temporary files, provided that twice
    the space is free.

    Args:
        training_images: Number of training images.
        training_size: Side of a cached training image, in pixels; see ``augmentation.cached_size``.
        validation_images: Number of validation images.
        validation_size: Side of a validation image, in pixels.
        images_seen: Number of training images that the run will use. If none is used twice, none is cached.
        allow_disk: Whether the disk may be used. Crops from cached images have slightly different pixels, and
            the free disk space may be different when a run is repeated.
    """
    training_bytes = training_images * _image_bytes(training_size)
    location = CacheLocation.NONE
    if images_seen > training_images:
        if training_bytes <= _MEMORY_BYTES:
            location = CacheLocation.MEMORY
        elif allow_disk and training_bytes <= _DISK_FRACTION * free_disk_bytes():
            location = CacheLocation.DISK
    left = _MEMORY_BYTES - training_bytes * (location is CacheLocation.MEMORY)
    return location, validation_images * _image_bytes(validation_size) <= left


class DecodedCache:
    """Square images of one size with their original sizes and targets, by the index of the example.

    On disk they are in an unnamed file, which the operating system frees however the process ends.
    Thread-safe.

    Args:
        examples: Number of examples; their indices are 0..examples-1.
        size: Side of the images, in pixels.
        multi_label_classes: N in a multi-label data set, otherwise 0.
        location: Memory or disk.
    """

    def __init__(self, examples: int, size: int, multi_label_classes: int, location: CacheLocation) -> None:
        self._shape = (size, size, 3)
        self._cached = np.zeros(examples, bool)
        self._sizes = np.zeros((examples, 2), np.int32)
        self._multi_label_classes = multi_label_classes
        # Multi-label targets are stored as bits.
        self._targets: NDArray[Any] = (
            np.zeros((examples, -(-multi_label_classes // 8)), np.uint8)
            if multi_label_classes
            else np.zeros(examples, np.int64)
        )
        on_disk = location is CacheLocation.DISK
        self._pixels = _OnDisk(_image_bytes(size)) if on_disk else _InMemory(examples, self._shape)
        self._full = threading.Event()
        if on_disk:
            log_event(
                "images_cached",
                f"train: caching decoded images in {tempfile.gettempdir()} during the training, up to "
                f"{examples * _image_bytes(size) / 1e9:.1f} GB",
            )

    def contains(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns for each example whether it is cached."""
        return self._cached[indices]

    def store(
        self,
        indices: NDArray[np.int64],
        images: NDArray[np.uint8],
        sizes: NDArray[np.int32],
        targets: NDArray[Any],
    ) -> None:
        """Caches examples; does nothing once the disk is full.

        Args:
            indices: int64 [n].
            images: uint8 [n, size, size, 3].
            sizes: Original heights and widths, int32 [n, 2].
            targets: Classes, int64 [n]; in a multi-label data set float32 [n, N] of 0 and 1.
        """
        if self._full.is_set():
            return
        try:
            for index, image in zip(indices.tolist(), images, strict=True):
                self._pixels.write(index, image)
        except OSError as error:
            self._full.set()
            log_event(
                "cache_full",
                f"train: no further decoded images are cached: {error.strerror}",
                severity="WARNING",
            )
            return
        self._sizes[indices] = sizes
        self._targets[indices] = (
            np.packbits(targets.astype(bool), axis=1) if self._multi_label_classes else targets
        )
        # Last, because other threads read it.
        self._cached[indices] = True

    def load(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[Any]]:
        """Returns images, sizes and targets, as passed to ``store``; undefined for examples not cached."""
        images = np.empty((len(indices), *self._shape), np.uint8)
        for index, image in zip(indices.tolist(), images, strict=True):
            if self._cached[index]:
                self._pixels.read(index, image)
        targets = self._targets[indices]
        if self._multi_label_classes:
            targets = np.unpackbits(targets, axis=1, count=self._multi_label_classes).astype(np.float32)
        return images, self._sizes[indices], targets


class _InMemory:
    def __init__(self, examples: int, shape: tuple[int, int, int]) -> None:
        # The operating system allocates the pages when they are written to.
        self._images = np.empty((examples, *shape), np.uint8)

    def write(self, index: int, image: NDArray[np.uint8]) -> None:
        self._images[index] = image

    def read(self, index: int, image: NDArray[np.uint8]) -> None:
        image[...] = self._images[index]


class _OnDisk:
    """Not memory-mapped: mapped pages count as the process's memory, and a full disk would kill it."""

    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._file = tempfile.TemporaryFile(prefix="imgpipe-")  # noqa: SIM115 - open as long as the cache

    def write(self, index: int, image: NDArray[np.uint8]) -> None:
        rest, offset = np.ascontiguousarray(image).data.cast("B"), index * self._image_bytes
        while rest:
            written = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[written:], offset + written

    def read(self, index: int, image: NDArray[np.uint8]) -> None:
        rest, offset = image.data.cast("B"), index * self._image_bytes
        while rest:
            count = os.preadv(self._file.fileno(), [rest], offset)
            rest, offset = rest[count:], offset + count


def _image_bytes(size: int) -> int:
    return size * size * 3
