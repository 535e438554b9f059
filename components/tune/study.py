"""The search's memory: trials, their values and what they reported, in a file that outlives the process.

An Optuna study in a journal file, held by one process at a time. Everything is written before it has an
effect, so that a search which is killed at any moment goes on from what the file says.
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
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.tune.search_space import distributions_of, grid_points, grid_size, point_of, values_of
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

_NAME = "tuning"
_JOURNAL, _LOCK = "journal.log", "lock"
_STATE = optuna.trial.TrialState
# Attributes of a trial in the study.
_BEGUN, _STARTS, _STOP, _RESULT, _EVALUATION = "begun", "starts", "stop_reason", "result", "evaluation:"
# Attributes of the study.
_IDENTITY, _PRIOR = "identity", "prior"
# A training whose loss is no number: what lies there is bad, and the search should know.
_EXIT_DIVERGED = 76

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _Journal(JournalFileBackend):
    """A journal that is not begun anew when it vanishes, and needs no lock of its own: the folder has one."""

    def __init__(self, path: Path) -> None:
        _repair(path)
        super().__init__(str(path))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            there, ours = os.stat(self._file_path), os.fstat(self._descriptor)
            if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                raise FileNotFoundError(2, "another file stands in its place")
            os.write(self._descriptor, text)
            os.fsync(self._descriptor)
        except OSError as error:
            raise _vanished(self._file_path, error) from None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except OSError as error:
            raise _vanished(self._file_path, error) from None

    def close(self) -> None:
        os.close(self._descriptor)


class Study:
    """The trials of one search; made by ``open_study``."""

    def __init__(self, study: optuna.Study, request: Hyperparameters, seed: int) -> None:
        self._study, self._request, self._seed = study, request, seed

    def trials(self) -> list[Trial]:
        """Returns all trials so far in the order of their ids, without those of an earlier search."""
        return [_trial_of(one) for one in self._own()]

    def starts_of(self, trial_id: int) -> int:
        """Returns how often a trial's process was started."""
        return int(self._frozen(trial_id).user_attrs.get(_STARTS, 0))

    @property
    def is_exhausted(self) -> bool:
        """Whether every point of a grid has its trial."""
        return self._request.algorithm == "GRID_SEARCH" and len(self._own()) >= grid_size(self._request)

    def ask(self, max_steps: int) -> Trial:
        """Chooses the next trial's values and returns it.

        The choice depends on the seed, the trial's number and what the trials before have reported.

        Args:
            max_steps: Of the training, if it is not tuned itself.
        """
        number = len(self._own()) + 1
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
        """Notes that a trial's process is about to be started."""
        self._live(trial_id).set_user_attr(_STARTS, self.starts_of(trial_id) + 1)

    def report(self, trial_id: int, evaluations: Sequence[Mapping[str, Any]]) -> bool:
        """Notes the evaluations that are not known already; returns whether there was one."""
        known = {one["step"] for one in self._by_id(trial_id).evaluations}
        live = self._live(trial_id)
        new = [one for one in evaluations if one["step"] not in known]
        for evaluation in new:
            # The value goes first: what is known by its attribute is not reported again.
            live.report(float(evaluation[METRIC]), int(evaluation["step"]))
            live.set_user_attr(f"{_EVALUATION}{evaluation['step']}", dict(evaluation))
        return bool(new)

    def note_stop(self, trial_id: int, reason: str) -> None:
        """Notes that a trial is to be stopped, and why, before it is told."""
        self._live(trial_id).set_user_attr(_STOP, reason)

    def succeed(self, trial_id: int, final: Mapping[str, Any], model: str) -> Trial:
        """Closes a trial that has a model.

        Args:
            trial_id: Of the trial.
            final: What the full evaluation found.
            model: Where its model lies.
        """
        self._close(trial_id, {"state": SUCCEEDED, "final": dict(final), "model": model})
        if self._by_id(trial_id).stop_reason:
            self._study.tell(self._live(trial_id), state=_STATE.PRUNED)
        else:
            self._study.tell(self._live(trial_id), float(final[METRIC]))
        return self._by_id(trial_id)

    def fail(self, trial_id: int, problem: str, exit_code: int = 0, last_lines: Sequence[str] = ()) -> Trial:
        """Closes a trial that came to nothing."""
        result = {"problem": problem, "exit_code": exit_code, "last_lines": list(last_lines)}
        self._close(trial_id, {"state": FAILED, **result})
        # Optuna learns nothing from failures; from a training that diverged there is something to learn.
        state = _STATE.PRUNED if exit_code == _EXIT_DIVERGED else _STATE.FAIL
        self._study.tell(self._live(trial_id), state=state)
        return self._by_id(trial_id)

    def add_prior(self, trials: Sequence[Trial], source: str) -> int:
        """Lets the search know trials of an earlier one, once; returns how many fit into the space."""
        if source in self._study.user_attrs.get(_PRIOR, []):
            return sum(_PRIOR in one.user_attrs for one in self._study.get_trials(deepcopy=False))
        fitting = 0
        for trial in trials:
            try:
                point = point_of(self._request, trial.values)
            except (KeyError, ValueError):
                continue
            if trial.objective is None:
                continue
            fitting += 1
            self._study.add_trial(
                optuna.trial.create_trial(
                    value=trial.objective,
                    params=point,
                    distributions=distributions_of(self._request),
                    user_attrs={_PRIOR: source, "id": trial.id},
                )
            )
        self._study.set_user_attr(_PRIOR, [*self._study.user_attrs.get(_PRIOR, []), source])
        return fitting

    def close_stale(self) -> None:
        """Closes what a killed search left half-made: trials without values, trials whose result is known."""
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state != _STATE.RUNNING:
                continue
            if _BEGUN not in frozen.user_attrs:
                self._study.tell(frozen.number, state=_STATE.FAIL)
            elif _RESULT in frozen.user_attrs:
                trial = _trial_of(frozen)
                if trial.state == FAILED:
                    self._study.tell(frozen.number, state=_STATE.FAIL)
                elif trial.stop_reason:
                    self._study.tell(frozen.number, state=_STATE.PRUNED)
                else:
                    self._study.tell(frozen.number, trial.objective)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        # A seed for each trial: a search that goes on after an interruption draws what it would have drawn.
        seed = (self._seed * 1_000_003 + number) % 2**32
        if self._request.algorithm == "GRID_SEARCH":
            point = next(itertools.islice(grid_points(self._request), number - 1, None))
            with warnings.catch_warnings():
                # It is called experimental since 2020.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler(seed))
        if self._request.algorithm == "RANDOM_SEARCH":
            return optuna.samplers.RandomSampler(seed)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=startup_trials(self._request.max_trials)
        )

    def _close(self, trial_id: int, result: Mapping[str, Any]) -> None:
        self._live(trial_id).set_user_attr(_RESULT, {**result, "at": _now()})

    def _own(self) -> list[optuna.trial.FrozenTrial]:
        return [one for one in self._study.get_trials(deepcopy=False) if _BEGUN in one.user_attrs]

    def _frozen(self, trial_id: int) -> optuna.trial.FrozenTrial:
        return self._own()[trial_id - 1]

    def _by_id(self, trial_id: int) -> Trial:
        return _trial_of(self._frozen(trial_id))

    def _live(self, trial_id: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(trial_id)._trial_id)


