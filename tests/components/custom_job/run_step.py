"""Runs the step in a process of its own: ``python run_step.py '{"dataset": ..., "arguments": {...}}'``."""

import json
import sys
from pathlib import Path

from imgpipe.components.common.step import run_command
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.custom_job.custom_job import train_as_job
from imgpipe.components.train.arguments import TrainingArguments


def main() -> None:
    request = json.loads(sys.argv[1])
    best = train_as_job(
        TrainingArguments(**request["arguments"]),
        CustomJobArguments(**request["job"]),
        RunArguments(
            project="flowers-project",
            region="us-central1",
            images=request["images"],
            pipeline_run=request.get("run", ""),
        ),
        Path(request["dataset"]),
        Path(request["model"]),
        Path(request["resources"]),
    )
    print(json.dumps({"best": best}))


run_command("train", main)
