"""The rules for responses that all services share."""

import pytest

from imgpipe.components.platforms.responses import describe_body, json_object, retry_after_seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (None, 0),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "-7"}, 0),
        ({"Retry-After": "soon"}, 0),
        # The clock of the service is an hour late: its own time counts.
        ({"Retry-After": "Sun, 29 Nov 2026 01:00:30 GMT", "Date": "Sun, 29 Nov 2026 01:00:00 GMT"}, 30),
        ({"Retry-After": "Sun, 29 Nov 2020 01:00:30 GMT"}, 0),
    ],
)
def test_a_service_may_say_when_to_try_again(headers, seconds):
    assert retry_after_seconds(headers) == seconds


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"", "nothing"),
        (b"null", "'null'"),
        (b"[1]", "'[1]'"),
        (b'{"runs": ', "'{\"runs\":'"),
        (b"\xff\xfe", "'\ufffd\ufffd'"),
        (b" <!doctype html>", "an HTML page"),
        (b"[" * 100_000, f"'{'[' * 60}'"),
    ],
)
def test_what_is_not_a_json_object_is_described(body, content):
    assert json_object(body) is None
    assert describe_body(body) == content


def test_a_json_object_is_read():
    assert json_object('{"a": 1}') == {"a": 1}
