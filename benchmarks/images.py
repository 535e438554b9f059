"""The images: size without the base, and seconds from `docker run` to the first useful line of output.

Each container runs without network and privileges and with a read-only root, on a minimal real task: data
converts images, train-cpu trains on them, serve-tools serves the model, launcher deploys to Vertex AI as
far as possible without a network. The first run of an image, which reads it from disk, is excluded.

python -m benchmarks.images [--base IMAGE] [--repeats 3]      needs a Docker engine and `make images`
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import print_result, print_table
from containers.build import MAX_MEGABYTES, default_base
from containers.docker import SANDBOX_FLAGS, image_size
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE, parse_event
from imgpipe.pipelines.images import Images

# On two cores.
MAX_SECONDS = {"data": 5.0, "launcher": 12.0, "train-cpu": 20.0, "serve-tools": 25.0}
# Logged before any work is done.
_NOT_USEFUL = ("step_started",)
_DEPLOY = """
from pathlib import Path
from imgpipe.components.common.step import run_command
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deploy import deploy
arguments = DeployArguments(deploy_target="vertex", deploy_dir="gs://bucket/serving",
                            deploy_name="digits", serving_image="registry.example/serving:1",
                            project="project", region="us-central1")
run_command("deploy", lambda: deploy(Path("/mnt/model/model"), arguments))
"""


def _write_images(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for label, level in (("bright", 180), ("dark", 20)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = (draw.integers(0, 60, (32, 32, 3)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def seconds_to_first_line(image: str, work: Path, command: Sequence[str], *, wait: bool) -> float:
    """Runs a container and returns the seconds to the first useful line of output.

    Args:
        image: The image.
        work: The folder to mount at ``/mnt``.
        command: The command.
        wait: Whether the container runs to its end, instead of being killed after the line.

    Raises:
        RuntimeError: if it ends without such a line.
    """
    name = f"imgpipe-bench-{os.getpid()}"
    started = time.monotonic()
    lines = []
    seconds = 0.0
    with subprocess.Popen(
        [
            *("docker", "run", *SANDBOX_FLAGS, f"--name={name}", f"--volume={work}:/mnt"),
            *(f"--env={LOG_FORMAT_VARIABLE}={JSON}", image, *command),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            lines.append(line)
            event = parse_event(line)
            if event is not None and event["event"] not in _NOT_USEFUL and not seconds:
                seconds = time.monotonic() - started
                if not wait:
                    subprocess.run(["docker", "kill", name], capture_output=True, check=False)
    if not seconds:
        raise RuntimeError(
            f"{' '.join(command)} in {image} printed no useful line:\n{''.join(lines)[-2000:]}"
        )
    return seconds


def main() -> int:
    """Runs the command line and returns 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser("benchmarks.images", description=__doc__)
    parser.add_argument("--base", default=default_base())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    base = image_size(options.base)
    rows: list[list[str]] = []
    result: dict[str, float] = {}
    within_limits = True
    with tempfile.TemporaryDirectory(prefix="imgpipe-bench-") as temporary:
        work = Path(temporary)
        _write_images(work / "images")
        # The containers' user writes here.
        work.chmod(0o777)
        # {} is empty in the first run, which writes what the later roles read, and then "-1" and so on.
        commands = {
            "data": [
                *("python3", "-m", "imgpipe.components.convert"),
                *("--images=/mnt/images", "--output_dir=/mnt/data{}"),
            ],
            "train-cpu": [
                *("python3", "-m", "imgpipe.components.train", "--training_data_path=/mnt/data/train-*"),
                *("--validation_data_path=/mnt/data/validation-*", "--num_classes=2"),
                *("--job-dir=/mnt/model{}", "--model_type=resnet-18", "--image_size=32", "--weights=none"),
                "--max_steps=2",
            ],
            "launcher": ["python3", "-c", _DEPLOY],
            "serve-tools": ["python3", "-m", "imgpipe.components.serve", "--model=/mnt/model/model"],
        }
        for role, command in commands.items():
            image = Images().of_role(role)
            wait = role in ("data", "train-cpu")
            times = []
            for suffix in ("", *(f"-{number}" for number in range(1, options.repeats + 1))):
                arguments = [argument.format(suffix) for argument in command]
                times.append(seconds_to_first_line(image, work, arguments, wait=wait))
            megabytes = (image_size(image) - base) / 1e6
            seconds = statistics.median(times[1:])
            fits = megabytes <= MAX_MEGABYTES[role] and seconds <= MAX_SECONDS[role]
            within_limits = within_limits and fits
            rows.append(
                [
                    role,
                    f"{megabytes:.0f}",
                    f"{MAX_MEGABYTES[role]}",
                    f"{seconds:.1f}",
                    f"{MAX_SECONDS[role]:.0f}",
                    "ok" if fits else "EXCEEDED",
                ]
            )
            result |= {f"{role}_mb": megabytes, f"{role}_seconds": seconds}
    print_table(["image", "MB over base", "limit", "s to first line", "limit", ""], rows)
    print_result(**result)
    return 0 if within_limits else 1


if __name__ == "__main__":
    sys.exit(main())
