"""What the evaluate step keeps of its predictions, for the export step to compare with."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import MissingInputError

# Enough to notice any difference of the graph, few enough to ask again in seconds.
REFERENCE_EXAMPLES = 256
_NAME = "reference_probabilities.npy"


def write_reference(folder: Path, probabilities: NDArray[np.float32]) -> None:
    """Writes the probabilities, float32 [examples, N], of the first ``REFERENCE_EXAMPLES`` examples."""
    np.save(folder / _NAME, probabilities[:REFERENCE_EXAMPLES])


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
