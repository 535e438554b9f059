"""The evaluate step's results: its metrics, and the predictions with which the export step compares."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import must_be_readable
from imgpipe.components.common.provenance import read_json_object

# Enough to detect any difference of the graph, few enough to predict again in seconds.
REFERENCE_EXAMPLES = 256
EVALUATION_NAME = "metrics.json"
PREDICTIONS_NAME = "predictions.csv"
_NAME = "reference_probabilities.npy"
_REMEDY = "use the folder that the evaluate step wrote"


def write_reference(folder: Path, probabilities: NDArray[np.float32]) -> None:
    """Writes the probabilities, float32 [examples, N], of the first ``REFERENCE_EXAMPLES`` examples."""
    np.save(folder / _NAME, probabilities[:REFERENCE_EXAMPLES])


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Reads metrics.json, which the evaluate step writes beside the reference.

    Raises:
        MissingInputError: if it is missing or not a JSON object.
    """
    return read_json_object(folder / EVALUATION_NAME, remedy=_REMEDY)


def read_reference(folder: Path) -> NDArray[np.float32]:
    """Reads the probabilities that ``write_reference`` wrote.

    Raises:
        MissingInputError: if the file is missing or damaged.
    """
    with must_be_readable(f"the evaluation in {str(folder)!r}", ValueError, EOFError, remedy=_REMEDY):
        probabilities: NDArray[np.float32] = np.load(folder / _NAME, allow_pickle=False)
    return probabilities
