"""Decides from an evaluation whether a model is deployed, and says why."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import log_result
from imgpipe.components.common.reference_predictions import read_evaluation
from imgpipe.components.common.shared_arguments import NO_TARGET
from imgpipe.components.gate.arguments import GateArguments

# Accuracies are ratios of whole numbers: 0.70 less 0.72 is -0.0200...018.
_ROUNDING = 1e-9
_CLASSES_NAMED = 5


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: The argument that sets its bound.
        passed: Whether it holds.
        reason: What was measured and what was asked for, in one sentence.
    """

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """What the gate came to.

    Attributes:
        passed: Whether every check passed.
        deploy: Whether the model is to be deployed: it passed, and there is a target.
        summary: In one line.
        checks: All of them.
    """

    passed: bool
    deploy: bool
    summary: str
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the decision as JSON values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Returns the decision as a person reads it."""
        lines = [f"**{self.summary}**", "", "| | check | |", "|---|---|---|"]
        for check in self.checks:
            lines.append(f"| {'passed' if check.passed else 'FAILED'} | `{check.name}` | {check.reason} |")
        return "\n".join(lines) + "\n"


def decide(evaluation_folder: Path, arguments: GateArguments) -> Decision:
    """Compares an evaluation with the bounds.

    Args:
        evaluation_folder: What the evaluate step wrote.
        arguments: The bounds, and where a model that passes goes.

    Raises:
        MissingInputError: if there is no evaluation.
    """
    evaluation = read_evaluation(evaluation_folder)
    try:
        checks = tuple(_checks(evaluation, arguments))
    except (KeyError, TypeError) as error:
        raise MissingInputError(
            f"the evaluation in {str(evaluation_folder)!r} lacks a part: {error}",
            remedy="evaluate the model again",
        ) from None
    failed = [check for check in checks if not check.passed]
    deploy = not failed and arguments.deploy_target != NO_TARGET
    if failed:
        summary = "blocked, not deployed: " + "; ".join(check.reason for check in failed)
    elif deploy:
        summary = f"passed {len(checks)} checks: goes to {arguments.deploy_target}"
    else:
        summary = f"passed {len(checks)} checks; deploy_target=none, so it is not deployed"
    log_result("gate", summary, deploy=deploy, passed=not failed, checks=[asdict(check) for check in checks])
    return Decision(not failed, deploy, summary, checks)


def _checks(evaluation: dict[str, Any], arguments: GateArguments) -> Iterator[Check]:
    accuracy = evaluation["top_1_accuracy"]
    yield Check(
        "min_accuracy",
        accuracy >= arguments.min_accuracy - _ROUNDING,
        f"top-1 accuracy {accuracy:.4f}, at least {arguments.min_accuracy:g} is asked for",
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
            f"{comparison['champion_top_1_accuracy']:.4f} (95 %: {comparison['lower']:+.4f} to "
            f"{comparison['upper']:+.4f}), at least {-arguments.tolerance:g} is asked for",
        )


def _recall_check(evaluation: dict[str, Any], bound: float) -> Check:
    recalls = [
        (one["recall"], label)
        for label, one in zip(evaluation["labels"], evaluation["per_class"], strict=True)
        if one["recall"] is not None
    ]
    below = sorted(pair for pair in recalls if pair[0] < bound - _ROUNDING)
    if not below:
        recall, label = min(recalls)
        return Check(
            "min_class_recall", True, f"lowest recall {recall:.4f} ({label}), at least {bound:g} is asked for"
        )
    named = ", ".join(f"{label} {recall:.4f}" for recall, label in below[:_CLASSES_NAMED])
    more = f" and {len(below) - _CLASSES_NAMED} more classes" if len(below) > _CLASSES_NAMED else ""
    return Check("min_class_recall", False, f"recall of {named}{more}, at least {bound:g} is asked for")


def _slice_check(evaluation: dict[str, Any], bound: float) -> Check:
    found = [
        (one["top_1_accuracy"], f"{one['name']} = {one['value']}", one["examples"])
        for one in evaluation["slices"]
        if one.get("given")
    ]
    if not found:
        return Check(
            "min_slice_accuracy",
            False,
            f"no slice of slices_csv was measured, at least {bound:g} is asked for",
        )
    below = sorted(one for one in found if one[0] < bound - _ROUNDING)
    shown = below[:_CLASSES_NAMED] or [min(found)]
    named = ", ".join(f"{name} {accuracy:.4f} ({examples:,} images)" for accuracy, name, examples in shown)
    more = f" and {len(below) - _CLASSES_NAMED} more slices" if len(below) > _CLASSES_NAMED else ""
    what = "accuracy on" if below else "lowest accuracy on a slice:"
    return Check("min_slice_accuracy", not below, f"{what} {named}{more}, at least {bound:g} is asked for")
