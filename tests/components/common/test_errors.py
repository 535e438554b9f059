import errno
import os

import pytest

from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    EXIT_CODE_INTERRUPTED,
    InterruptedRunError,
    InvalidDataError,
    MissingInputError,
    PipelineError,
    must_be_readable,
)


def test_exit_codes_are_distinct_and_conflict_neither_with_python_nor_the_shell():
    codes = [error.exit_code for error in ERROR_CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(64 <= code <= 78 for code in codes)
    assert codes == sorted(codes)


def test_a_retry_can_help_only_an_interrupted_run():
    assert [error for error in ERROR_CLASSES if error.retry_can_help] == [InterruptedRunError]
    assert InterruptedRunError.exit_code == EXIT_CODE_INTERRUPTED


def test_text_has_problem_location_and_remedy():
    error = InvalidDataError("row has 3 columns", where="a.csv, line 7", remedy="quote the comma")
    assert str(error) == "row has 3 columns\nwhere: a.csv, line 7\nwhat to do: quote the comma"
    assert str(PipelineError("only this")) == "only this"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOENT, "check the path"),
        (errno.EACCES, "allow the user that runs this to read it"),
        (errno.EISDIR, "use a file, not a folder"),
    ],
)
def test_remedy_for_an_unreadable_file_depends_on_the_reason(code, remedy):
    with pytest.raises(MissingInputError) as raised, must_be_readable("'a.csv'"):
        raise OSError(code, os.strerror(code))
    assert (raised.value.problem, raised.value.remedy) == (
        f"cannot read 'a.csv': {os.strerror(code)}",
        remedy,
    )


def test_a_very_long_value_is_shortened():
    error = PipelineError("the line '" + "x y" * 10_000_000 + "' has 1 column", where="w" * 100_000)
    assert len(str(error)) < 2_000
    assert str(error).startswith("the line 'x y")
    assert "has 1 column" in str(error)
