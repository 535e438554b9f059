"""The tuning as one HTML page that stands alone."""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna

from imgpipe.components.common.html_page import LineChart, Series, line_chart, render
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters, TunedParameter
from imgpipe.components.tune.search_space import completed_trial
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial, best_trial, value_text, values_text

# Fewer say nothing about which parameter matters.
FEWEST_FOR_IMPORTANCE = 4
_AXES_WIDTH, _AXES_HEIGHT, _AXES_MARGIN, _AXES_TOP, _AXES_BOTTOM = 1000.0, 300.0, 70.0, 34.0, 262.0
_TICKS = 5


@dataclass(frozen=True)
class Curve:
    """A learning curve in the chart's units; ``kind`` is best, complete, stopped, failed or running."""

    name: str
    kind: str
    path: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class ParameterChart:
    """A parameter against the objective: a chart, or for texts a table of (value, trials, best, mean)."""

    name: str
    chart: LineChart | None
    rows: tuple[tuple[str, int, float, float], ...]


@dataclass(frozen=True)
class Axis:
    """An axis of the parallel coordinates: x, and the (y, text) of its marks."""

    name: str
    x: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class CrossingLine:
    """A trial in the parallel coordinates; ``strength`` is from 0, the worst, to 1, the best."""

    name: str
    path: str
    strength: float
    kind: str


@dataclass(frozen=True)
class Saved:
    """What early stopping saved: steps, their share of all, and seconds at the stopped trials' speed."""

    steps: int
    share: float
    seconds: float


def tuning_report(
    trials: Sequence[Trial], request: Hyperparameters, *, engine: str, remarks: Sequence[str] = ()
) -> str:
    """Writes the page: all trials, their curves, what the parameters did, what stopping saved.

    Args:
        trials: All of the search so far.
        request: What was tuned.
        engine: Which ran it: ``local``, ``vertex`` or ``katib``.
        remarks: Sentences to stand at the top, e.g. why the search ended early.
    """
    best = best_trial(trials)
    axes, lines = _parallel_coordinates(trials, request)
    return render(
        "tuning.html",
        "imgpipe.components.tune",
        request=request,
        engine=engine,
        remarks=tuple(remarks),
        best=best,
        trials=sorted(trials, key=lambda one: (-(one.objective or -1.0), one.id)),
        names=[parameter.name for parameter in request.parameters],
        succeeded=sum(one.state not in (FAILED, RUNNING) for one in trials),
        stopped=[one for one in trials if one.stop_reason],
        failed=[one for one in trials if one.state == FAILED],
        saved=saved_by_stopping(trials),
        curves_chart=_curves_chart(trials),
        curves=_curves(trials, best),
        parameter_charts=[_parameter_chart(parameter, trials) for parameter in request.parameters],
        importance=parameter_importance(trials, request),
        fewest_for_importance=FEWEST_FOR_IMPORTANCE,
        axes=axes,
        lines=lines,
        axes_size=(_AXES_WIDTH, _AXES_HEIGHT, _AXES_TOP, _AXES_BOTTOM),
        value_text=value_text,
        duration=_duration,
    )


def saved_by_stopping(trials: Sequence[Trial]) -> Saved:
    """Returns what the stopped trials would have taken to their ends, at their own speed."""
    stopped = [one for one in trials if one.stop_reason and one.steps]
    steps = sum(one.max_steps - one.steps for one in stopped)
    planned = sum(one.max_steps if one.stop_reason else one.steps for one in trials)
    seconds = sum((one.max_steps - one.steps) * (_seconds(one) or 0.0) / one.steps for one in stopped)
    return Saved(steps, steps / planned if planned else 0.0, seconds)


