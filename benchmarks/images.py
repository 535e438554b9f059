"""The images: size over the base, and seconds from `docker run` to the first line that says something.

Each container runs without network, with a read-only root and no rights, on the smallest real piece of work:
data converts images, train-cpu trains on them, serve-tools serves the model, launcher deploys to Vertex AI as
far as it gets without a network. The first run of an image, which reads it from disk, is not counted.

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
from containers.build import default_base
from containers.docker import image_size
from imgpipe.components.common.log import parse_event
from imgpipe.pipelines.images import Images

# Megabytes over the base; seconds to the first useful line on two cores.
SIZE_BOUNDS = {"data": 250, "launcher": 300, "train-cpu": 1600, "serve-tools": 1600}
SECONDS_BOUNDS = {"data": 5.0, "launcher": 12.0, "train-cpu": 20.0, "serve-tools": 25.0}
_STRICT = (
    *("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--tmpfs=/tmp:mode=1777", "--init"),
)
# What the runtime says before there is anything to say.
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


def seconds_to_first_line(image: str, work: Path, command: Sequence[str], *, to_the_end: bool) -> float:
    """Runs a container until it says something useful, or to its end, and returns the seconds to that line.

    Raises:
        RuntimeError: if it ends without such a line.
    """
    name = f"imgpipe-bench-{os.getpid()}"
    started = time.monotonic()
    lines = []
    seconds = 0.0
    with subprocess.Popen(
        ["docker", "run", *_STRICT, f"--name={name}", f"--volume={work}:/mnt", image, *command],
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
                if not to_the_end:
                    subprocess.run(["docker", "kill", name], capture_output=True, check=False)
    if not seconds:
        raise RuntimeError(f"{' '.join(command)} in {image} says nothing useful:\n{''.join(lines)[-2000:]}")
    return seconds


def main() -> int:
    """Runs the command line and returns 1 if a bound is not kept."""
    parser = argparse.ArgumentParser("benchmarks.images", description=__doc__)
    parser.add_argument("--base", default=default_base())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    base = image_size(options.base)
    rows: list[list[str]] = []
    result: dict[str, float] = {}
    kept = True
    with tempfile.TemporaryDirectory(prefix="imgpipe-bench-") as temporary:
        work = Path(temporary)
        _write_images(work / "images")
        # The user of the containers writes here.
        work.chmod(0o777)
        train = [
            *("python3", "-m", "imgpipe.components.train", "--training_data_path=/mnt/data/train-*"),
            *("--validation_data_path=/mnt/data/validation-*", "--num_classes=2", "--job-dir=/mnt/model"),
            *("--model_type=resnet-18", "--image_size=32", "--weights=none", "--max_steps=2"),
        ]
        commands = {
            "data": [
                "python3",
                "-m",
                "imgpipe.components.convert",
                "--images=/mnt/images",
                "--output_dir={}",
            ],
            "train-cpu": train,
            "launcher": ["python3", "-c", _DEPLOY],
            "serve-tools": ["python3", "-m", "imgpipe.components.serve", "--model=/mnt/model/model"],
        }
        for role, command in commands.items():
            image = Images().of_role(role)
            times = []
            for number in range(options.repeats + 1):
                target = "/mnt/data" if number == 0 else f"/mnt/data-{number}"
                words = [word.replace("{}", target) for word in command]
                if role == "train-cpu":
                    model = "/mnt/model" if number == 0 else f"/mnt/model-{number}"
                    words = [word.replace("/mnt/model", model) for word in words]
                times.append(
                    seconds_to_first_line(image, work, words, to_the_end=role in ("data", "train-cpu"))
                )
            megabytes = (image_size(image) - base) / 1e6
            seconds = statistics.median(times[1:])
            fits = megabytes <= SIZE_BOUNDS[role] and seconds <= SECONDS_BOUNDS[role]
            kept = kept and fits
            rows.append(
                [
                    role,
                    f"{megabytes:.0f}",
                    f"{SIZE_BOUNDS[role]}",
                    f"{seconds:.1f}",
                    f"{SECONDS_BOUNDS[role]:.0f}",
                    "kept" if fits else "NOT KEPT",
                ]
            )
            result |= {f"{role}_mb": megabytes, f"{role}_seconds": seconds}
    print_table(["image", "MB over base", "at most", "s to first line", "at most", ""], rows)
    print_result(**result)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
