import json
import re

import pytest
import yaml

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.provenance import (
    read_provenance,
    set_deployment_uri,
    write_deployment_config,
    write_provenance,
)


def test_the_deployment_configuration_has_the_original_fields(tmp_path, monkeypatch):
    monkeypatch.setenv("IMGPIPE_JOB_ID", "run-7")
    write_deployment_config(tmp_path, global_step=2000)
    assert yaml.safe_load((tmp_path / "deployment_config.yaml").read_text()) == {
        "deploymentUri": ".",
        "framework": "TENSORFLOW",
        "labels": {"job_id": "run-7", "global_step": "2000"},
        "runtimeVersion": "2.21",
        "minimumRuntimeVersion": "2.6",
        "servingFormats": "jpeg,png,gif,bmp",
        "resize": "stretch",
    }
    set_deployment_uri(tmp_path, "/gcs/bucket/job/model")
    config = yaml.safe_load((tmp_path / "deployment_config.yaml").read_text())
    assert config["deploymentUri"] == "gs://bucket/job/model"
    assert config["labels"]["job_id"] == "run-7"
    write_deployment_config(tmp_path, global_step=1, serving_formats="jpeg,png,gif,bmp,webp")
    config = yaml.safe_load((tmp_path / "deployment_config.yaml").read_text())
    assert config["minimumRuntimeVersion"] == "2.20"


def test_provenance_reads_back_with_the_versions_added(tmp_path):
    written = {"model_type": "größer", "evaluations": [{"step": 1}], "versions": {"keras": "3"}}
    write_provenance(tmp_path, written)
    read = read_provenance(tmp_path)
    assert re.fullmatch(r"\d+\.\d+\.\d+", read["versions"].pop("imgpipe"))
    assert read == written


def test_the_files_contain_no_time_and_no_host_name(trained_digits):
    import socket

    folder, _ = trained_digits
    text = (folder / "provenance.json").read_text() + (folder / "deployment_config.yaml").read_text()
    assert not re.search(r"\d{4}-\d{2}-\d{2}|\d{2}:\d{2}:\d{2}", text)
    assert socket.gethostname() not in text
    assert str(folder.parent) not in text
    assert "NaN" not in text
    assert json.loads((folder / "provenance.json").read_text())


@pytest.mark.parametrize("content", [None, "{", "[1]", "\xff"])
def test_a_missing_or_malformed_file_is_reported_with_a_remedy(tmp_path, content):
    if content is not None:
        (tmp_path / "provenance.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(MissingInputError) as caught:
        read_provenance(tmp_path)
    assert str(tmp_path / "provenance.json") in caught.value.problem
    assert caught.value.remedy
