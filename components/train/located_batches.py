"""Batches of a split's images whose errors name the record that caused them."""

import atexit
import gc
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import Split
from imgpipe.components.common.dataset_reader import locate_record, read_split
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image

_DATA_ERRORS = (
    tf.errors.InvalidArgumentError,
    # Of an image that is not decoded because another cannot be.
    tf.errors.CancelledError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_REMEDY = "replace or remove the image and convert again; the validate step lists all such images"


@dataclass(eq=False)
class _Iteration:
    """Owns an iterator of tf.data and releases it in a thread that can wait for its prefetching.

    Attributes:
        iterator: None once it is released.
        abandoned: Whether no more batches will be taken.
    """

    iterator: Any
    abandoned: bool = False


# Keeps iterators alive until they are released here. Destroying one waits for its prefetching, which runs
# Python code: if the garbage collector destroyed it in the prefetching thread itself, that would be a
# deadlock.
_ITERATIONS: set[_Iteration] = set()


def _release(iteration: _Iteration) -> None:
    """Ends the prefetching. Do not call it from a prefetching thread."""
    iteration.iterator = None
    _ITERATIONS.discard(iteration)


@atexit.register
def _release_all() -> None:
    """Ends all prefetching before the interpreter shuts down, which would otherwise wait for it forever."""
    for iteration in list(_ITERATIONS):
        _release(iteration)
    # Iterators are parts of reference cycles, including those released earlier.
    gc.collect()


@dataclass(frozen=True)
class LocatedBatches:
    """The batches of a split; TensorFlow's errors while reading become errors that name the record.

    Attributes:
        batches: A data set of tf.data, or any other iterable of batches.
        folder: Folder of the data set's manifest.
        split: The split that the batches are read from.
        multi_label: The manifest's ``multi_label``.
    """

    batches: Iterable[tuple[Any, Any]]
    folder: Path
    split: Split
    multi_label: bool = False

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yields the batches.

        Raises:
            InvalidDataError: if a record is damaged or its image cannot be decoded.
            MissingInputError: if a shard no longer exists.
        """
        for earlier in _ITERATIONS.copy():
            if earlier.abandoned:
                _release(earlier)
        iteration = _Iteration(iter(self.batches))
        _ITERATIONS.add(iteration)
        try:
            while True:
                try:
                    batch = next(iteration.iterator)
                except StopIteration:
                    _release(iteration)
                    return
                except _DATA_ERRORS as error:
                    # Only the text is kept: the traceback refers to the iterator.
                    reason = short_reason(error)
                    break
                yield batch
            _release(iteration)
            raise _locate(reason, self.folder, self.split, self.multi_label)
        finally:
            # The iterator is not released here: the garbage collector may close this generator in any thread.
            iteration.abandoned = True


def _locate(reason: str, folder: Path, split: Split, multi_label: bool) -> InvalidDataError:
    """Reads the split again and returns the error of the first record that cannot be decoded."""
    log_event(
        "record_search",
        "train: an image cannot be read; searching for its record",
        severity="WARNING",
        total=split.examples,
    )
    # Reading raises the error of a record that is itself damaged.
    records = read_split(folder, split, multi_label=multi_label)
    for index, failure in enumerate(map_in_order(_decoding_failure, records, usable_threads())):
        if failure is not None:
            decoding_reason, filename = failure
            name = f" ({filename})" if filename else ""
            return InvalidDataError(
                f"an image cannot be decoded: {decoding_reason}",
                where=locate_record(folder, split, index) + name,
                remedy=_REMEDY,
            )
    return InvalidDataError(
        f"the images cannot be read: {reason}",
        where=", ".join(str(folder / shard.path) for shard in split.shards[:3])
        + (", ..." if len(split.shards) > 3 else ""),
        remedy="run the validate step on the data",
    )


def _decoding_failure(record: ImageRecord) -> tuple[str, str] | None:
    """Returns the reason why the image cannot be decoded, and its file name; None if it can."""
    try:
        # Whether it can be decoded does not depend on the size.
        decode_image(tf.constant(record.encoded), 1)
    except tf.errors.InvalidArgumentError as error:
        return short_reason(error), record.filename
    return None


def short_reason(error: Exception) -> str:
    """Returns the first line of TensorFlow's message without the names of graph nodes."""
    message = str(getattr(error, "message", error))
    return re.sub(r"\{\{.*?\}\}|\[Op:.*?\]|\[\[.*", "", message, flags=re.DOTALL).strip().partition("\n")[0]
