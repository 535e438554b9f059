"""What a command says beside its answer."""

import sys

from imgpipe.components.common.log import log_event
from imgpipe.pipelines.commands.output import echo_events


def test_lines_for_machines_are_told_in_words(capsys):
    with echo_events():
        log_event("no_credentials", "public objects only")
        sys.stdout.write("a library's ")
        sys.stdout.write("own line\n")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "! public objects only\n! a library's own line\n"


def test_a_last_line_without_an_end_is_told_too(capsys):
    with echo_events():
        sys.stdout.write("half a line")
    assert capsys.readouterr().err == "! half a line\n"
