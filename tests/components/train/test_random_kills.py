"""Training of all layers that is killed at random resumes from its last step, or from minutes before it."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from imgpipe.components.storage import parse_location
from imgpipe.components.train.checkpoints import CheckpointFolder

from .job import job_arguments

EXIT_INTERRUPTED = 75
STEPS = 100_000
# The training command with another time between checkpoints.
COMMAND = """
import sys
from imgpipe.components.common.step import run_command
from imgpipe.components.train import loop
from imgpipe.components.train.__main__ import main
loop._SECONDS_BETWEEN_CHECKPOINTS = float(sys.argv[1])
run_command("train", lambda: main(sys.argv[2:]))
"""


class Training:
    """A training run in a process, which is followed by its events."""

    def __init__(self, arguments, monkeypatch, seconds_between_checkpoints=240.0):
        monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(seconds_between_checkpoints), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def events(self):
        return (json.loads(line) for line in self.process.stdout if line.startswith("{"))

    def follow(self, seconds):
        """Follows the training for a time after its first step; returns the events."""
        found, end = [], None
        for event in self.events():
            found.append(event)
            if event["event"] == "progress" and event["step"] == "train":
                end = end or time.monotonic() + seconds
                if time.monotonic() >= end:
                    break
        return found

    def kill(self, number):
        """Sends a signal; returns the rest of the events and the exit status."""
        self.process.send_signal(number)
        found = list(self.events())
        return found, self.process.wait(60)


@pytest.fixture(scope="module")
def data(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), train=24, validation=6)


def last_step(events):
    return max(event["done"] for event in events if event["event"] == "progress" and event["step"] == "train")


def resumed_step(events):
    return next((event["training_step"] for event in events if event["event"] == "resumed"), 0)


def latest(job_dir):
    return CheckpointFolder(parse_location(str(job_dir)) / "checkpoints", keep=2).latest().step


@pytest.mark.proof
def test_no_step_is_lost_by_signals_at_twenty_random_moments(data, tmp_path, monkeypatch):
    generator = random.Random(27)  # noqa: S311 - no secret
    # Without an evaluation, which would write a checkpoint as well.
    arguments = job_arguments(data, tmp_path, max_steps=STEPS, train_steps_per_eval=STEPS)
    saved = 0
    for kill in range(20):
        training = Training(arguments, monkeypatch)
        events = training.follow(generator.uniform(0, 4))
        assert resumed_step(events) == saved, f"kill {kill}"
        seen = last_step(events)
        rest, status = training.kill(generator.choice([signal.SIGTERM, signal.SIGINT]))
        assert status == EXIT_INTERRUPTED, f"kill {kill}: {rest}"
        saved = latest(tmp_path)
        assert saved >= seen > resumed_step(events)
        assert f"was interrupted at step {saved:,} of" in next(
            event["problem"] for event in rest if event["event"] == "step_failed"
        )


@pytest.mark.proof
def test_killed_training_loses_at_most_the_time_between_checkpoints(data, tmp_path, monkeypatch):
    arguments = job_arguments(data, tmp_path, max_steps=STEPS, train_steps_per_eval=STEPS)
    saved, between = 0, 2.0
    for kill in range(5):
        training = Training(arguments, monkeypatch, between)
        began = time.monotonic()
        events = training.follow(6)
        assert resumed_step(events) == saved, f"kill {kill}"
        killed = time.time()
        _, status = training.kill(signal.SIGKILL)
        assert status == -signal.SIGKILL
        saved = latest(tmp_path)
        assert saved > resumed_step(events)
        file = max((tmp_path / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime)
        # And one step, and the time to write it, on a busy machine.
        assert killed - file.stat().st_mtime < between + 3, f"kill {kill} after {time.monotonic() - began}"
