"""compare: the figures and the different arguments of two runs on this machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.commands.grouped_options import TARGET, GroupedCommand, complete_run, option
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_rows
from imgpipe.pipelines.run_folder import RunFolder
from imgpipe.pipelines.run_settings import DATA_ARGUMENTS, read_settings
from imgpipe.pipelines.targets.local_jobs import RUNS, LocalJobs

# Of the evaluation, in this order; those that a run lacks are left out.
_FIGURES = (
    *("top_1_accuracy", "top_5_accuracy", "mean_average_precision", "f1", "macro_f1", "loss"),
    "examples",
)
_EXAMPLES = """
\b
Examples:
  imgpipe compare 20300102-030405 20300102-040506
  imgpipe compare flowers/job1 flowers/job2 --format json
"""


@click.command(cls=GroupedCommand, epilog=_EXAMPLES, short_help="Compare two runs on this machine.")
@click.argument("first", shell_complete=complete_run)
@click.argument("second", shell_complete=complete_run)
@option(
    "--runs",
    group=TARGET,
    type=click.Path(path_type=Path),
    default=RUNS,
    show_default=True,
    help="The folder of the runs.",
)
@format_option
@exit_on_error
def compare(first: str, second: str, runs: Path, output_format: str) -> None:
    """Compare FIRST and SECOND: the figures of their models, and the arguments in which they differ.

    FIRST and SECOND are names in the folder of the runs, or folders of runs.
    """
    jobs = LocalJobs(runs.absolute())
    found = [jobs.describe(name) for name in (first, second)]
    folders = [RunFolder(Path(job.name)) for job in found]
    figures = [{"state": job.state, **_figures(folder)} for job, folder in zip(found, folders, strict=True)]
    settings = [_settings(folder) for folder in folders]
    names = [
        *(name for name in ("state", *_FIGURES) if any(name in values for values in figures)),
        *(name for name in settings[0] if settings[0][name] != settings[1][name]),
    ]
    values = [{**settings[index], **figures[index]} for index in (0, 1)]
    rows = [[name, values[0].get(name), values[1].get(name)] for name in names]
    show_rows(rows, ("name", first, second), output_format)
    if any(settings[0][name] != settings[1][name] for name in DATA_ARGUMENTS):
        notice("the runs have different data, so their figures may be of different images")


def _figures(folder: RunFolder) -> Mapping[str, Any]:
    for file in sorted(folder.artifacts.glob("*/evaluate/evaluation/metrics.json")):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        return {name: metrics[name] for name in _FIGURES if metrics.get(name) is not None}
    return {}


def _settings(folder: RunFolder) -> Mapping[str, Any]:
    """Returns the command and all parameters."""
    settings = read_settings(folder)
    defaults = {name: field.default for name, field in flat_fields(TUNE_PIPELINE_ARGUMENTS).items()}
    defaults.pop("job_dir")
    if settings is None:
        return {"command": "", **defaults}
    # The sample's files are in the run's folder.
    parameters = {name: settings.parameters.get(name, default) for name, default in defaults.items()}
    if not settings.data:
        parameters |= dict.fromkeys(DATA_ARGUMENTS, "")
    return {"command": settings.command, **parameters}
