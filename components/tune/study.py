"""The persistent state of a search: trials, their values and their evaluations.

An Optuna study in a journal file, used by one process at a time. Everything is written before it takes
effect, so a search that is killed at any moment resumes from the file.
"""

import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages.journal import JournalFileBackend

from imgpipe.components.common.errors import (
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    must_be_writable,
)
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.tune.search_space import (
    completed_trial,
    distributions_of,
    grid_points,
    grid_size,
    values_of,
)
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

_NAME = "tuning"
_JOURNAL, _LOCK = "journal.log", "lock"
_STATE = optuna.trial.TrialState
# User attributes of a trial.
_BEGUN, _STARTS, _STOP, _RESULT, _EVALUATION = "begun", "starts", "stop_reason", "result", "evaluation:"
# User attributes of the study.
_IDENTITY, _PRIOR = "identity", "prior"
# The loss became NaN or infinite: a bad region of the search space, which the sampler should learn.
_EXIT_DIVERGED = 76

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Journal(JournalFileBackend):
    """A journal that raises an error, rather than start again, if its file disappears.

    It needs no lock of its own: the study's folder has one.
    """

    def __init__(self, path: Path) -> None:
        _repair(path)
        super().__init__(str(path))
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            if not os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                raise FileNotFoundError(2, "it was replaced by another file")
            os.write(self._descriptor, text)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unusable(self._path, error) from None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except OSError as error:
            raise _unusable(self._path, error) from None

    def close(self) -> None:
        os.close(self._descriptor)


