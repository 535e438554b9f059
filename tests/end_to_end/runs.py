"""Runs the whole pipeline from the command line."""

import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imgpipe.components.common.log import parse_event
from tests.command_line import IMGPIPE

# Photos of five kinds of flowers, which are not in the repository.
FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers_224"
SMALL = ["--model-type", "resnet-18", "--weights", "none", "--image-size", "32", "--max-steps", "3"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        status: The exit status.
        shown: The text on stderr.
        summary: The last line of stdout, parsed.
        folder: The job_dir.
    """

    status: int
    shown: str
    summary: dict[str, Any]
    folder: Path

    @property
    def events(self):
        lines = (self.folder / "run.log").read_text(encoding="utf-8").splitlines()
        return [event for event in map(parse_event, lines) if event]

    def artifact(self, step, name):
        """Returns the path of a step's artifact."""
        (path,) = (self.folder / "artifacts").glob(f"*/{step}/{name}")
        return path

    def seconds_to_failure(self):
        """Returns the seconds from the start of the failed step to its error."""
        times = {(event["event"], event["step"]): event["time"] for event in self.events if "step" in event}
        step = next(step for kind, step in times if kind == "step_failed")
        started, failed = (
            datetime.fromisoformat(times[kind, step]) for kind in ("step_started", "step_failed")
        )
        return (failed - started).total_seconds()


def run_imgpipe(folder: Path, *arguments: str, cwd: Path | None = None) -> Run:
    result = subprocess.run(
        [IMGPIPE, "run", "--job-dir", str(folder), "--format", "json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        cwd=cwd,
    )
    last = result.stdout.splitlines()[-1] if result.stdout else "{}"
    return Run(result.returncode, result.stderr, json.loads(last), folder)
