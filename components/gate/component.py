"""The gate as a KFP component."""

import json
from dataclasses import asdict
from pathlib import Path

from kfp.dsl import Artifact, Input, Markdown, Output

from imgpipe.components.gate.arguments import GateArguments


def gate(
    evaluation: Input[Artifact],
    decision: Output[Artifact],
    reasons: Output[Markdown],
    arguments: GateArguments,
) -> bool:
    """Decides whether the model is deployed. Blocking a model is not an error: nothing follows.

    Args:
        evaluation: The output of the evaluate step.
        decision: decision.json: every check with its measured and required value.
        reasons: The decision and its reasons as a table.
        arguments: The conditions.
    """
    from imgpipe.components.gate.gate import decide

    decided = decide(Path(evaluation.path), arguments)
    path = Path(decision.path) / "decision.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(decided), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    decision.metadata.update(deploy=decided.deploy, summary=decided.summary)
    Path(reasons.path).write_text(decided.to_markdown(), encoding="utf-8")
    return decided.deploy
