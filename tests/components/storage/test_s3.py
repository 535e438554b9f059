"""What S3 has and Cloud Storage has not: its credentials, endpoints and answers."""

import os
import socket

import pytest

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    UnavailableError,
)
from imgpipe.components.storage import parse_location, remote_requests
from imgpipe.components.storage.s3 import S3Location
from tests.servers.faulty_bucket import RESET, UNAVAILABLE

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
)


def refusing(status, code, message="the server's reason"):
    """Returns a fault that answers like S3: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html."""

    def answer(handler):
        content = _ERROR.format(code=code, message=message).encode()
        handler.send(status, content, Content_Type="application/xml")

    # The HEAD request of a bucket, by which boto3 looks for its region, is answered.
    return lambda method, path: "" if (method, path) == ("HEAD", "/photos") else answer


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("AWS_ACCESS_KEY_ID", "other-key", "the access key is not known|no permission"),
        ("AWS_SECRET_ACCESS_KEY", "other-secret", "the secret key does not belong to the access key"),
    ],
)
def test_wrong_keys_are_named_by_a_real_server(s3, monkeypatch, variable, value, problem):
    s3.put("a", b"x")
    monkeypatch.setenv(variable, value)
    with pytest.raises(MissingInputError, match=problem) as caught:
        parse_location("s3://photos/a").read()
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "problem", "remedy"),
    [
        (403, "InvalidObjectState", "is archived", "restore it"),
        (400, "ExpiredToken", "the credentials have expired", "renew the credentials"),
        (403, "RequestTimeTooSkewed", "clock is wrong", "correct this machine's clock"),
        (403, "AccessDenied", "no permission to {verb}", "s3:ListBucket|s3:PutObject"),
        (301, "PermanentRedirect", "is in another region", "set AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "is in another region", "set AWS_REGION"),
        (404, "NoSuchBucket", "there is no bucket 'photos'", "AWS_ENDPOINT_URL"),
        (400, "SomethingElse", "S3 rejected the request to {verb}", "check the path"),
    ],
)
def test_a_refusal_is_an_error_with_its_own_remedy(s3_of_moto, status, code, problem, remedy):
    s3_of_moto.fault = refusing(status, code)
    location = parse_location("s3://photos/a")
    for verb, action, error_class in (
        ("read", location.read, MissingInputError),
        ("write", lambda: location.write(b"x"), OutputError),
    ):
        with pytest.raises(error_class, match=problem.format(verb=verb)) as caught:
            action()
        assert any(part in str(caught.value) for part in remedy.split("|"))


def test_a_key_that_the_account_must_not_use_is_named(s3_of_moto):
    s3_of_moto.fault = refusing(403, "AccessDenied", "is not authorized to perform: kms:Decrypt")
    with pytest.raises(MissingInputError, match="the permission kms:Decrypt"):
        parse_location("s3://photos/a").read()


@pytest.mark.parametrize(
    ("status", "code"), [(400, "RequestTimeout"), (503, "SlowDown"), (200, "InternalError")]
)
def test_an_overloaded_server_is_asked_again(s3, status, code):
    asked = []

    def fault(method, path):
        # S3 may answer a copy with success before it fails.
        if method == ("PUT" if status == 200 else "GET") and len(asked) < 2:
            asked.append(path)
            return refusing(status, code)(method, path)
        return ""

    s3.put("a", b"x")
    s3.fault = fault
    folder = parse_location("s3://photos")
    assert (folder / "a").read() == b"x"
    (folder / "a").rename(folder / "b")
    assert len(asked) == 2
    assert s3.contents() == {"b": b"x"}


def test_a_page_that_is_not_s3s_answer_is_an_error_that_says_so(s3, monkeypatch):
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.1)
    s3.fault = lambda *_: lambda handler: handler.send(200, b"<html>log in</html>", Content_Type="text/html")
    folder = parse_location("s3://photos/")
    for action in (
        folder.contents,
        folder.children,
        (folder / "a").status,
        (folder / "a").read,
        lambda: (folder / "a").read_range(0, 4),
        lambda: (folder / "a").write(b"x"),
    ):
        with pytest.raises(InterruptedRunError, match="the answer is not S3's"):
            action()


