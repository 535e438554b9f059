"""Inputs are checked before the first step reads them."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.convert.arguments import ConvertArguments
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


def test_a_local_path_in_a_pod_has_the_remedy_of_a_pod(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    for name in ("images", "train_csv"):
        with pytest.raises(MissingInputError, match=r"(?s)does not exist.*in a bucket, gs:// or s3://"):
            check_inputs({name: str(tmp_path / "missing")})


def test_a_path_with_a_space_at_its_end_is_refused():
    with pytest.raises(InvalidArgumentError, match="flowers ': begins or ends with a space"):
        ConvertArguments(images="s3://bucket/flowers ")
