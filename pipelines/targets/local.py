"""This machine: kfp.local runs the compiled pipeline, each step in its own process or container."""

import json
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import EXIT_CODE_INTERRUPTED
from imgpipe.components.common.forking import can_fork
from imgpipe.pipelines.targets.local_docker import (
    ContainerSettings,
    create_for_user,
    docker_runner,
    stopped_by_signal,
)
from imgpipe.pipelines.targets.step_processes import StepProcesses
from imgpipe.pipelines.targets.target import Target

LOCAL = Target("local", lambda _step, task, _inputs: task.set_caching_options(False))


def run(
    pipeline_file: Path,
    parameters: dict[str, Any],
    artifacts: Path,
    containers: ContainerSettings | None = None,
) -> None:
    """Runs a compiled pipeline; the steps' output goes to stdout.

    Args:
        pipeline_file: The compiled YAML.
        parameters: The pipeline's parameters; missing ones have their defaults.
        artifacts: The folder for the run's artifacts.
        containers: How the steps' containers run; None = steps are processes of this environment.

    Raises:
        RuntimeError: by KFP, naming the task that failed.
    """
    # While KFP is imported, the processes of the steps import what they need.
    forks = StepProcesses() if containers is None and can_fork() else None
    with forks or nullcontext():
        from kfp import components, local
        from kfp.local import subprocess_task_handler

        if containers is None:
            # KFP warns that it ignores the images, which only clusters use.
            warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
            subprocess_task_handler.replace_python_executable = _with_python
            runner = local.SubprocessRunner(use_venv=False)
        else:
            create_for_user(artifacts, containers)
            runner = docker_runner(containers)
        local.init(runner=runner, pipeline_root=str(artifacts))
        pipeline = components.load_component_from_file(str(pipeline_file))
        with nullcontext() if containers else _stopped_before_next_step(forks):
            pipeline(**parameters)


def _with_python(command: list[str], executable: str) -> list[str]:
    """Replaces python3 only in the shell script that starts a step.

    KFP's own function replaces "python3" in the whole command, including parameter values, which would break
    the path of a folder named python3.
    """
    script = next(index for index, argument in enumerate(command) if "ephemeral_component.py" in argument)
    started = command[script].replace("python3 -m", f"{shlex.quote(executable)} -m")
    return [*command[:script], started, *command[script + 1 :]]


@contextmanager
def _stopped_before_next_step(forks: StepProcesses | None) -> Iterator[None]:
    """Makes SIGTERM end this process when the running step has ended.

    Until then it reads the output of the step, which would fail to write a checkpoint without a reader.

    Args:
        forks: Runs the steps; None = KFP does.
    """
    from kfp.local import status
    from kfp.local.subprocess_task_handler import SubprocessTaskHandler

    received: list[int] = []
    start = SubprocessTaskHandler.run

    def start_unless_stopped(task: SubprocessTaskHandler) -> status.Status:
        if received:
            sys.exit(EXIT_CODE_INTERRUPTED)
        if forks is None:
            return start(task)
        succeeded = forks.run(task.image, task.full_command, task.env_vars) == 0
        return status.Status.SUCCESS if succeeded else status.Status.FAILURE

    SubprocessTaskHandler.run = start_unless_stopped
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        SubprocessTaskHandler.run = start


def main() -> None:
    """Runs the request on stdin: ``{"pipeline": file, "parameters": {...}, "artifacts": folder}``.

    With ``"containers": {...}``, the fields of ``ContainerSettings``, steps run in containers.
    """
    request = json.load(sys.stdin)
    containers = ContainerSettings(**request["containers"]) if request.get("containers") else None
    try:
        # Step processes get the signal themselves; containers belong to the engine and do not.
        with stopped_by_signal() if containers else nullcontext():
            run(Path(request["pipeline"]), request["parameters"], Path(request["artifacts"]), containers)
    except RuntimeError as error:
        # The failed step has logged its error; KFP adds only the step's name.
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
