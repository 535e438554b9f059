"""Batches of a split's images that say which record is to blame when they cannot be made."""

import atexit
import gc
import re
from collections.abc import Iterable, Iterator
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
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
_REMEDY = "replace the image or leave it out, and convert again; the validate step names every such image"


class _Iteration:
    """Holds an iterator of tf.data, so that it is let go of where that can wait for the reading to end.

    Attributes:
        iterator: None when it was let go of.
        abandoned: Whether nobody takes batches any more.
    """

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator
        self.abandoned = False


# Held until they are let go of here. An iterator ends only when its reading ahead has, and that is Python
# code: if Python's garbage collector ended it in the reading's own thread, both would wait for ever.
_ITERATIONS: set[_Iteration] = set()


def _let_go(iteration: _Iteration) -> None:
    """Ends the reading ahead; not to be called from a thread that reads."""
    iteration.iterator = None
    _ITERATIONS.discard(iteration)


@atexit.register
def _end_iterations() -> None:
    """Ends the reading ahead before Python is taken down, which would wait for ever for what still reads."""
    for iteration in list(_ITERATIONS):
        _let_go(iteration)
    # Iterators are parts of circles, also those that nobody has any more.
    gc.collect()


class LocatedBatches:
    """The batches of a split; TensorFlow's errors on the way become errors that name the record.

    Args:
        batches: Of tf.data; can be gone through as often as these can.
        folder: Where the data set's manifest lies.
        split: Where the batches come from.
        multi_label: What the manifest says.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        folder: Path,
        split: Split,
        *,
        multi_label: bool = False,
    ) -> None:
        self._batches, self._folder, self._split = batches, folder, split
        self._multi_label = multi_label

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yields the batches.

        Raises:
            InvalidDataError: if a record is damaged or holds no image that can be decoded.
            MissingInputError: if a shard is not there any more.
        """
        for abandoned in [one for one in _ITERATIONS.copy() if one.abandoned]:
            _let_go(abandoned)
        iteration = _Iteration(iter(self._batches))
        _ITERATIONS.add(iteration)
        try:
            while True:
                try:
                    batch = next(iteration.iterator)
                except StopIteration:
                    _let_go(iteration)
                    return
                except _DATA_ERRORS as error:
                    # Nothing more of the error is kept: its traceback holds the iterator as well.
                    reason = short_reason(error)
                    break
                yield batch
            _let_go(iteration)
            raise _located(reason, self._folder, self._split, self._multi_label)
        finally:
            # Whoever closes this generator may be the garbage collector, in any thread.
            iteration.abandoned = True


def _located(reason: str, folder: Path, split: Split, multi_label: bool) -> InvalidDataError:
    """Finds the first record that cannot be read or decoded, by going through the split once more."""
    log_event(
        "record_search",
        "train: an image cannot be read; looking for its record",
        severity="WARNING",
        total=split.examples,
    )
    # Reading raises the error of a record that is damaged itself.
    records = read_split(folder, split, multi_label=multi_label)
    for index, found in enumerate(map_in_order(_failure, records, usable_threads())):
        if found is not None:
            why, filename = found
            name = f" ({filename})" if filename else ""
            return InvalidDataError(
                f"an image cannot be decoded: {why}",
                where=locate_record(folder, split, index) + name,
                remedy=_REMEDY,
            )
    return InvalidDataError(
        f"the images cannot be read: {reason}",
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