def parameter_importance(trials: Sequence[Trial], request: Hyperparameters) -> list[tuple[str, float]]:
    """Returns each parameter's share of the objective's variance (fANOVA), the largest first.

    Hutter, Hoos and Leyton-Brown, 2014, as Optuna computes it. Empty with too few trials, with equal
    objectives, or with one parameter only.
    """
    known = [one for one in trials if one.objective is not None]
    if len(known) < FEWEST_FOR_IMPORTANCE or len(request.parameters) < 2:
        return []
    if len({one.objective for one in known}) < 2:
        return []
    study = optuna.create_study(direction="maximize")
    for trial in known:
        study.add_trial(completed_trial(request, trial.values, float(trial.objective or 0.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        except (ValueError, RuntimeError):
            return []
    return sorted(found.items(), key=lambda pair: -pair[1])


def _curves_chart(trials: Sequence[Trial]) -> LineChart:
    series = [
        Series(f"trial {one.id}", tuple((float(e["step"]), float(e[METRIC])) for e in one.evaluations))
        for one in trials
    ]
    return line_chart(series, x_name="step", y_name=METRIC, y_maximum=1.0)


def _curves(trials: Sequence[Trial], best: Trial | None) -> list[Curve]:
    """Returns the curves with what became of their trials, the best one last, over the others."""
    with_points = [one for one in trials if one.evaluations]
    chart = _curves_chart(with_points)
    curves = [
        Curve(line.name, _kind(trial, best), line.path, line.dots)
        for trial, line in zip(with_points, chart.lines, strict=True)
    ]
    return sorted(curves, key=lambda one: one.kind == "best")


def _kind(trial: Trial, best: Trial | None) -> str:
    if best is not None and trial.id == best.id:
        return "best"
    if trial.state == FAILED:
        return "failed"
    if trial.stop_reason:
        return "stopped"
    return "running" if trial.state == RUNNING else "complete"


def _parameter_chart(parameter: TunedParameter, trials: Sequence[Trial]) -> ParameterChart:
    known = [one for one in trials if one.objective is not None]
    if parameter.type == "CATEGORICAL":
        rows = []
        for value in parameter.values:
            found = [one.objective for one in known if one.values[parameter.name] == value]
            objectives = [number for number in found if number is not None]
            if objectives:
                rows.append((str(value), len(objectives), max(objectives), statistics.mean(objectives)))
        return ParameterChart(parameter.name, None, tuple(rows))
    is_log = parameter.scale == "UNIT_LOG_SCALE"
    series = [
        Series(
            f"trial {one.id}: {parameter.name}={value_text(one.values[parameter.name])}",
            ((_on_scale(float(one.values[parameter.name]), is_log), float(one.objective or 0.0)),),
        )
        for one in known
    ]
    name = f"log10 of {parameter.name}" if is_log else parameter.name
    return ParameterChart(parameter.name, line_chart(series, x_name=name, y_name=METRIC, y_maximum=1.0), ())


def _on_scale(value: float, is_log: bool) -> float:
    return math.log10(value) if is_log else value


def _parallel_coordinates(
    trials: Sequence[Trial], request: Hyperparameters
) -> tuple[list[Axis], list[CrossingLine]]:
    known = [one for one in trials if one.objective is not None]
    if not known:
        return [], []
    best = best_trial(trials)
    objectives = [float(one.objective or 0.0) for one in known]
    low, high = min(objectives), max(objectives)
    count = len(request.parameters) + 1
    places = [_AXES_MARGIN + place * (_AXES_WIDTH - 2 * _AXES_MARGIN) / (count - 1) for place in range(count)]
    axes = [
        Axis(parameter.name, x, _axis_ticks(parameter))
        for parameter, x in zip(request.parameters, places, strict=False)
    ]
    marks = sorted({low, (low + high) / 2, high})
    axes.append(Axis(METRIC, places[-1], tuple((_y(_share(m, low, high)), f"{m:.4f}") for m in marks)))
    lines = []
    for trial, objective in sorted(zip(known, objectives, strict=True), key=lambda pair: pair[1]):
        shares = [_position(parameter, trial.values[parameter.name]) for parameter in request.parameters]
        shares.append(_share(objective, low, high))
        path = " ".join(f"{x:.1f},{_y(share):.1f}" for x, share in zip(places, shares, strict=True))
        values = values_text(trial.values)
        lines.append(
            CrossingLine(
                f"trial {trial.id}: {values}: {objective:.4f}",
                path,
                _share(objective, low, high),
                _kind(trial, best),
            )
        )
    return axes, lines


def _position(parameter: TunedParameter, value: Any) -> float:
    """Returns where a value lies on its axis, 0..1, on the scale on which it was searched."""
    if parameter.values:
        values = list(parameter.values)
        return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5
    low, high = parameter.minimum, parameter.maximum
    if parameter.scale == "UNIT_LOG_SCALE":
        return _share(math.log(value), math.log(low), math.log(high))
    if parameter.scale == "UNIT_REVERSE_LOG_SCALE":
        return 1 - _share(math.log(low + high - value), math.log(low), math.log(high))
    return _share(float(value), low, high)


def _axis_ticks(parameter: TunedParameter) -> tuple[tuple[float, str], ...]:
    if parameter.values:
        step = math.ceil(len(parameter.values) / (2 * _TICKS))
        return tuple(
            (_y(_position(parameter, value)), value_text(value)) for value in parameter.values[::step]
        )
    low, high = parameter.minimum, parameter.maximum
    marks = [low + (high - low) * place / (_TICKS - 1) for place in range(_TICKS)]
    if "LOG" in parameter.scale:
        marks = [low * (high / low) ** (place / (_TICKS - 1)) for place in range(_TICKS)]
    if parameter.scale == "UNIT_REVERSE_LOG_SCALE":
        marks = [low + high - mark for mark in marks]
    inside = (min(max(mark, low), high) for mark in marks)
    return tuple((_y(_position(parameter, mark)), f"{mark:.3g}") for mark in inside)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _y(share: float) -> float:
    return round(_AXES_BOTTOM - share * (_AXES_BOTTOM - _AXES_TOP), 1)


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
