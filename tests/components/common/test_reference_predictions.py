import numpy as np
import pytest

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.reference_predictions import (
    REFERENCE_EXAMPLES,
    read_reference,
    write_reference,
)


@pytest.mark.parametrize("examples", [1, REFERENCE_EXAMPLES, REFERENCE_EXAMPLES + 10])
def test_the_first_predictions_round_trip_bit_for_bit(tmp_path, examples):
    probabilities = np.random.default_rng(0).random((examples, 3), np.float32)
    write_reference(tmp_path, probabilities)
    read = read_reference(tmp_path)
    assert read.dtype == np.float32
    assert read.tobytes() == probabilities[:REFERENCE_EXAMPLES].tobytes()


def test_a_missing_or_damaged_file_is_reported_with_its_folder(tmp_path):
    with pytest.raises(MissingInputError, match=str(tmp_path)):
        read_reference(tmp_path)
    write_reference(tmp_path, np.zeros((2, 2), np.float32))
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:-4], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(MissingInputError, match=str(tmp_path)):
            read_reference(tmp_path)
