"""check."""

from typing import Any


def check_submission(submission: Any, place: Any) -> None:
    """Checks."""
