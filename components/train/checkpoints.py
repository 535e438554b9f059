"""Checkpoints, from which an interrupted training run resumes as if it had not been interrupted.

A checkpoint is a NumPy file, ``step-00000200.npz``: arrays by name and, under ``state``, JSON. The file is
renamed into place when it is complete, so that a kill at any moment leaves the previous checkpoint. The best
model's weights are in a separate file, ``best-00000100.npz``, written only when an evaluation is better than
all previous ones.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import (
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    os_error_remedy,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.storage import Location

Arrays = Mapping[str, NDArray[Any]]

_STATE = "state"
_NAME = re.compile(r"(step|best)-(\d{8,})\.npz")
# Raised by numpy and zipfile for files that are truncated, empty or of another format.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run at one step.

    Attributes:
        step: Training steps done.
        arrays: Values of all variables, by name.
        state: All other state, as JSON values.
    """

    step: int
    arrays: Arrays
    state: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training run.

    Attributes:
        folder: The folder, local, ``gs://`` or ``s3://``; created if missing. Other files in it are ignored.
        keep: Number of checkpoints to keep, the last ones.
    """

    folder: Location
    keep: int

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes obsolete ones.

        The best weights of step ``checkpoint.state["best_step"]``, if present, are kept.

        Raises:
            OutputError: if it cannot be written.
        """
        self._write("step", checkpoint)
        steps = self._steps("step")
        # Later checkpoints are damaged: they were skipped when the training resumed from an earlier one.
        kept = [step for step in steps if step <= checkpoint.step][-self.keep :]
        for step in steps:
            if step not in kept:
                (self.folder / _file_name("step", step)).remove()
        # Each checkpoint needs the weights that were the best when it was written, the last ones up to its
        # step. A training run that was killed may have left weights after the best step of this checkpoint.
        best, best_step = self._steps("best"), checkpoint.state.get("best_step", -1)
        needed = {max((n for n in best if n <= min(step, best_step)), default=None) for step in kept}
        for step in best:
            if step not in needed:
                (self.folder / _file_name("best", step)).remove()

    def write_best(self, step: int, weights: Arrays, state: Mapping[str, Any]) -> None:
        """Writes the weights of an evaluation that was better than all previous ones.

        Args:
            step: Step of the evaluation.
            weights: Named as by ``to_arrays``.
            state: JSON values that describe the weights.

        Raises:
            OutputError: if they cannot be written.
        """
        self._write("best", Checkpoint(step, weights, state))

    def latest(self) -> Checkpoint | None:
        """Returns the last readable checkpoint; None if there is none. Skips damaged ones with a warning."""
        for step in reversed(self._steps("step")):
            checkpoint = self._read("step", step)
            best = checkpoint.state.get("best_step") if checkpoint else None
            if checkpoint and (best is None or self.best(best) is not None):
                return checkpoint
        return None

    def best(self, step: int) -> Checkpoint | None:
        """Returns the best weights written at a step; None if they cannot be read."""
        return self._read("best", step)

    def _steps(self, kind: str) -> list[int]:
        matches = (_NAME.fullmatch(name) for name in self.folder.contents())
        return sorted(int(match[2]) for match in matches if match and match[1] == kind)

    def _write(self, kind: str, checkpoint: Checkpoint) -> None:
        content = io.BytesIO()
        state = np.frombuffer(json.dumps(checkpoint.state).encode(), np.uint8)
        np.savez(content, **{_STATE: state, **checkpoint.arrays})  # type: ignore[arg-type]
        name = _file_name(kind, checkpoint.step)
        try:
            (self.folder / name).write(content.getvalue())
        except OSError as error:
            raise OutputError(
                f"cannot write the checkpoint {name!r} to {self.folder!r}: {error.strerror or error}",
                remedy=os_error_remedy(error, "set another job_dir") + "; the previous checkpoint is intact",
            ) from None

    def _read(self, kind: str, step: int) -> Checkpoint | None:
        name = _file_name(kind, step)
        try:
            with np.load(io.BytesIO((self.folder / name).read()), allow_pickle=False) as file:
                state = json.loads(file[_STATE].tobytes())
                arrays = {name: file[name] for name in file.files if name != _STATE}
                return Checkpoint(step, arrays, state)
        except (FileNotFoundError, MissingInputError):
            return None
        except _DAMAGED as error:
            log_event(
                "checkpoint_damaged",
                f"train: cannot read {name!r} in {self.folder!r} ({error}); skipping it",
                severity="WARNING",
            )
            return None


def check_same_training(checkpoint: Checkpoint, training: Mapping[str, Any], location: str) -> None:
    """Checks that a checkpoint belongs to this training.

    Args:
        checkpoint: Its ``state["training"]`` holds the settings that it was written with.
        training: The settings of this training: name -> JSON value.
        location: The checkpoint's folder, for the message.

    Raises:
        InvalidArgumentError: naming each difference.
    """
    previous = checkpoint.state["training"]
    differences = [
        f"{name} was {_format_value(previous.get(name))}, is {_format_value(training.get(name))}"
        for name in sorted({*previous, *training})
        if previous.get(name) != training.get(name)
    ]
    if differences:
        raise InvalidArgumentError(
            f"the checkpoints belong to another training run: {'; '.join(differences)}",
            where=location,
            remedy="restore the previous values, set another job_dir, or move the checkpoints away",
        )


def read_checkpoint_weights(location: Location) -> dict[str, NDArray[Any]]:
    """Returns the weights of a training run's best evaluation so far, by path of the Keras variable.

    Args:
        location: A ``checkpoints`` folder.

    Raises:
        MissingInputError: if there are no readable best weights, or only those of the last layer, which a
            training with a frozen backbone writes.
    """
    checkpoints = CheckpointFolder(location, keep=1)
    latest = checkpoints.latest()
    best = checkpoints.best(latest.state["best_step"]) if latest and "best_step" in latest.state else None
    if best is None:
        raise MissingInputError(
            f"there is no checkpoint of an evaluated model in {location!r}",
            remedy="use the checkpoints or model folder of a job_dir",
        )
    if not best.state["complete"]:
        raise MissingInputError(
            "the checkpoint contains only the last layer, because the backbone was frozen",
            where=str(location),
            remedy="use the folder job_dir/model of that training instead",
        )
    return {name.split("/", 2)[2]: array for name, array in best.arrays.items()}


def to_arrays(
    prefix: str, variables: Sequence[Any], values: Sequence[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Returns the values by name: the prefix, the index in the list and the variable's path."""
    return {
        f"{prefix}/{index:05d}/{getattr(variable, 'path', variable.name)}": value
        for index, (variable, value) in enumerate(zip(variables, values, strict=True))
    }


def from_arrays(prefix: str, arrays: Arrays) -> list[NDArray[Any]]:
    """Returns the values that ``to_arrays`` named with a prefix, in their order."""
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{prefix}/")]


def _file_name(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}.npz"


def _format_value(value: Any) -> str:
    return "absent" if value is None else repr(value)
