import pytest

from imgpipe.components.common.characters import (
    describe_difference,
    escape_controls,
    find_invisible,
    look_alike_key,
)
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.pipelines.commands.output import notice

ESCAPE = "\x1b[31m"


def test_controls_are_escaped_and_text_is_kept():
    kept = "Größe 日本\n\ta\u200cb 👩\u200d🌾"
    assert escape_controls(kept) == kept
    assert escape_controls("\x1b[31m\r\x9b\u202e\u200b") == r"\x1b[31m\r\x9b\u202e\u200b"


def test_controls_of_the_user_do_not_reach_the_terminal(capfd, monkeypatch):
    for log_format in ("json", "plain"):
        monkeypatch.setenv("IMGPIPE_LOG_FORMAT", log_format)
        log_event("a", f"x {ESCAPE}")
        log_result("convert", f"x {ESCAPE}")
    notice(f"x {ESCAPE}")
    error = InvalidDataError(f"x {ESCAPE}", where=ESCAPE, remedy=ESCAPE)
    printed = "".join(capfd.readouterr()) + str(error)
    assert printed.count("x1b[31m") >= 8
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a\u200bb", "U+200B ZERO WIDTH SPACE"),
        ("a\x1bb", "U+001B a control character"),
        ("a\u00adb", "U+00AD SOFT HYPHEN"),
        ("a\u200cb", ""),
        ("a\u00a0b", ""),
    ],
)
def test_invisible_characters_are_found_by_name(text, name):
    assert find_invisible(text) == name


def test_difference_of_texts_that_look_alike():
    assert look_alike_key("rose red") == look_alike_key("rose\u00a0red") != look_alike_key("rose")
    assert describe_difference("rose red", "rose\u00a0red") == (
        "character 5 is U+0020 SPACE in the first and U+00A0 NO-BREAK SPACE in the second"
    )
    assert "NFD" in describe_difference("gr\u00fcn", "gru\u0308n")
    assert "missing" in describe_difference("a", "a\u200d")
