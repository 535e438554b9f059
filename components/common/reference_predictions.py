"""What the evaluate step keeps of its predictions, for the export step to compare with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import MissingInputError

# Enough to notice any difference of the graph, few enough to ask again in seconds.
REFERENCE_EXAMPLES = 256
EVALUATION_NAME = "metrics.json"
_NAME = "reference_probabilities.npy"


def write_reference(folder: Path, probabilities: NDArray[np.float32]) -> None:
    """Writes the probabilities, float32 [examples, N], of the first ``REFERENCE_EXAMPLES`` examples."""
    np.save(folder / _NAME, probabilities[:REFERENCE_EXAMPLES])


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Reads metrics.json, which the evaluate step writes beside the reference.

    Raises:
        MissingInputError: if it is not there or is no JSON object.
    """
    path = folder / EVALUATION_NAME
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingInputError(
            f"cannot read the evaluation {str(path)!r}: {error}",
            remedy="give the folder that the evaluate step wrote",
        ) from None
    if not isinstance(evaluation, dict):
        raise MissingInputError(f"{str(path)!r} is not a JSON object", remedy="evaluate the model again")
    return evaluation


def read_reference(folder: Path) -> NDArray[np.float32]:
    """Reads what ``write_reference`` wrote.

    Raises:
        MissingInputError: if it is not there or damaged.
    """
    try:
        probabilities: NDArray[np.float32] = np.load(folder / _NAME, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MissingInputError(
            f"cannot read the evaluation in {str(folder)!r}: {error}",
            remedy="give the folder that the evaluate step wrote",
        ) from None
    return probabilities
