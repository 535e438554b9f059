"""Checkpoints: everything that a training needs to go on as if it had not been interrupted.

A checkpoint is one NumPy file, ``step-00000200.npz``: the arrays by name and, under ``state``, a JSON
text. It takes its name when it is complete, so that a kill at any moment leaves the one before.
The best model's weights lie in a file of their own, ``best-00000100.npz``, written only when
an evaluation was better than all before.
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

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.common.log import log_event
from imgpipe.components.storage.folders import folder_at

Arrays = Mapping[str, NDArray[Any]]

_STATE = "state"
_NAME = re.compile(r"(step|best)-(\d{8,})\.npz")
# What numpy and zipfile raise for a file that is cut short, empty or not theirs.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Checkpoint:
    """A training at one step.

    Attributes:
        step: Training steps done.
        arrays: Of all variables, by name.
        state: JSON values: what is not in a variable.
    """

    step: int
    arrays: Arrays
    state: Mapping[str, Any]


class CheckpointFolder:
    """The checkpoints of one training.

    Args:
        location: The folder in which they lie, local or ``gs://``; made when it is missing. Files of others
            in it are left alone.
        keep: How many stay, the last ones.
    """

    def __init__(self, location: str, *, keep: int) -> None:
        self._folder, self._keep = folder_at(location), keep
        # By step, so that a checkpoint is not fetched from Cloud Storage whole to learn of it.
        self._best_of: dict[int, int | None] = {}

    @property
    def location(self) -> str:
        """The folder in which they lie."""
        return self._folder.location

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes those that are not needed any more.

        ``checkpoint.state["best_step"]``, if it is there, names the best weights that stay.

        Raises:
            OutputError: if it cannot be written.
        """
        self._write("step", checkpoint)
        self._best_of[checkpoint.step] = checkpoint.state.get("best_step")
        steps = self._steps("step")
        # Later ones were passed over, being damaged, when the training went on from an earlier one.
        kept = [step for step in steps if step <= checkpoint.step][-self._keep :]
        for step in steps:
            if step not in kept:
                self._folder.remove(_file_name("step", step))
        # An older checkpoint may have another best: what was the best when it was written.
        needed = {self._best_step(step) for step in kept}
        for step in self._steps("best"):
            if step not in needed:
                self._folder.remove(_file_name("best", step))

    def write_best(self, step: int, weights: Arrays, state: Mapping[str, Any]) -> None:
        """Writes the weights of an evaluation that was better than all before.

        Args:
            step: Of the evaluation.
            weights: By variable path.
            state: What they are of.

        Raises:
            OutputError: if they cannot be written.
        """
        self._write("best", Checkpoint(step, weights, state))

    def latest(self) -> Checkpoint | None:
        """Returns the last checkpoint that can be read; None if there is none.

        One that is damaged is passed over with a warning, and the one before it taken.
        """
        for step in reversed(self._steps("step")):
            checkpoint = self._read("step", step)
            best = checkpoint.state.get("best_step") if checkpoint else None
            if checkpoint and (best is None or self.best(best) is not None):
                return checkpoint
        return None

    def best(self, step: int) -> Checkpoint | None:
        """Returns the best weights of a step; None if they cannot be read."""
        return self._read("best", step)

    def _best_step(self, step: int) -> int | None:
        if step not in self._best_of:
            checkpoint = self._read("step", step, with_arrays=False)
            self._best_of[step] = checkpoint.state.get("best_step") if checkpoint else None
        return self._best_of[step]

    def _steps(self, kind: str) -> list[int]:
        matches = (_NAME.fullmatch(name) for name in self._folder.names())
        return sorted(int(match[2]) for match in matches if match and match[1] == kind)

    def _write(self, kind: str, checkpoint: Checkpoint) -> None:
        content = io.BytesIO()
        state = np.frombuffer(json.dumps(checkpoint.state).encode(), np.uint8)
        np.savez(content, **{_STATE: state, **checkpoint.arrays})  # type: ignore[arg-type]
        name = _file_name(kind, checkpoint.step)
        try:
            self._folder.write(name, content.getvalue())
        except OSError as error:
            raise OutputError(
                f"cannot write the checkpoint {name!r} in {self.location!r}: {error.strerror or error}",
                remedy="free some space there or name another job_dir; the checkpoint before is whole",
            ) from None

    def _read(self, kind: str, step: int, *, with_arrays: bool = True) -> Checkpoint | None:
        name = _file_name(kind, step)
        try:
            with np.load(io.BytesIO(self._folder.read(name)), allow_pickle=False) as file:
                state = json.loads(file[_STATE].tobytes())
                names = set(file.files) - {_STATE} if with_arrays else set()
                return Checkpoint(step, {name: file[name] for name in names}, state)
        except (FileNotFoundError, MissingInputError):
            return None
        except _DAMAGED as error:
            log_event(
                "checkpoint_damaged",
                f"train: {name!r} in {self.location!r} cannot be read ({error}); it is passed over",
                severity="WARNING",
            )
            return None


def check_same_training(checkpoint: Checkpoint, training: Mapping[str, Any], location: str) -> None:
    """Refuses a checkpoint of another training.

    Args:
        checkpoint: Whose ``state["training"]`` says what it is of.
        training: What is to be trained: name -> JSON value.
        location: Where the checkpoint lies, for the message.

    Raises:
        InvalidArgumentError: naming each difference.
    """
    theirs = checkpoint.state["training"]
    differences = [
        f"{name} was {_shown(theirs.get(name))}, is {_shown(training.get(name))}"
        for name in sorted({*theirs, *training})
        if theirs.get(name) != training.get(name)
    ]
    if differences:
        raise InvalidArgumentError(
            f"the checkpoints are of another training: {'; '.join(differences)}",
            where=location,
            remedy="give what was given then, name another job_dir, or move them away to begin anew",
        )


def read_checkpoint_weights(location: str) -> dict[str, NDArray[Any]]:
    """Returns the weights of a training's best evaluation so far, by path of the Keras variable.

    Args:
        location: A ``checkpoints`` folder, local or ``gs://``.

    Raises:
        MissingInputError: if there are no best weights, none that can be read, or only those of the last
            layer, as a training with a frozen backbone leaves.
    """
    checkpoints = CheckpointFolder(location, keep=1)
    latest = checkpoints.latest()
    best = checkpoints.best(latest.state["best_step"]) if latest and "best_step" in latest.state else None
    if best is None:
        raise MissingInputError(
            f"there is no checkpoint of an evaluated model in {location!r}",
            remedy="name the checkpoints folder of a job_dir, or its model folder",
        )
    if not best.state["complete"]:
        raise MissingInputError(
            "the checkpoint holds only the last layer: its backbone was frozen",
            where=location,
            remedy="name the folder job_dir/model of that training instead",
        )
    return {name.split("/", 2)[2]: array for name, array in best.arrays.items()}


def named(prefix: str, variables: Sequence[Any], values: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns values by name: the prefix, the place in the list and the variable's own path."""
    return {
        f"{prefix}/{index:05d}/{getattr(variable, 'path', variable.name)}": value
        for index, (variable, value) in enumerate(zip(variables, values, strict=True))
    }


def values_of(prefix: str, arrays: Arrays) -> list[NDArray[Any]]:
    """Returns the values that ``named`` gave a prefix, in their order."""
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{prefix}/")]


def _file_name(kind: str, step: int) -> str:
    return f"{kind}-{step:08d}.npz"


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)