def startup_trials(max_trials: int) -> int:
    """Returns how many trials Bayesian search draws at random before it learns: a third, from 3 to 10."""
    return min(10, max(3, max_trials // 3))


@contextmanager
def open_study(
    folder: Path, request: Hyperparameters, *, identity: Mapping[str, Any], seed: int
) -> Iterator[Study]:
    """Opens the study in a folder, or begins one there, and holds it for this process.

    Args:
        folder: Made if it is missing.
        request: What is tuned.
        identity: What a search that goes on must have in common with the one that began: JSON values.
        seed: Of the choice of values.

    Raises:
        OutputError: if another process holds it, it cannot be written, or, inside the block, it vanishes.
        InvalidArgumentError: if the study is of another search.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise OutputError(
            f"cannot write the study to {str(folder)!r}: {error.strerror}", remedy="name another job_dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise OutputError(
                f"another tuner (process {lock.read().strip() or 'unknown'}) works on the study "
                f"{str(folder)!r}",
                remedy="wait for it, or name another job_dir",
            ) from None
        # The system lets go of the lock when the process ends, however it ends. A child that is forked must
        # close its copy: the lock would live on in it.
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        journal = _Journal(folder / _JOURNAL)
        try:
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(journal),
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
            )
            _check_identity(study, identity, folder)
            opened = Study(study, request, seed)
            opened.close_stale()
            yield opened
        finally:
            journal.close()


def read_trials(folder: Path) -> list[Trial]:
    """Returns the trials of a study without holding it: they may change meanwhile.

    Raises:
        MissingInputError: if there is no study.
    """
    path = folder / _JOURNAL
    if not path.is_file():
        raise MissingInputError(
            f"there is no study in {str(folder)!r}", remedy="give the job_dir of an earlier tuning"
        )
    study = optuna.load_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))), study_name=_NAME
    )
    return [_trial_of(one) for one in study.get_trials(deepcopy=False) if _BEGUN in one.user_attrs]


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
            f"the study is of another search: {'; '.join(differences)}",
            where=str(folder),
            remedy="give what was given then, or name another job_dir (with resume_previous_job_id it knows "
            "the trials of this one)",
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
        evaluations=tuple(sorted(evaluations, key=lambda one: int(one["step"]))),
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
    """Cuts off a last line that was not written to its end: its writer was killed."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


def _vanished(path: str, error: OSError) -> OutputError:
    return OutputError(
        f"the study's file {path!r} cannot be used any more: {error.strerror or error}",
        remedy="bring the folder back and start the tuning again: it goes on from what was written; without "
        "it the trials' checkpoints and models are still in job_dir",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
