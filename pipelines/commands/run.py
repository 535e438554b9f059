"""run and tune: a pipeline on this machine."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from imgpipe.components.common.arguments import Group, with_flags
from imgpipe.components.common.characters import escape_controls
from imgpipe.components.common.errors import ERROR_CLASSES, InvalidArgumentError, PipelineError
from imgpipe.components.common.fields_reader import read_text
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.train.recipes import default_of
from imgpipe.components.tune.search_space import block_in
from imgpipe.pipelines.commands.grouped_options import (
    CONTAINERS,
    RUNNING,
    ArgumentCommand,
    argument_options,
    option,
)
from imgpipe.pipelines.commands.output import error_fields
from imgpipe.pipelines.local_pipeline import (
    RETRAIN,
    TRAIN,
    TUNE,
    ContainerOptions,
    LocalPipeline,
    PreparedRun,
    prepare_run,
    run_prepared,
)
from imgpipe.pipelines.local_run import RunResult
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder

_EXIT_CODES = """
\b
Exit status: 0 if the model was published, otherwise
""" + "\n".join(
    f"  {error.exit_code}  {(error.__doc__ or '').partition(' EX_')[0]}" for error in ERROR_CLASSES
)

_RUN_EXAMPLES = """
\b
Examples:
  imgpipe run                                        the digits sample, about two minutes
  imgpipe run --images flowers/                      one subfolder per class
  imgpipe run --train-csv train.csv --validation-csv validation.csv
  imgpipe run --images flowers/ --model-type efficientnet-b0 --max-steps 2000
  imgpipe run --images scans/ --weights none --image-size 64
"""

_TUNE_EXAMPLES = """
\b
Examples:
  imgpipe tune --images flowers/ --max-minutes 60
  imgpipe tune --tune initial_learning_rate=log:0.001:0.2 --max-trials 6 --max-parallel-trials 2
  imgpipe tune --images flowers/ --tune weight_decay=log:1e-5:0.1 --tune train_batch_size=16,32,64
  imgpipe tune --config config.yaml --job-dir tuned
"""


format_option = option(
    "--format",
    "output_format",
    group=RUNNING,
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Result on stdout: a summary, or one line of JSON.",
)


def _local_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(
        (
            format_option,
            option(
                "--runner",
                group=CONTAINERS,
                type=click.Choice(["process", "docker"]),
                default="process",
                show_default=True,
                help="How a step runs: as a process, or in a container of its image (`make images`) without "
                "network, with a read-only root filesystem and not as root.",
            ),
            option(
                "--mount",
                group=CONTAINERS,
                multiple=True,
                metavar="FOLDER",
                help="With --runner docker: another folder that the steps may read, e.g. of images that a "
                "list names by absolute paths. Folders named by other options are mounted without it.",
            ),
            option(
                "--network",
                group=CONTAINERS,
                default="none",
                show_default=True,
                help="With --runner docker: the Docker network of the steps, e.g. bridge for data in Cloud "
                "Storage.",
            ),
        )
    ):
        command = decorate(command)
    return command


@click.command(
    cls=ArgumentCommand,
    epilog=_RUN_EXAMPLES + _EXIT_CODES,
    short_help="Run the whole pipeline on this machine.",
)
@argument_options(*PIPELINE_ARGUMENTS, default_of=default_of)
@option(
    "--retrain",
    group=Group.MODEL,
    is_flag=True,
    help="Start from the weights of the deployed model; needs --deploy-target and --deploy-dir. "
    "Ignored while no model is deployed.",
)
@_local_options
def run(retrain: bool, **options: Any) -> None:
    """Run the whole pipeline on this machine: convert, validate, train, evaluate, export, gate, deploy.

    The images are a folder with one subfolder per class (--images), CSV files of path,label (--train-csv), or
    TFRecord files (--training-data-path). Without any of them, it trains on scikit-learn's digits.
    """
    _run_pipeline(RETRAIN if retrain else TRAIN, **options)


@click.command(
    cls=ArgumentCommand,
    epilog=_TUNE_EXAMPLES + _EXIT_CODES,
    short_help="Search for the best hyperparameters on this machine.",
)
@argument_options(*TUNE_PIPELINE_ARGUMENTS, default_of=default_of)
@option(
    "--config",
    group=Group.TUNING,
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="AI Platform's config.yaml; only its hyperparameters block is read.",
)
@_local_options
def tune(config: Path | None, tune: tuple[str, ...], **options: Any) -> None:
    """Search for the best values of training arguments on this machine and keep the best model.

    It runs the pipeline of `imgpipe run` with many training trials, some of them in parallel. Without --tune
    and --config, it searches the learning rate, the weight decay, the augmentation and the network, except
    for those that you set. Run the same command again with the same --job-dir to resume an interrupted run.
    """
    _run_pipeline(TUNE, config, tune="; ".join(tune) or None, **options)


def given_values(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given."""
    return {name: value for name, value in flags.items() if value is not None}