def test_missing_credentials_are_reported_and_public_objects_are_read(s3_of_moto, monkeypatch):
    s3_of_moto.client.put_object(Bucket="photos", Key="a", Body=b"x", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # No identity of a machine, which is asked over the network.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    error = S3Location.missing_credentials()
    assert error is not None
    assert "AWS_ACCESS_KEY_ID" in str(error)
    assert parse_location("s3://photos/a").read() == b"x"


def test_settings_that_cannot_be_used_are_named(s3, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(UnavailableError, match="no-such-profile"):
        parse_location("s3://photos/a").read()
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(UnavailableError, match="not an address"):
        parse_location("s3://photos/a").read()


def use_profile(monkeypatch, tmp_path, *lines):
    (tmp_path / "config").write_text("\n".join(["[default]", *lines]))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.parametrize("setting", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile"])
def test_another_server_than_aws_is_named_as_for_all_aws_tools(s3, monkeypatch, tmp_path, setting):
    # A name, not a number, before which the bucket's name could not be put.
    address = os.environ["AWS_ENDPOINT_URL"].replace("127.0.0.1", "localhost")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    if setting == "profile":
        use_profile(monkeypatch, tmp_path, f"endpoint_url = {address}")
    else:
        monkeypatch.setenv(setting, address)
    headers = []

    def refuse(handler):
        headers.extend(name.lower() for name in handler.headers)
        handler.send(403)

    s3.fault = lambda *_: refuse
    with pytest.raises(OutputError, match="no permission"):
        parse_location("s3://photos/a").write(b"x")
    assert s3.requests == [("PUT", "/photos/a")]
    # Older servers do not know these checksums.
    assert not any("checksum" in name or "trailer" in name for name in headers)


def test_a_server_may_want_the_bucket_in_its_name(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("127.0.0.1", "localhost"))
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.1)
    use_profile(monkeypatch, tmp_path, "s3 =", "  addressing_style = virtual")
    s3.fault = lambda *_: lambda handler: handler.send(403)
    # Whether photos.localhost is this machine depends on its resolver.
    with pytest.raises((OutputError, InterruptedRunError)):
        parse_location("s3://photos/a").write(b"x")
    assert s3.requests in ([], [("PUT", "/a")])


@pytest.mark.parametrize(
    ("bundle", "remedy"),
    [("", "write http://"), ("no-such-file", "set AWS_CA_BUNDLE")],
)
def test_a_server_without_a_certificate_that_is_accepted_has_a_remedy(s3, monkeypatch, bundle, remedy):
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("http://", "https://"))
    if bundle:
        monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
    with pytest.raises(UnavailableError) as caught:
        parse_location("s3://photos/a").read()
    assert remedy in caught.value.remedy


def test_an_invalid_bucket_name_is_an_invalid_argument(s3):
    with pytest.raises(InvalidArgumentError, match="not a valid path in S3"):
        parse_location("s3://a bucket/a").read()


def test_a_large_file_is_uploaded_in_parts_and_read_in_ranges(s3, tmp_path, parts):
    content = os.urandom(1_000_000)
    (tmp_path / "large").write_bytes(content)
    location = parse_location("s3://photos/large")
    location.upload(tmp_path / "large")
    assert sum("partNumber" in path for _, path in s3.requests) == 4
    assert location.read_range(10, 20) == content[10:30]
    assert location.read_range(len(content) - 4, 20) == content[-4:]
    assert location.read_range(len(content) + 1, 20) == b""
    assert s3.contents() == {"large": content}


def test_only_the_part_that_failed_is_uploaded_again(s3, tmp_path, parts):
    content = os.urandom(1_000_000)
    (tmp_path / "large").write_bytes(content)
    faults = [UNAVAILABLE, UNAVAILABLE]
    s3.fault = lambda method, _: faults.pop() if method == "PUT" and faults else ""
    parse_location("s3://photos/large").upload(tmp_path / "large")
    assert sum(method == "PUT" for method, _ in s3.requests) == 4 + 2
    assert s3.contents() == {"large": content}


def test_an_upload_whose_part_is_refused_leaves_no_parts(s3, tmp_path, parts):
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    refuse = refusing(403, "AccessDenied")
    s3.fault = lambda method, path: refuse(method, path) if "partNumber=3" in path else ""
    with pytest.raises(OutputError, match="no permission"):
        parse_location("s3://photos/large").upload(tmp_path / "large")
    assert any(method == "DELETE" and "uploadId" in path for method, path in s3.requests)
    assert s3.contents() == {}


def test_an_upload_is_complete_if_the_answer_of_its_last_request_was_lost(s3, tmp_path, parts):
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    faults = [RESET]
    s3.fault = lambda method, path: faults.pop() if method == "POST" and "uploadId" in path and faults else ""
    parse_location("s3://photos/large").upload(tmp_path / "large")
    assert faults == []
    assert s3.contents() == {"large": bytes(1_000_000)}


def test_a_listing_has_more_than_one_page(s3, monkeypatch):
    monkeypatch.setattr("imgpipe.components.storage.s3._PAGE_KEYS", 10)
    names = [f"{number:02}" for number in range(25)]
    for name in names:
        s3.put(name, b"")
    folder = parse_location("s3://photos")
    assert list(folder.contents()) == names
    assert len(s3.requests) == 3
    assert folder.children() == names
    assert folder.children(3) == names[:3]
    assert [name for name, _ in folder.list_files(first="05", last="07")] == ["05", "06", "07"]


def test_a_server_that_is_not_there_yet_is_asked_again(s3, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.2)
        with pytest.raises(InterruptedRunError, match="failed for 0") as caught:
            parse_location("s3://photos/a").read()
    assert "correct AWS_ENDPOINT_URL" in caught.value.remedy


def test_a_question_for_the_status_names_credentials_that_have_expired(s3_of_moto):
    refuse = refusing(400, "ExpiredToken")
    # The answer to HEAD has no body.
    s3_of_moto.fault = lambda method, path: (
        (lambda handler: handler.send(400)) if method == "HEAD" else refuse(method, path)
    )
    with pytest.raises(MissingInputError, match="the credentials have expired"):
        parse_location("s3://photos/a").status()


def test_equal_contents_need_not_have_equal_etags(s3):
    # As in a bucket that is encrypted with a user's key.
    s3.put("a", b"x")
    assert parse_location("s3://photos/a").status().checksum == -1


def test_another_scheme_of_s3_has_its_remedy():
    with pytest.raises(InvalidArgumentError) as caught:
        parse_location("s3a://photos/a")
    assert caught.value.remedy == "write s3://photos/a"
