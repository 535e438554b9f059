"""The Secret with the credentials for object stores, where Kubernetes mounts it."""

import os

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.platforms.kubernetes.storage_secret import use_storage_secret
from imgpipe.components.preflight.preflight import check_storage_secret


def test_a_named_secret_that_does_not_exist_is_reported_with_the_command_that_creates_it(tmp_path):
    with pytest.raises(MissingInputError, match="there is no such Secret") as error:
        check_storage_secret("bucket-key", tmp_path)
    assert "kubectl create secret generic bucket-key --from-file=key.json" in error.value.remedy


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("", "it has neither an entry path nor AWS_ACCESS_KEY_ID and"),
        ("/run/key.json", "its entry path is '/run/key.json', which is none of"),
    ],
)
def test_a_secret_without_a_usable_key_is_rejected_with_its_entries(tmp_path, monkeypatch, variable, reason):
    monkeypatch.setenv("IMGPIPE_STORAGE_KEY", variable)
    (tmp_path / "credentials.json").write_text("{}")
    # Kubernetes' own links in the folder of a Secret.
    (tmp_path / "..data").mkdir()
    with pytest.raises(InvalidArgumentError, match=reason) as error:
        check_storage_secret("imgpipe-storage", tmp_path)
    assert error.value.problem.endswith("its entries are credentials.json")


def test_the_default_secret_need_not_exist_and_a_usable_one_passes(tmp_path, monkeypatch):
    check_storage_secret("imgpipe-storage", tmp_path)
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("IMGPIPE_STORAGE_KEY", str(tmp_path / "key.json"))
    check_storage_secret("bucket-key", tmp_path)


def test_a_secret_with_the_keys_of_s3_passes_and_becomes_the_credentials_of_the_step(tmp_path, monkeypatch):
    entries = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": "http://minio.data:9000",
    }
    for name, value in entries.items():
        monkeypatch.setenv(name, "the launcher's")
        (tmp_path / name).write_text(f"{value}\n")
    for name in ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "the launcher's")
        (tmp_path / name).write_text("a certificate, or settings\n")
        entries[name] = str(tmp_path / name)
    check_storage_secret("bucket-key", tmp_path)
    use_storage_secret(tmp_path)
    assert {name: os.environ[name] for name in entries} == entries


def test_a_secret_with_one_of_the_two_keys_of_s3_is_rejected(tmp_path):
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("key")
    with pytest.raises(InvalidArgumentError, match="it has no entry AWS_SECRET_ACCESS_KEY") as error:
        check_storage_secret("bucket-key", tmp_path)
    # Kubeflow's own Secret would be such a one.
    assert "create another one" in error.value.remedy
    assert "kubectl create secret generic NAME" in error.value.remedy


def test_without_a_pod_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    use_storage_secret(tmp_path / "none")
    assert os.environ["AWS_ACCESS_KEY_ID"] == "mine"
