"""Starts the whole pipeline through the command line, as a user does."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imgpipe.components.common.log import parse_event

IMGPIPE = str(Path(sys.executable).parent / "imgpipe")
SMALL = ["--model-type", "resnet-18", "--weights", "none", "--image-size", "32", "--max-steps", "3"]


@dataclass(frozen=True)
class Run:
    """What a run left: its exit status, its last line as JSON, its folder, and its events."""

    status: int
    shown: str
    summary: dict[str, Any]
    folder: Path

    @property
    def events(self):
        lines = (self.folder / "run.log").read_text(encoding="utf-8").splitlines()
        return [event for event in map(parse_event, lines) if event]

    def seconds_to_failure(self):
        """Seconds from the start of the step that failed to its error."""
        failed = next(event for event in self.events if event["event"] == "step_failed")
        started = next(
            event
            for event in self.events
            if event["event"] == "step_started" and event["step"] == failed["step"]
        )
        times = [datetime.fromisoformat(event["time"]) for event in (started, failed)]
        return (times[1] - times[0]).total_seconds()


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
