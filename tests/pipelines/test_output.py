"""The messages of a command on stderr, beside its output on stdout."""

import sys

from imgpipe.components.common.log import log_event
from imgpipe.pipelines.commands.output import echo_events


def test_log_events_are_printed_as_messages(capsys):
    with echo_events():
        log_event("no_credentials", "public objects only")
        sys.stdout.write("a library's ")
        sys.stdout.write("own line\n")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "! public objects only\n! a library's own line\n"


def test_a_last_line_without_a_newline_is_printed(capsys):
    with echo_events():
        sys.stdout.write("half a line")
    assert capsys.readouterr().err == "! half a line\n"