class Study:
    """The trials of one search; made by ``open_study``.

    Attributes:
        files: The open files of the study, which a forked process must close.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.JournalStorage,
        request: Hyperparameters,
        seed: int,
        files: Sequence[IO[str] | _Journal],
    ) -> None:
        self._study, self._storage, self._request, self._seed = study, storage, request, seed
        self.files = files

    def trials(self) -> list[Trial]:
        """Returns all trials in the order of their IDs, without those of an earlier search."""
        return [_trial_of(frozen) for frozen in _own_trials(self._study)]

    def starts_of(self, trial_id: int) -> int:
        """Returns how many times a trial's process was started."""
        return int(self._frozen(trial_id).user_attrs.get(_STARTS, 0))

    @property
    def is_exhausted(self) -> bool:
        """Whether every point of a grid has a trial."""
        return self._request.algorithm == "GRID_SEARCH" and len(_own_trials(self._study)) >= grid_size(
            self._request
        )

    def ask(self, max_steps: int) -> Trial:
        """Chooses the values of the next trial and returns the trial.

        The values depend on the seed, the trial's number and the results of earlier trials.

        Args:
            max_steps: The training's ``max_steps``, unless it is tuned.
        """
        number = len(_own_trials(self._study)) + 1
        self._study.sampler = self._sampler(number)
        distributions = distributions_of(self._request)
        asked = self._study.ask(distributions)
        values = values_of(self._request, asked.params)
        asked.set_user_attr(
            _BEGUN,
            {
                "id": number,
                "values": values,
                "max_steps": int(values.get("max_steps", max_steps)),
                "at": _now(),
            },
        )
        return self._by_id(number)

    def started(self, trial_id: int) -> None:
        """Records that a trial's process is about to start."""
        self._live(trial_id).set_user_attr(_STARTS, self.starts_of(trial_id) + 1)

    def report(self, trial_id: int, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Records the evaluations that are new."""
        known = {evaluation["step"] for evaluation in self._by_id(trial_id).evaluations}
        live = self._live(trial_id)
        for evaluation in evaluations:
            if evaluation["step"] not in known:
                # The value first: an evaluation whose attribute is set is not reported again.
                live.report(float(evaluation[METRIC]), int(evaluation["step"]))
                live.set_user_attr(f"{_EVALUATION}{evaluation['step']}", dict(evaluation))

    def note_stop(self, trial_id: int, reason: str) -> None:
        """Records the reason to stop a trial, before the trial is stopped."""
        self._live(trial_id).set_user_attr(_STOP, reason)

    def succeed(self, trial_id: int, final: Mapping[str, Any], model: str) -> Trial:
        """Finishes a trial that has a model.

        Args:
            trial_id: The trial's ID.
            final: The result of the full evaluation.
            model: The location of its model.
        """
        return self._finish(trial_id, {"state": SUCCEEDED, "final": dict(final), "model": model})

    def fail(self, trial_id: int, problem: str, exit_code: int = 0, last_lines: Sequence[str] = ()) -> Trial:
        """Finishes a trial that failed."""
        result = {"problem": problem, "exit_code": exit_code, "last_lines": list(last_lines)}
        return self._finish(trial_id, {"state": FAILED, **result})

    def add_prior(self, trials: Sequence[Trial], source: str) -> int:
        """Adds the trials of an earlier search, once; returns how many are in this search space."""
        if source in self._study.user_attrs.get(_PRIOR, []):
            return sum(_PRIOR in frozen.user_attrs for frozen in self._study.get_trials(deepcopy=False))
        added = 0
        for trial in trials:
            if trial.objective is None:
                continue
            try:
                frozen = completed_trial(
                    self._request, trial.values, trial.objective, {_PRIOR: source, "id": trial.id}
                )
            except (KeyError, ValueError):
                continue
            self._study.add_trial(frozen)
            added += 1
        self._study.set_user_attr(_PRIOR, [*self._study.user_attrs.get(_PRIOR, []), source])
        return added

    def finish_stale(self) -> None:
        """Finishes what a killed search left: trials without values, and trials with a recorded result."""
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state == _STATE.RUNNING and (
                _BEGUN not in frozen.user_attrs or _RESULT in frozen.user_attrs
            ):
                self._tell(frozen)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        # One seed per trial: a resumed search draws the same values as an uninterrupted one.
        seed = (self._seed * 1_000_003 + number) % 2**32
        if self._request.algorithm == "GRID_SEARCH":
            point = next(itertools.islice(grid_points(self._request), number - 1, None))
            with warnings.catch_warnings():
                # It has been called experimental since 2020.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler(seed))
        if self._request.algorithm == "RANDOM_SEARCH":
            return optuna.samplers.RandomSampler(seed)
        # Before it learns, a third of the trials are drawn at random, between 3 and 10.
        at_random = min(10, max(3, self._request.max_trials // 3))
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=at_random)

    def _finish(self, trial_id: int, result: Mapping[str, Any]) -> Trial:
        self._live(trial_id).set_user_attr(_RESULT, {**result, "at": _now()})
        self._tell(self._frozen(trial_id))
        return self._by_id(trial_id)

    def _tell(self, frozen: optuna.trial.FrozenTrial) -> None:
        """Gives Optuna the recorded result of a trial."""
        result = frozen.user_attrs.get(_RESULT, {"state": FAILED})
        # Optuna ignores failed trials, and learns from pruned ones.
        if result["state"] == FAILED and result.get("exit_code") != _EXIT_DIVERGED:
            self._study.tell(frozen.number, state=_STATE.FAIL)
        elif result["state"] == FAILED or frozen.user_attrs.get(_STOP):
            self._study.tell(frozen.number, state=_STATE.PRUNED)
        else:
            self._study.tell(frozen.number, float(result["final"][METRIC]))

    def _frozen(self, trial_id: int) -> optuna.trial.FrozenTrial:
        return _own_trials(self._study)[trial_id - 1]

    def _by_id(self, trial_id: int) -> Trial:
        return _trial_of(self._frozen(trial_id))

    def _live(self, trial_id: int) -> optuna.Trial:
        study_id = self._storage.get_study_id_from_name(_NAME)
        number = self._frozen(trial_id).number
        return optuna.Trial(
            self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        )


@contextmanager
def open_study(
    folder: Path, request: Hyperparameters, *, identity: Mapping[str, Any], seed: int
) -> Iterator[Study]:
    """Opens or creates the study in a folder and locks it for this process.

    Args:
        folder: Created if it does not exist.
        request: What is tuned.
        identity: Settings that must not change when a search is resumed: JSON values.
        seed: The seed for the choice of values.

    Raises:
        OutputError: if another process has the lock, the folder cannot be written or, inside the block, the
            study's file disappears.
        InvalidArgumentError: if the study belongs to another search.
    """
    with must_be_writable(f"the study to {str(folder)!r}", "use another job_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise OutputError(
                f"another tuner (process {lock.read().strip() or 'unknown'}) is using the study "
                f"{str(folder)!r}",
                remedy="wait for it to end, or use another job_dir",
            ) from None
        # The kernel releases the lock when the process ends for any reason. A forked child must close its
        # copy of the file, or it keeps the lock.
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        journal = _Journal(folder / _JOURNAL)
        try:
            storage = optuna.storages.JournalStorage(journal)
            study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
            )
            _check_identity(study, identity, folder)
            opened = Study(study, storage, request, seed, (lock, journal))
            opened.finish_stale()
            yield opened
        finally:
            journal.close()


def read_trials(folder: Path) -> list[Trial]:
    """Returns the trials of a study without locking it: another process may change them.

    Raises:
        MissingInputError: if there is no study.
    """
    path = folder / _JOURNAL
    if not path.is_file():
        raise MissingInputError(
            f"there is no study in {str(folder)!r}", remedy="use the job_dir of an earlier tuning run"
        )
    study = optuna.load_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))), study_name=_NAME
    )
    return [_trial_of(frozen) for frozen in _own_trials(study)]


def _own_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Returns the study's trials without those of an earlier search."""
    return [frozen for frozen in study.get_trials(deepcopy=False) if _BEGUN in frozen.user_attrs]


def _check_identity(study: optuna.Study, identity: Mapping[str, Any], folder: Path) -> None:
    ours = json.loads(json.dumps(identity))
    theirs = study.user_attrs.get(_IDENTITY)
    if theirs is None:
        study.set_user_attr(_IDENTITY, ours)
        return
    differences = [
        f"{name} was {theirs.get(name)!r}, is {ours.get(name)!r}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise InvalidArgumentError(
            f"the study belongs to another search: {'; '.join(differences)}",
            where=str(folder),
            remedy="use the earlier values, or another job_dir (with resume_previous_job_id, the search "
            "learns from the trials of this one)",
        )


def _trial_of(frozen: optuna.trial.FrozenTrial) -> Trial:
    attributes = frozen.user_attrs
    begun, result = attributes[_BEGUN], attributes.get(_RESULT, {})
    evaluations = [value for name, value in attributes.items() if name.startswith(_EVALUATION)]
    return Trial(
        id=begun["id"],
        values=begun["values"],
        state=result.get("state", RUNNING),
        max_steps=begun["max_steps"],
        evaluations=tuple(sorted(evaluations, key=lambda evaluation: int(evaluation["step"]))),
        stop_reason=attributes.get(_STOP, ""),
        final=result.get("final", {}),
        model=result.get("model", ""),
        problem=result.get("problem", ""),
        exit_code=result.get("exit_code", 0),
        last_lines=tuple(result.get("last_lines", ())),
        started=begun["at"],
        ended=result.get("at", ""),
    )


def _repair(path: Path) -> None:
    """Truncates an incomplete last line, left by a writer that was killed."""
    if path.exists():
        complete = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, complete)


def _unusable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the study's file {str(path)!r} can no longer be used: {error.strerror or error}",
        remedy="restore the folder and start the tuning again, and it resumes; without the folder, the "
        "trials' checkpoints and models are still in job_dir",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
