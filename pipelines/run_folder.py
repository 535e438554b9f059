"""The files of a local run, and the lock on its folder."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.errors import OutputError, os_error_remedy
from imgpipe.components.common.published_model import MODEL_FOLDER, TRIAL_FILES, is_publication_file
from imgpipe.components.common.reference_predictions import PREDICTIONS_NAME
from imgpipe.components.storage import check_empty, check_writable
from imgpipe.components.train.job_dir import FILES_OF_TRAINING
from imgpipe.components.tune.job_dir import FILES_OF_TUNING, REPORT_FILE, TRIALS_FILE

# Exists in a job_dir from the start of the run until its model is published, so that a failed or interrupted
# run can be started again with the same folder.
_LOCK_FILE = ".imgpipe-run"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run in its job_dir."""

    job_dir: Path

    @property
    def model(self) -> Path:
        """The checked SavedModel."""
        return self.job_dir / "model"

    @property
    def report(self) -> Path:
        """The report of the evaluation."""
        return self.job_dir / "report.html"

    @property
    def predictions(self) -> Path:
        """The prediction of every image of the evaluation, as CSV."""
        return self.job_dir / PREDICTIONS_NAME

    @property
    def data_report(self) -> Path:
        """The report of the validation."""
        return self.job_dir / "data_report.html"

    @property
    def trials(self) -> Path:
        """All trials of a tuning run, as JSON."""
        return self.job_dir / TRIALS_FILE

    @property
    def tuning_report(self) -> Path:
        """All trials of a tuning run, as a page."""
        return self.job_dir / REPORT_FILE

    @property
    def log(self) -> Path:
        """Everything that the steps printed."""
        return self.job_dir / "run.log"

    @property
    def settings(self) -> Path:
        """What the run was started with."""
        return self.job_dir / "run.json"

    @property
    def artifacts(self) -> Path:
        """KFP's artifacts of every step."""
        return self.job_dir / "artifacts"

    @property
    def sample_data(self) -> Path:
        """The images of the sample, for a run without data."""
        return self.job_dir / "data"


@contextmanager
def claimed(folder: RunFolder, *, continues: bool = False) -> Iterator[None]:
    """Locks a job_dir for one run.

    The folder must be missing, empty, or left by a run that ended without a model; the files of that run, and
    no others, are removed. With ``continues``, it may also be that of a finished run, whose model stays until
    the run publishes another one.

    Raises:
        OutputError: if it has other files, is not writable, or is locked by another run.
    """
    lock_file = folder.job_dir / _LOCK_FILE
    with _usable(folder):
        check_claimable(folder, continues=continues)
        check_writable(folder.job_dir)
    with _locked(lock_file):
        _clear(folder)
        yield
        # During a tuning run, the folder has the trials' models before it has the best model.
        if folder.model.exists() and not _holds_only_trials(folder.model):
            lock_file.unlink()


def check_claimable(folder: RunFolder, *, continues: bool) -> None:
    """Checks that a job_dir is missing, empty, or left by an unfinished run; creates nothing.

    Raises:
        OutputError: if it has other files.
    """
    with _usable(folder):
        if not is_unfinished(folder) and not continues:
            check_empty(folder.job_dir)


@contextmanager
def _usable(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot use {str(folder.job_dir)!r}: {error.strerror}",
            remedy=os_error_remedy(error, "use another job_dir"),
        ) from None


@contextmanager
def _locked(lock_file: Path) -> Iterator[None]:
    # Opened without truncating: until the lock is acquired, the file names the process that holds it.
    with lock_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another run is writing to {str(lock_file.parent)!r}",
                remedy="wait for it, or use another job_dir",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        # The system releases the lock when the process ends, even if it crashes.
        yield


def _clear(folder: RunFolder) -> None:
    ours = (
        folder.artifacts,
        folder.sample_data,
        folder.log,
        folder.report,
        folder.predictions,
        folder.data_report,
    )
    # The training resumes from its files if arguments and data are the same, which the step checks.
    known = {path.name for path in ours} | FILES_OF_TRAINING | FILES_OF_TUNING | {_LOCK_FILE}
    if folder.settings.exists() or _holds_only_trials(folder.model):
        # The model of a run whose training continues; publishing replaces only a model of imgpipe.
        known |= {folder.settings.name, MODEL_FOLDER}
    found = {path.name for path in folder.job_dir.iterdir()} - known
    others = {name for name in found if not is_publication_file(name)}
    if others:
        raise OutputError(
            f"{str(folder.job_dir)!r} has files that are not from an unfinished run: "
            f"{', '.join(sorted(others)[:5])}",
            remedy="use a new folder; nothing is deleted or overwritten",
        )
    for path in ours:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _holds_only_trials(model: Path) -> bool:
    """Returns whether the folder has only the trials' models of an unfinished tuning run."""
    names = [path.name for path in model.iterdir()] if model.is_dir() else []
    return bool(names) and all(TRIAL_FILES.fullmatch(name) for name in names)


def is_unfinished(folder: RunFolder) -> bool:
    """Returns whether the folder's latest run is running, failed or was interrupted."""
    return (folder.job_dir / _LOCK_FILE).exists()


def latest_process(folder: RunFolder) -> int:
    """Returns the id of the process that last locked the folder, or 0 if its model is published."""
    try:
        return int((folder.job_dir / _LOCK_FILE).read_text())
    except (OSError, ValueError):
        return 0


def running_process(folder: RunFolder) -> int:
    """Returns the id of the process that has locked the folder, or 0."""
    with suppress(OSError, ValueError), (folder.job_dir / _LOCK_FILE).open() as file:
        process = int(file.read())
        os.kill(process, 0)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return process
    return 0


def new_folder(parent: Path, name: str) -> RunFolder:
    """Returns a folder in ``parent`` that does not exist: ``name``, or ``name-2`` and so on."""
    folder = parent / name
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return RunFolder(folder)
