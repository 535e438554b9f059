"""The gate as a KFP component."""

import json
from pathlib import Path

from kfp.dsl import Artifact, Input, Markdown, Output

from imgpipe.components.gate.arguments import GateArguments


def gate(
    evaluation: Input[Artifact],
    decision: Output[Artifact],
    summary: Output[Markdown],
    arguments: GateArguments,
) -> bool:
    """Decides whether the model is deployed. A model that is blocked is no error: the pipeline ends here.

    Args:
        evaluation: What the evaluate step found.
        decision: decision.json: every check with what was measured and asked for.
        summary: The same for a person.
        arguments: What a model must reach.
    """
    from imgpipe.components.gate.gate import decide

    made = decide(Path(evaluation.path), arguments)
    path = Path(decision.path) / "decision.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    decision.metadata.update(deploy=made.deploy, summary=made.summary)
    Path(summary.path).parent.mkdir(parents=True, exist_ok=True)
    Path(summary.path).write_text(made.to_markdown(), encoding="utf-8")
    return made.deploy
