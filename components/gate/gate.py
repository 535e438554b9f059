"""Decides from an evaluation whether a model is deployed, and gives the reasons."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import log_result
from imgpipe.components.common.plural import plural
from imgpipe.components.common.reference_predictions import read_evaluation
from imgpipe.components.common.shared_arguments import NO_TARGET
from imgpipe.components.gate.arguments import GateArguments

# Rounding errors of ratios: 0.70 - 0.72 is -0.0200...018.
_ROUNDING = 1e-9
_MAX_NAMED = 5


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: The argument that sets the required value.
        passed: Whether it is met.
        reason: The measured and the required value.
    """

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The decision of the gate.

    Attributes:
        passed: Whether every check passed.
        deploy: Whether the model is deployed: it passed, and there is a target.
        summary: The decision in one line.
        checks: All checks.
    """

    passed: bool
    deploy: bool
    summary: str
    checks: tuple[Check, ...]

    def to_markdown(self) -> str:
        """Returns the decision as a table."""
        lines = [f"**{self.summary}**", "", "| | check | |", "|---|---|---|"]
        for check in self.checks:
            lines.append(f"| {'passed' if check.passed else 'FAILED'} | `{check.name}` | {check.reason} |")
        return "\n".join(lines) + "\n"


def decide(evaluation_folder: Path, arguments: GateArguments) -> Decision:
    """Compares an evaluation with the conditions.

    Args:
        evaluation_folder: The output of the evaluate step.
        arguments: The conditions and the deployment target.

    Raises:
        MissingInputError: if there is no evaluation.
    """
    evaluation = read_evaluation(evaluation_folder)
    try:
        checks = tuple(_checks(evaluation, arguments))
    except (KeyError, TypeError) as error:
        raise MissingInputError(
            f"the evaluation in {str(evaluation_folder)!r} is incomplete: {error}",
            remedy="evaluate the model again",
        ) from None
    failed = [check for check in checks if not check.passed]
    deploy = not failed and arguments.deploy_target != NO_TARGET
    if failed:
        summary = "blocked, not deployed: " + "; ".join(check.reason for check in failed)
    elif deploy:
        summary = f"passed {plural(len(checks), 'check')}: deploying to {arguments.deploy_target}"
    else:
        summary = f"passed {plural(len(checks), 'check')}; not deployed, because deploy_target is none"
    log_result("gate", summary, deploy=deploy, passed=not failed, checks=[asdict(check) for check in checks])
    return Decision(not failed, deploy, summary, checks)


def _checks(evaluation: dict[str, Any], arguments: GateArguments) -> Iterator[Check]:
    accuracy = evaluation["top_1_accuracy"]
    yield Check(
        "min_accuracy",
        accuracy >= arguments.min_accuracy - _ROUNDING,
        f"top-1 accuracy {accuracy:.4f}, at least {arguments.min_accuracy:g} required",
    )
    yield _recall_check(evaluation, arguments.min_class_recall)
    if arguments.min_slice_accuracy:
        yield _slice_check(evaluation, arguments.min_slice_accuracy)
    comparison = evaluation["comparison"]
    if comparison is not None:
        yield Check(
            "tolerance",
            comparison["difference"] >= -arguments.tolerance - _ROUNDING,
            f"{comparison['difference']:+.4f} against the champion's "
            f"{comparison['champion_top_1_accuracy']:.4f} (95%: {comparison['lower']:+.4f} to "
            f"{comparison['upper']:+.4f}), at least {-arguments.tolerance:g} required",
        )


def _recall_check(evaluation: dict[str, Any], minimum: float) -> Check:
    recalls = [
        (metrics["recall"], label, "")
        for label, metrics in zip(evaluation["labels"], evaluation["per_class"], strict=True)
        if metrics["recall"] is not None
    ]
    return _minimum_check("min_class_recall", "recall", recalls, minimum)


def _slice_check(evaluation: dict[str, Any], minimum: float) -> Check:
    accuracies = [
        (entry["top_1_accuracy"], f"{entry['name']} = {entry['value']}", plural(entry["examples"], "image"))
        for entry in evaluation["slices"]
        if entry.get("given")
    ]
    if not accuracies:
        return Check(
            "min_slice_accuracy", False, f"no slice of slices_csv was measured, at least {minimum:g} required"
        )
    return _minimum_check("min_slice_accuracy", "slice accuracy", accuracies, minimum)


def _minimum_check(name: str, metric: str, values: list[tuple[float, str, str]], minimum: float) -> Check:
    below = sorted(value for value in values if value[0] < minimum - _ROUNDING)
    shown = below[:_MAX_NAMED] or [min(values)]
    named = ", ".join(f"{label} {value:.4f}{note and f' ({note})'}" for value, label, note in shown)
    more = f" and {len(below) - _MAX_NAMED} more" if len(below) > _MAX_NAMED else ""
    what = metric if below else f"lowest {metric}"
    return Check(name, not below, f"{what}: {named}{more}, at least {minimum:g} required")
