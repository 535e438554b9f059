"""Where a local run's output lies, and whose the folder is."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.errors import OutputError
from imgpipe.components.common.published_model import MODEL_FOLDER, TRIAL_MODEL
from imgpipe.components.storage import check_empty, check_writable
from imgpipe.components.train.job_dir import FILES_OF_TRAINING
from imgpipe.components.tune.job_dir import FILES_OF_TUNING, REPORT_FILE, TRIALS_FILE

# Stands in a job_dir from the run's beginning until its model is published, so that a run that failed or was
# interrupted can be started again into the same folder.
_MARK = ".imgpipe-run"


@dataclass(frozen=True)
class RunFolder:
    """Where a run's output lies below its job_dir."""

    job_dir: Path

    @property
    def model(self) -> Path:
        """The checked SavedModel."""
        return self.job_dir / "model"

    @property
    def report(self) -> Path:
        """The evaluation's page."""
        return self.job_dir / "report.html"

    @property
    def data_report(self) -> Path:
        """The validation's page."""
        return self.job_dir / "data_report.html"

    @property
    def trials(self) -> Path:
        """All trials of a tuning, for programs."""
        return self.job_dir / TRIALS_FILE

    @property
    def tuning_report(self) -> Path:
        """All trials of a tuning, for people."""
        return self.job_dir / REPORT_FILE

    @property
    def log(self) -> Path:
        """Everything that the steps printed."""
        return self.job_dir / "run.log"

    @property
    def artifacts(self) -> Path:
        """KFP's artifacts of each step."""
        return self.job_dir / "artifacts"

    @property
    def sample_data(self) -> Path:
        """The sample's images, if the run was given no data."""
        return self.job_dir / "data"


@contextmanager
def claimed(folder: RunFolder) -> Iterator[None]:
    """Holds a job_dir for one run.

    It must be absent, empty, or left by a run that ended without a model: then what that run made is
    removed, and nothing else.

    Raises:
        OutputError: if it holds anything else, cannot be written, or another run holds it.
    """
    mark = folder.job_dir / _MARK
    try:
        if not mark.exists():
            check_empty(folder.job_dir)
            check_writable(folder.job_dir)
    except OSError as error:
        raise OutputError(
            f"cannot use {str(folder.job_dir)!r}: {error.strerror}", remedy="name another job_dir"
        ) from None
    with _locked(mark):
        _clear(folder)
        yield
        # The models of a tuning's trials lie in the folder before the best one does.
        if folder.model.exists() and not _holds_only_trials(folder.model):
            mark.unlink()


@contextmanager
def _locked(mark: Path) -> Iterator[None]:
    # Not emptied before the lock is held: it names the process of the run that holds it.
    with mark.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another run is writing to {str(mark.parent)!r}",
                remedy="wait for it, or name another job_dir",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # Released by the system when the process ends, however it ends.
        yield


def _clear(folder: RunFolder) -> None:
    ours = (folder.artifacts, folder.sample_data, folder.log, folder.report, folder.data_report)
    # The training goes on from what it left, if it is of the same arguments and data: the step checks that.
    known = {path.name for path in ours} | FILES_OF_TRAINING | FILES_OF_TUNING | {_MARK}
    if _holds_only_trials(folder.model):
        known.add(MODEL_FOLDER)
    others = {path.name for path in folder.job_dir.iterdir()} - known
    if others:
        raise OutputError(
            f"{str(folder.job_dir)!r} holds what no unfinished run leaves: {', '.join(sorted(others)[:5])}",
            remedy="name a new folder; nothing is deleted or overwritten",
        )
    for path in ours:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _holds_only_trials(model: Path) -> bool:
    """Whether a tuning that has not ended has left the models of its trials, and nothing else."""
    names = [path.name for path in model.iterdir()] if model.is_dir() else []
    return bool(names) and all(TRIAL_MODEL.fullmatch(name) for name in names)


def running_process(folder: RunFolder) -> int:
    """Returns the process whose run holds the folder, or 0."""
    with suppress(OSError, ValueError), (folder.job_dir / _MARK).open() as file:
        process = int(file.read())
        os.kill(process, 0)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return process
    return 0


def new_folder(parent: Path, name: str) -> RunFolder:
    """Returns a folder below ``parent`` that does not exist yet: ``name``, or ``name-2`` and so on."""
    folder = parent / name
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return RunFolder(folder)
