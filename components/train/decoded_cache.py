"""Keeps decoded images from one epoch to the next, in memory or on the local disk."""

import os
import shutil
import tempfile
import threading
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.log import log_event

# Decoded images, of training and validation together, that are kept in memory.
_MEMORY_BYTES = 2**30
# Of the disk's free space: checkpoints and the model need some, too.
_DISK_SHARE = 0.5
# File systems that are memory themselves.
_NO_DISKS = ("tmpfs", "ramfs")


class CachePlace(Enum):
    """Where decoded images are kept."""

    NOWHERE = "nowhere"
    MEMORY = "memory"
    DISK = "disk"


def kept_decoded(
    *,
    training_images: int,
    training_size: int,
    validation_images: int,
    validation_size: int,
    seen: int,
    disk: bool = True,
) -> tuple[CachePlace, bool]:
    """Returns where the training images stay once they are decoded, and whether the validation images do.

    What stays in memory takes at most 1 GiB. The training images come first: they are seen more often.
    They may lie on the local disk instead, in the folder for temporary files, if that has twice the
    space. The validation images stay in memory or nowhere.

    Args:
        training_images: How many there are.
        training_size: Side of a kept training image, in pixels; see ``augmentation.kept_size``.
        validation_images: How many there are.
        validation_size: Side of a validation image, in pixels.
        seen: How many training images the run will take. If no image comes twice, none is kept.
        disk: Whether the disk may be used. Crops of kept images are of slightly other pixels, and how much
            of a disk is free may differ when a run is repeated.
    """
    training_bytes = training_images * _image_bytes(training_size)
    place = CachePlace.NOWHERE
    if seen > training_images:
        if training_bytes <= _MEMORY_BYTES:
            place = CachePlace.MEMORY
        elif disk and training_bytes <= _DISK_SHARE * _free_disk_bytes():
            place = CachePlace.DISK
    left = _MEMORY_BYTES - training_bytes * (place is CachePlace.MEMORY)
    return place, validation_images * _image_bytes(validation_size) <= left


class DecodedCache:
    """Square images of one size with a few numbers each, kept under the numbers of the examples.

    On disk they are in a file without a name, which the system frees when the process ends, however it
    ends. May be used by several threads.

    Args:
        examples: Their numbers are 0..examples-1.
        size: Side of the images, in pixels.
        facts: How many int64 numbers are kept with each image.
        place: Memory or disk.
    """

    def __init__(self, examples: int, size: int, facts: int, place: CachePlace) -> None:
        self._shape = (size, size, 3)
        self._held = np.zeros(examples, bool)
        self._facts = np.zeros((examples, facts), np.int64)
        self._pixels: _InMemory | _OnDisk = (
            _OnDisk(_image_bytes(size)) if place is CachePlace.DISK else _InMemory(examples, self._shape)
        )
        self._full = threading.Event()
        if place is CachePlace.DISK:
            log_event(
                "images_kept",
                f"train: decoded images are kept in {tempfile.gettempdir()} while the training runs, up to "
                f"{examples * _image_bytes(size) / 1e9:.1f} GB",
            )

    def holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns for each example whether it is here."""
        return self._held[numbers]

    def store(self, numbers: NDArray[np.int64], images: NDArray[np.uint8], facts: NDArray[np.int64]) -> None:
        """Keeps images, uint8 [n, size, size, 3], with their facts, int64 [n, facts].

        A disk that is full ends the keeping, not the run.
        """
        if self._full.is_set():
            return
        try:
            for number, image in zip(numbers.tolist(), images, strict=True):
                self._pixels.write(number, image)
        except OSError as error:
            self._full.set()
            log_event(
                "cache_full",
                f"train: decoded images are not kept any more: {error.strerror}",
                severity="WARNING",
            )
            return
        self._facts[numbers] = facts
        # Last: another thread may ask meanwhile.
        self._held[numbers] = True

    def load(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns images, uint8 [n, size, size, 3], and their facts; undefined where they are not held."""
        images = np.empty((len(numbers), *self._shape), np.uint8)
        for number, image in zip(numbers.tolist(), images, strict=True):
            if self._held[number]:
                self._pixels.read(number, image)
        return images, self._facts[numbers]


class _InMemory:
    def __init__(self, examples: int, shape: tuple[int, int, int]) -> None:
        # The system gives the memory when it is written to.
        self._images = np.empty((examples, *shape), np.uint8)

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        self._images[number] = image

    def read(self, number: int, image: NDArray[np.uint8]) -> None:
        image[...] = self._images[number]


class _OnDisk:
    """Read and written, not mapped: mapped pages count as the process' memory; a full disk would kill it."""

    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._file = tempfile.TemporaryFile(prefix="imgpipe-")  # noqa: SIM115 - as long as the cache

    def write(self, number: int, image: NDArray[np.uint8]) -> None:
        rest, offset = np.ascontiguousarray(image).data.cast("B"), number * self._image_bytes
        while rest:
            written = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[written:], offset + written

    def read(self, number: int, image: NDArray[np.uint8]) -> None:
        rest, offset = image.data.cast("B"), number * self._image_bytes
        while rest:
            count = os.preadv(self._file.fileno(), [rest], offset)
            rest, offset = rest[count:], offset + count


def _image_bytes(size: int) -> int:
    return size * size * 3


def _free_disk_bytes() -> int:
    """Returns the space for temporary files; 0 if they lie in memory."""
    folder = Path(tempfile.gettempdir()).resolve()
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        mounts = []
    # The last mount on the longest path is the one that counts.
    kinds = {words[1]: words[2] for words in mounts}
    for place in (folder, *folder.parents):
        if str(place) in kinds:
            return 0 if kinds[str(place)] in _NO_DISKS else shutil.disk_usage(folder).free
    return shutil.disk_usage(folder).free
