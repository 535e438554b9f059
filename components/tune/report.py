"""The HTML report of a tuning run, in one self-contained file."""

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import optuna

from imgpipe.components.common.html_page import Line, LineChart, Series, line_chart, render
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters, TunedParameter
from imgpipe.components.tune.search_space import completed_trial
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial, best_trial, value_text

# Fewer trials are not enough to estimate importance.
MIN_TRIALS_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class ParameterChart:
    """A parameter against the objective: a chart, or for strings a table of (value, trials, best, mean)."""

    name: str
    chart: LineChart | None
    rows: tuple[tuple[str, int, float, float], ...]


@dataclass(frozen=True)
class Savings:
    """What early stopping saved: steps, their share of all steps, and seconds at the trials' speed."""

    steps: int
    share: float
    seconds: float


def tuning_report(
    trials: Sequence[Trial], request: Hyperparameters, *, engine: str, remarks: Sequence[str] = ()
) -> str:
    """Returns the report: all trials, their learning curves, the effect of each parameter and the savings.

    Args:
        trials: All trials so far.
        request: What was tuned.
        engine: The engine that ran the trials: ``local``, ``vertex`` or ``katib``.
        remarks: Notes for the top of the page, e.g. why the search ended early.
    """
    best = best_trial(trials)
    curves_chart, curves = _curves(trials, best)
    return render(
        "tuning.html",
        "imgpipe.components.tune",
        request=request,
        engine=engine,
        remarks=tuple(remarks),
        best=best,
        trials=sorted(trials, key=lambda trial: (-(trial.objective or -1.0), trial.id)),
        names=[parameter.name for parameter in request.parameters],
        succeeded=sum(trial.state not in (FAILED, RUNNING) for trial in trials),
        stopped=[trial for trial in trials if trial.stop_reason],
        failed=[trial for trial in trials if trial.state == FAILED],
        savings=savings_by_stopping(trials),
        curves_chart=curves_chart,
        curves=curves,
        parameter_charts=[_parameter_chart(parameter, trials) for parameter in request.parameters],
        importance=parameter_importance(trials, request),
        min_trials_for_importance=MIN_TRIALS_FOR_IMPORTANCE,
        value_text=value_text,
        duration=_duration,
    )


def savings_by_stopping(trials: Sequence[Trial]) -> Savings:
    """Returns the steps that the stopped trials did not run, and their time at each trial's speed."""
    stopped = [trial for trial in trials if trial.stop_reason and trial.steps]
    steps = sum(trial.max_steps - trial.steps for trial in stopped)
    planned = sum(trial.max_steps if trial.stop_reason else trial.steps for trial in trials)
    seconds = sum(
        (trial.max_steps - trial.steps) * (_seconds(trial) or 0.0) / trial.steps for trial in stopped
    )
    return Savings(steps, steps / planned if planned else 0.0, seconds)


def parameter_importance(trials: Sequence[Trial], request: Hyperparameters) -> list[tuple[str, float]]:
    """Returns each parameter's share of the objective's variance (fANOVA), the largest first.

    Hutter, Hoos and Leyton-Brown, 2014, as implemented in Optuna. Empty if there are too few trials, all
    objectives are equal, or there is only one parameter.
    """
    known = _measured(trials)
    if len(known) < MIN_TRIALS_FOR_IMPORTANCE or len(request.parameters) < 2:
        return []
    if len({objective for _, objective in known}) < 2:
        return []
    study = optuna.create_study(direction="maximize")
    for trial, objective in known:
        study.add_trial(completed_trial(request, trial.values, objective))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        except (ValueError, RuntimeError):
            return []
    return sorted(found.items(), key=lambda pair: -pair[1])


def _curves(trials: Sequence[Trial], best: Trial | None) -> tuple[LineChart, list[tuple[str, Line]]]:
    """Returns the learning curves, each with its kind; the best trial's is last: it is drawn on top."""
    with_points = [trial for trial in trials if trial.evaluations]
    series = [
        Series(f"trial {trial.id}", tuple((float(e["step"]), float(e[METRIC])) for e in trial.evaluations))
        for trial in with_points
    ]
    chart = line_chart(series, x_name="step", y_name=METRIC, y_maximum=1.0)
    curves = zip((_kind(trial, best) for trial in with_points), chart.lines, strict=True)
    return chart, sorted(curves, key=lambda curve: curve[0] == "best")


def _kind(trial: Trial, best: Trial | None) -> str:
    if best is not None and trial.id == best.id:
        return "best"
    if trial.state == FAILED:
        return "failed"
    if trial.stop_reason:
        return "stopped"
    return "running" if trial.state == RUNNING else "complete"


def _parameter_chart(parameter: TunedParameter, trials: Sequence[Trial]) -> ParameterChart:
    known = _measured(trials)
    if parameter.type == "CATEGORICAL":
        rows = []
        for value in parameter.values:
            objectives = [objective for trial, objective in known if trial.values[parameter.name] == value]
            if objectives:
                rows.append((str(value), len(objectives), max(objectives), statistics.mean(objectives)))
        return ParameterChart(parameter.name, None, tuple(rows))
    series = [
        Series(
            f"trial {trial.id}: {parameter.name}={value_text(trial.values[parameter.name])}: {objective:.4f}",
            ((float(trial.values[parameter.name]), objective),),
        )
        for trial, objective in known
    ]
    chart = line_chart(
        series,
        x_name=parameter.name,
        y_name=METRIC,
        y_maximum=1.0,
        x_is_log=parameter.scale == "UNIT_LOG_SCALE",
    )
    return ParameterChart(parameter.name, chart, ())


def _measured(trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    """Returns the trials that have an objective, each with it."""
    return [(trial, trial.objective) for trial in trials if trial.objective is not None]


def _seconds(trial: Trial) -> float | None:
    if not trial.started or not trial.ended:
        return None
    return (datetime.fromisoformat(trial.ended) - datetime.fromisoformat(trial.started)).total_seconds()


def _duration(item: Trial | float) -> str:
    seconds = _seconds(item) if isinstance(item, Trial) else item
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