def _run_pipeline(
    pipeline: LocalPipeline,
    config: Path | None = None,
    *,
    output_format: str,
    runner: str,
    network: str,
    mount: tuple[str, ...],
    **flags: Any,
) -> None:
    given = given_values(flags)
    containers = ContainerOptions(network, mount) if runner == "docker" else None
    console = Console(stderr=True)
    try:
        if mount and containers is None:
            raise InvalidArgumentError("--mount needs --runner docker", remedy="add it, or omit --mount")
        if config is not None:
            text = read_text(config)
            block_in(text, where=str(config))
            given = {"hyperparameters": text, **given}
        prepared = prepare_run(pipeline, given, containers=containers)
    except PipelineError as error:
        exit_with_error(error, console, output_format=output_format)
    run_and_report(prepared, console, output_format=output_format)


def run_and_report(prepared: PreparedRun, console: Console, *, output_format: str) -> None:
    """Runs a prepared run and prints its result, or its error and exits."""
    try:
        for line in (*prepared.warnings, prepared.title):
            text = _with_flags(escape_controls(line))
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        result = run_prepared(prepared, RunDisplay(console))
    except PipelineError as error:
        exit_with_error(error, console, output_format=output_format)
    if output_format == "json":
        click.echo(json.dumps(_summary(prepared.folder, result), ensure_ascii=False))
        return
    click.echo(f"\n  top-1 accuracy  {result.top_1_accuracy:.4f}")
    folder = prepared.folder
    for name, path in (
        ("model", folder.model),
        ("report", folder.report),
        ("predictions", folder.predictions),
        ("trials", folder.tuning_report),
        ("data report", folder.data_report),
        ("logs", folder.log),
    ):
        if path.exists():
            relative = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            click.echo(f"  {name:<14}  {relative}")


def _summary(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    return {
        "model": str(folder.model),
        "report": str(folder.report),
        "predictions": str(folder.predictions),
        "data_report": str(folder.data_report),
        "logs": str(folder.log),
        "top_1_accuracy": result.top_1_accuracy,
        "gate": result.gate,
        "deployment": result.deployment,
        **({"trials": str(folder.trials)} if folder.trials.exists() else {}),
        "seconds": result.seconds,
        "overhead_seconds": result.overhead_seconds,
    }


def exit_with_error(error: PipelineError, console: Console, *, output_format: str = "text") -> NoReturn:
    """Prints an error and exits with its exit code."""
    text = f"\nerror{error.step and f' in {error.step}'}: {_with_flags(str(error))}"
    text += error.log and f"\nlog: {error.log}"
    console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    if output_format == "json":
        fields = {**error_fields(error), "step": error.step, "logs": error.log}
        click.echo(json.dumps(fields, ensure_ascii=False))
    sys.exit(error.exit_code)


def _with_flags(text: str) -> str:
    """Returns a text with the arguments of the running command as flags."""
    options = click.get_current_context().command.params
    flags = [
        name for option in options if "--" + (name := option.name or "").replace("_", "-") in option.opts
    ]
    return with_flags(text, flags, hyphens=True)
