"""This machine: the compiled pipeline run by kfp.local, each step a process or a container of its own."""

import json
import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from imgpipe.pipelines.targets.local_docker import (
    ContainerSettings,
    docker_runner,
    give_to_user,
    stopped_by_signal,
)
from imgpipe.pipelines.targets.target import Target

COMPILED = Path(__file__).parent.parent / "compiled"


def _place(_step: str, task: Any, _inputs: Mapping[str, Any]) -> None:
    task.set_caching_options(False)


LOCAL = Target("local", _place)


def run(
    pipeline_file: Path,
    parameters: dict[str, Any],
    artifacts: Path,
    containers: ContainerSettings | None = None,
) -> None:
    """Runs a compiled pipeline here; what the steps print goes to stdout.

    Args:
        pipeline_file: The compiled YAML.
        parameters: Of the pipeline; what is left out has its default.
        artifacts: The folder in which the run's artifacts are laid.
        containers: How the steps' containers are run; None = steps are processes of this environment.

    Raises:
        RuntimeError: by KFP, naming the task that failed.
    """
    from kfp import components, local
    from kfp.local import subprocess_task_handler

    if containers is None:
        # The images are meant for clusters; here every step runs in this environment.
        warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
        subprocess_task_handler.replace_python_executable = _with_python
        runner = local.SubprocessRunner(use_venv=False)
    else:
        give_to_user(artifacts, containers)
        runner = docker_runner(containers)
    local.init(runner=runner, pipeline_root=str(artifacts))
    pipeline = components.load_component_from_file(str(pipeline_file))
    pipeline(**parameters)


def _with_python(command: list[str], executable: str) -> list[str]:
    """Puts this interpreter into the shell script that starts a step, and nowhere else.

    KFP's own function replaces "python3" in every word of the command, parameter values included: a folder
    called python3 would be lost.
    """
    script = next(place for place, word in enumerate(command) if "ephemeral_component.py" in word)
    started = command[script].replace("python3 -m", f"{shlex.quote(executable)} -m")
    return [*command[:script], started, *command[script + 1 :]]


def main() -> None:
    """Runs what stdin asks for: ``{"pipeline": file, "parameters": {...}, "artifacts": folder}``.

    With ``"containers": {...}``, the fields of ``ContainerSettings``, the steps are containers.
    """
    request = json.load(sys.stdin)
    containers = ContainerSettings.from_json(request["containers"]) if request.get("containers") else None
    try:
        # Processes of the run's group get the signal themselves; containers are the engine's.
        with stopped_by_signal() if containers else nullcontext():
            run(Path(request["pipeline"]), request["parameters"], Path(request["artifacts"]), containers)
    except RuntimeError as error:
        # The step that failed has said why; KFP adds only its name.
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
