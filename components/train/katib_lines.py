"""The lines of a training that Katib's metrics collector reads."""

import sys
from datetime import UTC, datetime

# Set by our trial template, and nowhere else.
KATIB_TRIAL_NAME = "KATIB_TRIAL_NAME"
# Of the collector (Go's regular expressions): name and value. The lines for people hold the same words; were
# they counted too, each evaluation would be two.
FILTER = r"^\S+ ({metric})=(\S+)"


def katib_line(metric: str, value: float, now: datetime) -> str:
    """Returns a line of which the collector takes time, name and value; it sorts by the time."""
    return f"{now.isoformat(timespec='microseconds').replace('+00:00', 'Z')} {metric}={value:.6g}"


def write_katib_line(metric: str, value: float) -> None:
    """Writes the line of an evaluation that ends now."""
    sys.stdout.write(katib_line(metric, value, datetime.now(UTC)) + "\n")
    sys.stdout.flush()
