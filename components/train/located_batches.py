"""Batches of a split's images that say which record is to blame when they cannot be made."""

import atexit
import gc
import re
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.common.dataset import Split
from components.common.errors import InvalidDataError
from components.common.image_decoding import decode_image
from components.common.log import log_event
from components.common.quiet_tensorflow import tf
from components.common.records import ImageRecord
from components.common.split_records import record_place, split_records
from components.common.threads import usable_threads
from components.convert.parallel import in_order

_DATA_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_REMEDY = "replace the image or leave it out, and convert again; the validate step names every such image"


class _Iteration:
    """Holds an iterator of tf.data, so that it can be let go of at the end of the process."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator


_ITERATIONS: "weakref.WeakSet[_Iteration]" = weakref.WeakSet()


@atexit.register
def _end_iterations() -> None:
    """Ends the reading ahead before Python is taken down, which would wait for ever for what still reads."""
    for iteration in list(_ITERATIONS):
        iteration.iterator = None
    # Iterators are parts of circles, also those that nobody has any more.
    gc.collect()


class LocatedBatches:
    """The batches of a split; TensorFlow's errors on the way become errors that name the record.

    Args:
        batches: Of tf.data; can be gone through as often as these can.
        folder: Where the data set's manifest lies.
        split: Where the batches come from.
    """

    def __init__(self, batches: Iterable[tuple[Any, Any]], folder: Path, split: Split) -> None:
        self._batches, self._folder, self._split = batches, folder, split

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yields the batches.

        Raises:
            InvalidDataError: if a record is damaged or holds no image that can be decoded.
            MissingInputError: if a shard is not there any more.
        """
        iteration = _Iteration(iter(self._batches))
        _ITERATIONS.add(iteration)
        while True:
            try:
                batch = next(iteration.iterator)
            except StopIteration:
                return
            except _DATA_ERRORS as error:
                raise _located(error, self._folder, self._split) from None
            yield batch


def _located(error: Exception, folder: Path, split: Split) -> InvalidDataError:
    """Finds the first record that cannot be read or decoded, by going through the split once more."""
    log_event(
        "record_search",
        "train: an image cannot be read; looking for its record",
        severity="WARNING",
        total=split.examples,
    )
    # Reading raises the error of a record that is damaged itself.
    for index, found in enumerate(in_order(_failure, split_records(folder, split), usable_threads())):
        if found is not None:
            reason, filename = found
            name = f" ({filename})" if filename else ""
            return InvalidDataError(
                f"an image cannot be decoded: {reason}",
                where=record_place(folder, split, index) + name,
                remedy=_REMEDY,
            )
    return InvalidDataError(
        f"the images cannot be read: {short_reason(error)}",
        where=", ".join(str(folder / shard.path) for shard in split.shards[:3])
        + (", ..." if len(split.shards) > 3 else ""),
        remedy="run the validate step on the data",
    )


def _failure(record: ImageRecord) -> tuple[str, str] | None:
    """Returns why the record's image cannot be decoded, and its file name; None if it can."""
    try:
        # The size has no effect on what can be decoded.
        decode_image(tf.constant(record.encoded), 1)
    except tf.errors.InvalidArgumentError as error:
        return short_reason(error), record.filename
    return None


def short_reason(error: Exception) -> str:
    """Returns TensorFlow's message without the names of the graph's nodes."""
    message = str(getattr(error, "message", error))
    return re.sub(r"\{\{.*?\}\}|\[Op:.*?\]|\[\[.*", "", message, flags=re.DOTALL).strip().partition("\n")[0]
