"""A trial that ends within a tenth of a second: it imports nothing of imgpipe.

It writes what a trial writes: lines for Katib's collector, its evaluations, its model and its result.
"""

import json
import math
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
values = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
name = os.environ["KATIB_TRIAL_NAME"]
folder = Path(values["job_dir"], "trials", name)
model = Path(values["job_dir"], "model", f"trial_{name}")
rate = float(values["initial_learning_rate"])
folder.mkdir(parents=True, exist_ok=True)
evaluations = []
for step in (10, 20, 30, 40):
    if stopped:
        break
    accuracy = max(0.1, 0.98 - 0.04 * math.log(rate / 0.02) ** 2) * (1 - math.exp(-step / 8))
    evaluations.append(
        {"step": step, "top_1_accuracy": accuracy, "top_5_accuracy": 1.0, "loss": 1 - accuracy}
    )
    sys.stdout.write(f"{datetime.now(UTC).isoformat()} top_1_accuracy={accuracy:.6g}\n")
    sys.stdout.flush()
    temporary = folder / "metrics.part"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    temporary.rename(folder / "metrics.jsonl")
    time.sleep(0.02)
if stopped:
    marker = Path(os.readlink("/proc/self/fd/1")).parent / f"{os.getppid()}.pid"
    if not marker.exists():
        sys.exit(75)
model.mkdir(parents=True, exist_ok=True)
(model / "saved_model.pb").write_text(str(rate))
result = {"final": {**evaluations[-1], "examples": 100}, "evaluations": evaluations}
(folder / "result.part").write_text(json.dumps(result))
(folder / "result.part").rename(folder / "result.json")
