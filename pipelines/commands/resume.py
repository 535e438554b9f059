"""resume: continues an interrupted run on this machine with its recorded arguments."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, PipelineError
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.storage import local_path
from imgpipe.pipelines.commands.grouped_options import (
    ArgumentCommand,
    argument_options,
    complete_run,
)
from imgpipe.pipelines.commands.run import exit_with_error, format_option, given_values, run_and_report
from imgpipe.pipelines.local_pipeline import RETRAIN, RUNS_FOLDER, TRAIN, TUNE, ContainerOptions, prepare_run
from imgpipe.pipelines.run_folder import RunFolder, is_unfinished, running_process
from imgpipe.pipelines.run_settings import RunSettings, read_settings

_EXAMPLES = """
\b
Examples:
  imgpipe resume                             the last run that was interrupted or failed
  imgpipe resume flowers/job                 the run in this folder
  imgpipe resume 20300102-030405             the run of this name in imgpipe-runs
  imgpipe resume flowers/job --max-steps 4000
"""


@click.command(cls=ArgumentCommand, epilog=_EXAMPLES, short_help="Continue an interrupted run.")
@click.argument("run", default="", metavar="[RUN]", shell_complete=complete_run)
@argument_options(*TUNE_PIPELINE_ARGUMENTS, default_of=lambda _: "")
@format_option
def resume(run: str, output_format: str, tune: tuple[str, ...], **flags: Any) -> None:
    """Continue RUN, a run of `imgpipe run` or `imgpipe tune` on this machine, with its recorded arguments.

    RUN is a run's folder, or its name in imgpipe-runs; by default the last run there that has not finished.
    Options change the recorded arguments. A finished run continues with a larger --max-steps.
    """
    console = Console(stderr=True)
    try:
        folder, settings = _find(run)
        pipeline = next(known for known in (TRAIN, RETRAIN, TUNE) if known.command == settings.command)
        changes = given_values({**flags, "tune": "; ".join(tune) or None})
        if unknown := sorted(changes.keys() - flat_fields(pipeline.inputs).keys()):
            raise InvalidArgumentError(
                f"`imgpipe {pipeline.command}`, which started this run, has no argument {unknown[0]}",
                remedy="omit it",
            )
        containers = settings.containers
        prepared = prepare_run(
            pipeline,
            {
                "recipe": settings.parameters["recipe"],
                **settings.arguments,
                **changes,
                "job_dir": str(folder.job_dir),
            },
            containers=ContainerOptions(containers["network"], tuple(containers["mounts"]))
            if containers
            else None,
        )
    except PipelineError as error:
        exit_with_error(error, console, output_format=output_format)
    run_and_report(prepared, console, output_format=output_format)


def _find(run: str) -> tuple[RunFolder, RunSettings]:
    """Returns the folder and the settings of a run.

    Raises:
        MissingInputError: if there is no such run.
    """
    runs = Path(RUNS_FOLDER)
    if not run:
        folders = [RunFolder(path.absolute()) for path in runs.iterdir()] if runs.is_dir() else []
        found = [
            (settings.started, str(folder.job_dir), folder, settings)
            for folder in folders
            if is_unfinished(folder) and not running_process(folder) and (settings := read_settings(folder))
        ]
        if not found:
            raise MissingInputError(
                f"there is no interrupted run in {str(runs.absolute())!r}",
                remedy="name the folder of the run: imgpipe resume FOLDER",
            )
        return max(found)[2:]
    path = next((path for path in (runs / run, local_path(run)) if path.is_dir()), None)
    if path is None:
        raise MissingInputError(
            f"there is no run {run!r}",
            remedy="use the folder of a run, its job_dir, or a name in imgpipe-runs",
        )
    folder = RunFolder(path.absolute())
    recorded = read_settings(folder)
    if recorded is None:
        raise MissingInputError(
            f"{str(folder.job_dir)!r} does not contain the arguments of a run",
            where=str(folder.settings),
            remedy=f"run the same command again with --job-dir {folder.job_dir}",
        )
    return folder, recorded
