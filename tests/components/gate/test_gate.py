import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.gate.component import gate
from imgpipe.components.gate.gate import decide


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    def write(accuracy=0.9, recalls=(0.8, 0.95, None), difference=None):
        comparison = None
        if difference is not None:
            comparison = {
                "champion_top_1_accuracy": accuracy - difference,
                "difference": difference,
                "lower": difference - 0.01,
                "upper": difference + 0.01,
            }
        content = {
            "labels": ["daisy", "größe", "tulip"],
            "top_1_accuracy": accuracy,
            "per_class": [{"recall": recall} for recall in recalls],
            "comparison": comparison,
        }
        folder = tmp_path_factory.mktemp("evaluation")
        (folder / "metrics.json").write_text(json.dumps(content))
        return folder

    return write


def failed(decision):
    return [check.name for check in decision.checks if not check.passed]


def test_a_model_that_passes_every_check_is_deployed(evaluated):
    arguments = GateArguments(deploy_target="local", min_accuracy=0.9, min_class_recall=0.8, tolerance=0.02)
    decision = decide(evaluated(difference=0.70 - 0.72), arguments)
    assert decision.passed
    assert decision.deploy
    assert decision.summary == "passed 3 checks: deploying to local"
    assert "lowest recall: daisy 0.8000" in decision.to_markdown()


def test_without_a_target_the_checks_run_and_nothing_is_deployed(evaluated):
    decision = decide(evaluated(), GateArguments())
    assert decision.passed
    assert not decision.deploy
    assert "deploy_target is none" in decision.summary
    # No champion, no comparison.
    assert [check.name for check in decision.checks] == ["min_accuracy", "min_class_recall"]


def test_each_condition_blocks_alone_and_gives_the_measured_value(evaluated):
    folder = evaluated(difference=-0.011)
    for name, minimum, message in (
        ("min_accuracy", 0.901, "top-1 accuracy 0.9000, at least 0.901 required"),
        ("min_class_recall", 0.81, "recall: daisy 0.8000, at least 0.81 required"),
        ("tolerance", 0.01, "-0.0110 against the champion's 0.9110"),
    ):
        conditions = {"tolerance": 0.5, name: minimum}
        decision = decide(folder, GateArguments(deploy_target="local", **conditions))
        assert failed(decision) == [name]
        assert not decision.deploy
        assert decision.summary.startswith("blocked, not deployed: ")
        assert message in decision.summary


def test_all_reasons_are_given_and_the_worst_classes_named(evaluated, tmp_path):
    content = {
        "labels": [f"label {number}" for number in range(8)],
        "top_1_accuracy": 0.1,
        "per_class": [{"recall": 0.1 - number / 100} for number in range(8)],
        "comparison": None,
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    decision = decide(tmp_path, GateArguments(min_accuracy=0.5, min_class_recall=0.5))
    assert failed(decision) == ["min_accuracy", "min_class_recall"]
    assert "recall: label 7 0.0300, label 6 0.0400" in decision.summary
    assert "and 3 more" in decision.summary


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_the_tolerance_is_exact_despite_rounding_errors(evaluated, champion, challenger, tolerance):
    difference = challenger / 1000 - champion / 1000
    decision = decide(
        evaluated(challenger / 1000, difference=difference),
        GateArguments(tolerance=tolerance / 1000),
    )
    assert decision.passed == (champion - challenger <= tolerance)


@pytest.mark.parametrize("content", [None, "[]", "{", '{"top_1_accuracy": 1}'])
def test_a_missing_or_invalid_evaluation_is_an_error(content, tmp_path):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(MissingInputError):
        decide(tmp_path, GateArguments())


@pytest.mark.parametrize(
    "values", [{"min_accuracy": 1.1}, {"tolerance": -0.1}, {"deploy_target": "elsewhere"}]
)
def test_invalid_conditions_are_rejected(values):
    with pytest.raises(InvalidArgumentError, match=next(iter(values))):
        GateArguments(**values)


@pytest.mark.parametrize("min_accuracy", [0.5, 0.95])
def test_the_component_returns_the_decision_and_writes_it(min_accuracy, evaluated, tmp_path):
    decision = dsl.Artifact(uri=str(tmp_path / "decision"))
    reasons = dsl.Markdown(uri=str(tmp_path / "reasons.md"))
    returned = gate(
        evaluation=dsl.Artifact(uri=str(evaluated())),
        decision=decision,
        reasons=reasons,
        arguments=GateArguments(deploy_target="local", min_accuracy=min_accuracy),
    )
    assert returned is (min_accuracy == 0.5)
    written = json.loads((tmp_path / "decision" / "decision.json").read_text())
    assert written["deploy"] is returned
    assert decision.metadata["summary"] == written["summary"]
    assert written["summary"] in (tmp_path / "reasons.md").read_text()
