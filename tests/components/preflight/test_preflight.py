"""Inputs are checked before the first step reads them."""

import pytest

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.preflight.inputs import check_inputs


def test_a_folder_for_a_list_and_a_list_for_a_folder_name_the_other_argument(tmp_path):
    (tmp_path / "list.csv").touch()
    for values, remedy in (
        ({"train_csv": str(tmp_path)}, f"use images={tmp_path}"),
        ({"images": str(tmp_path / "list.csv")}, f"use train_csv={tmp_path / 'list.csv'}"),
    ):
        with pytest.raises(MissingInputError) as caught:
            check_inputs(values)
        assert caught.value.remedy == remedy
