"""Credentials in URLs are neither shown nor sent where others can read them."""

import pytest

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.urls import has_user_info, is_plain_http_to_other_machine, redact_urls
from imgpipe.pipelines.commands.output import notice


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach https://me:pa:ss@host/path now", "cannot reach https://***@host/path now"),
        ("'http://token@host'", "'http://***@host'"),
        ("https://h/p?X-Goog-Signature=abc&x=1", "https://h/p?X-Goog-Signature=***&x=1"),
        ("https://h/p?access_token=abc#top", "https://h/p?access_token=***#top"),
        ("https://h/cb#access_token=abc&x=1", "https://h/cb#access_token=***&x=1"),
        ("https://h/login?state=abc", "https://h/login?state=***"),
        ("mail a@b.example, see https://host/@team", "mail a@b.example, see https://host/@team"),
        ("gs://bucket/a@b/image.jpg", "gs://bucket/a@b/image.jpg"),
        ("registry.example/image@sha256:00", "registry.example/image@sha256:00"),
    ],
)
def test_only_secrets_in_urls_are_replaced(text, shown):
    assert redact_urls(text) == shown
    error = MissingInputError(text, where=text, remedy=text)
    assert [error.problem, error.where, error.remedy] == [shown] * 3
    assert str(error.args[0]) == shown


def test_a_url_with_a_password_is_recognized():
    assert has_user_info("https://me:secret@host")
    assert not has_user_info("https://host/me@home")


@pytest.mark.parametrize(
    ("url", "readable"),
    [
        ("http://10.0.0.1", True),
        ("HTTP://host", True),
        ("http://127.0.0.1.example", True),
        ("http://127.0.0.2:80", False),
        ("http://[::1]:80", False),
        ("http://localhost", False),
        ("https://host", False),
    ],
)
def test_only_plain_http_to_other_machines_can_be_read_by_others(url, readable):
    assert is_plain_http_to_other_machine(url) is readable


def test_logs_and_notices_do_not_show_secrets_in_urls(capsys):
    log_event("read", "reading https://me:secret@host/a?token=secret")
    notice("https://me:secret@host is used")
    printed = capsys.readouterr()
    assert "https://***@host/a?token=***" in printed.out
    assert "https://***@host is used" in printed.err
    assert "secret" not in printed.out + printed.err
