"""The log lines that Katib's metrics collector reads."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

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


def is_stopped_by_katib() -> bool:
    """Returns whether the SIGTERM that this trial got means an early stop; otherwise its pod is evicted.

    Before the signal, Katib's collector writes a marker file for the trial's shell, the parent of this
    process, into the folder of the file to which the trial's output is redirected
    (cmd/metricscollector/v1beta1/file-metricscollector/main.go in kubeflow/katib).
    """
    try:
        folder = Path(os.readlink("/proc/self/fd/1")).parent
        return (folder / f"{os.getppid()}.pid").read_text(encoding="ascii").startswith("early-stopped")
    except (OSError, ValueError):
        return False
