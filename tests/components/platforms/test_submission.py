import pytest

from imgpipe.components.common.errors import InvalidResponseError
from imgpipe.components.platforms import submission


@pytest.mark.parametrize("unreadable", ["run-0", "run-1"])
def test_an_error_of_the_check_names_what_was_created(monkeypatch, unreadable):
    """Three clients have created a run at the same time; this one's is the last."""
    monkeypatch.setattr(submission, "SETTLE_SECONDS", 0)
    existing = []

    def create():
        existing.extend(["run-0", "run-1", "run-2"])
        return "run-2"

    def check(run):
        if run == unreadable:
            raise InvalidResponseError("a login is required", remedy="log in")

    with pytest.raises(InvalidResponseError, match="a login is required; run-2 was created, but"):
        submission.create_once(
            lambda: existing, create, check=check, end=existing.remove, identify=str, created=str
        )
    assert "run-2" in existing
