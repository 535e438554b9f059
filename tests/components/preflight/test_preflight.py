"""The Secret with the storage key is checked where Kubernetes mounts it."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.preflight.inputs import check_inputs
from imgpipe.components.preflight.preflight import check_storage_secret


def test_the_default_secret_need_not_exist(tmp_path):
    check_storage_secret("imgpipe-storage", tmp_path)


def test_a_named_secret_that_does_not_exist_is_reported_with_the_command_that_creates_it(tmp_path):
    with pytest.raises(MissingInputError, match="there is no such Secret") as error:
        check_storage_secret("bucket-key", tmp_path)
    assert "kubectl create secret generic bucket-key --from-file=key.json" in error.value.remedy


@pytest.mark.parametrize(
    ("variable", "reason"),
    [("", "it has no entry path"), ("/run/key.json", "its entry path is '/run/key.json', which is none of")],
)
def test_a_secret_without_a_usable_key_is_rejected_with_its_entries(tmp_path, monkeypatch, variable, reason):
    monkeypatch.setenv("IMGPIPE_STORAGE_KEY", variable)
    (tmp_path / "credentials.json").write_text("{}")
    # Kubernetes' own links in the folder of a Secret.
    (tmp_path / "..data").mkdir()
    with pytest.raises(InvalidArgumentError, match=reason) as error:
        check_storage_secret("imgpipe-storage", tmp_path)
    assert error.value.problem.endswith("its entries are credentials.json")


def test_a_usable_secret_passes(tmp_path, monkeypatch):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("IMGPIPE_STORAGE_KEY", str(tmp_path / "key.json"))
    check_storage_secret("bucket-key", tmp_path)


def test_a_folder_for_a_list_and_a_list_for_a_folder_name_the_other_argument(tmp_path):
    (tmp_path / "list.csv").touch()
    for values, remedy in (
        ({"train_csv": str(tmp_path)}, f"use images={tmp_path}"),
        ({"images": str(tmp_path / "list.csv")}, f"use train_csv={tmp_path / 'list.csv'}"),
    ):
        with pytest.raises(MissingInputError) as caught:
            check_inputs(values)
        assert caught.value.remedy == remedy
