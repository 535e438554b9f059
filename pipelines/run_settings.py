"""What a run was started with, recorded in its folder: it can be resumed, listed and compared."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from imgpipe.components.common.arguments import Kind, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.preflight.path_arguments import DATA_KINDS, INPUT_KINDS, path_arguments, paths_in
from imgpipe.components.storage import atomic_write, parse_location
from imgpipe.pipelines.run_folder import RunFolder

# Without any of these, a run trains on the digits sample.
DATA_ARGUMENTS = tuple(
    name for name in path_arguments(*DATA_KINDS) if name in ConvertArguments.__dataclass_fields__
)


@dataclass(frozen=True)
class RunSettings:
    """What a run was started with.

    Attributes:
        command: ``run``, ``run --retrain`` or ``tune``.
        arguments: The arguments that the user set, without ``job_dir``; local paths are absolute.
        parameters: These and the recipe's name; all others have the pipeline's defaults.
        containers: The fields of ``ContainerOptions``; None = the steps are processes.
        started: When it was started last, ISO 8601, UTC.
    """

    command: str
    arguments: Mapping[str, Any]
    parameters: Mapping[str, Any]
    containers: Mapping[str, Any] | None = None
    started: str = dataclasses.field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def data(self) -> str:
        """The paths of the data; empty for the digits sample."""
        return ", ".join(str(self.arguments[name]) for name in DATA_ARGUMENTS if self.arguments.get(name))

    @property
    def options(self) -> dict[str, Any]:
        """The arguments other than the data."""
        return {name: value for name, value in self.arguments.items() if name not in DATA_ARGUMENTS}

    @property
    def command_line(self) -> str:
        """A command that starts the same run in a new folder."""
        words = ["imgpipe", *self.command.split()]
        for name, value in self.arguments.items():
            # A flag of its own for each tuned argument.
            values = value.split("; ") if name == "tune" else [value]
            for each in values:
                text = str(each).lower() if isinstance(each, bool) else str(each)
                words.append(f"--{name.replace('_', '-')}={text}")
        if self.containers is not None:
            words += ["--runner=docker"]
        return shlex.join(words)

    def write(self, folder: RunFolder) -> None:
        """Writes the settings to the run's folder."""
        with atomic_write(folder.settings) as file:
            text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)
            file.write_text(text + "\n", encoding="utf-8")


def absolute_paths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with absolute local paths, so that they can be used in another folder."""
    names = path_arguments(*INPUT_KINDS, Kind.OUTPUT_FOLDER)
    return {
        name: ",".join(str(parse_location(path).absolute()) for path in paths)
        if name in names and (paths := paths_in(name, value))
        else value
        for name, value in arguments.items()
    }


def read_settings(folder: RunFolder) -> RunSettings | None:
    """Returns the settings of the run in a folder; None if there are none, e.g. of an earlier version."""
    try:
        return RunSettings(**json.loads(folder.settings.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def changed_parameters(
    before: Mapping[str, Any], now: Mapping[str, Any], arguments_classes: tuple[type[Any], ...]
) -> list[str]:
    """Returns e.g. ``max_steps was 30, is 60`` for each parameter that differs, except for ``job_dir``."""
    defaults = {name: field.default for name, field in flat_fields(arguments_classes).items()}
    values = [(name, before.get(name, default), now.get(name, default)) for name, default in defaults.items()]
    return [f"{name} was {old}, is {new}" for name, old, new in values if name != "job_dir" and old != new]
