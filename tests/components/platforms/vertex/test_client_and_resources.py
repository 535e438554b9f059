"""Clients, error translation, and the file that links a step to its job."""

import json

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.vertex.client import VertexLocation, is_plain_http
from imgpipe.components.platforms.vertex.errors import error_of_status
from imgpipe.components.platforms.vertex.jobs import read_job, write_job

NAME = "projects/flowers/locations/us-central1/customJobs/12"


@pytest.mark.parametrize(
    ("code", "text", "exit_code", "retry"),
    [
        (3, "bad", 64, False),
        (4, "late", 64, False),
        (5, "gone", 66, False),
        (6, "taken", 64, False),
        (7, "no", 69, False),
        (8, "Quota exceeded", 69, False),
        (8, "no such machines now", 75, True),
        (10, "aborted", 75, True),
        (13, "internal", 75, True),
        (14, "away", 75, True),
        (16, "who", 69, False),
        (99, "new", 70, False),
    ],
)
def test_each_status_has_an_exit_code_that_says_whether_a_retry_helps(code, text, exit_code, retry):
    error = error_of_status(code, text)
    assert (error.exit_code, error.retry_can_help) == (exit_code, retry)
    assert error.remedy


def test_credentials_are_sent_to_other_machines_only_over_https():
    assert is_plain_http("http://127.0.0.1:80")
    assert not is_plain_http("https://vertex.example")
    assert not is_plain_http("")
    for endpoint in ("http://vertex.example", "http://127.0.0.1.example", "http://10.0.0.1"):
        with pytest.raises(InvalidArgumentError, match="plain http"):
            is_plain_http(endpoint)


def test_no_credentials_are_sent_to_a_server_on_this_machine():
    from google.auth.credentials import AnonymousCredentials

    client = VertexLocation("flowers", "us-central1", "http://127.0.0.1:9").client("JobServiceClient")
    assert isinstance(client.transport._credentials, AnonymousCredentials)


def test_a_written_job_is_read_back(tmp_path):
    write_job(tmp_path / "gcp_resources", "CustomJob", NAME)
    assert read_job(tmp_path / "gcp_resources") == NAME
    [resource] = json.loads((tmp_path / "gcp_resources").read_text())["resources"]
    assert resource["resourceUri"] == f"https://us-central1-aiplatform.googleapis.com/v1/{NAME}"


@pytest.mark.parametrize(
    "text", [None, "", "{}", '{"resources": []}', '{"resources": [{"resourceUri": "x"}]}']
)
def test_an_invalid_file_names_no_job(tmp_path, text):
    if text is not None:
        (tmp_path / "gcp_resources").write_text(text)
    assert read_job(tmp_path / "gcp_resources") == ""
