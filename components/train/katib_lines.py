"""The log lines that Katib's metrics collector reads."""

import sys
from datetime import UTC, datetime

# Set only by our trial template.
KATIB_TRIAL_NAME = "KATIB_TRIAL_NAME"
# The collector's filter (a regular expression of Go) with the groups name and value. It must not match the
# other log lines, which contain name=value too: each evaluation would count twice.
FILTER = r"^\S+ ({metric})=(\S+)"


def write_katib_line(metric: str, value: float) -> None:
    """Writes a line with the current time, which the collector sorts by, the metric's name and its value."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    sys.stdout.write(f"{now} {metric}={value:.6g}\n")
    sys.stdout.flush()
