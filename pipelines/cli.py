"""The command line: ``imgpipe``."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import description_of, flat_fields
from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
)
from imgpipe.components.common.model_folder import model_folder_at
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.storage.files import local_path
from imgpipe.components.tune.search_space import block_in
from imgpipe.pipelines.commands.check import check
from imgpipe.pipelines.commands.completion import completion
from imgpipe.pipelines.commands.jobs import cancel, describe, list_, stream_logs
from imgpipe.pipelines.commands.output import events_told
from imgpipe.pipelines.commands.schedule import schedule
from imgpipe.pipelines.commands.submit import migrate, submit
from imgpipe.pipelines.local_pipeline import (
    RETRAIN,
    TRAIN,
    TUNE,
    ContainerOptions,
    LocalPipeline,
    prepare_run,
    run_prepared,
)
from imgpipe.pipelines.local_run import RunResult, StepFailedError
from imgpipe.pipelines.local_step import run_step
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.recipes import RECIPES
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder
from imgpipe.pipelines.texts import read_text

_RUN_EPILOG = """
\b
Examples:
  imgpipe run                                        the digits sample, about two minutes
  imgpipe run --images flowers/                      a folder a class
  imgpipe run --train-csv train.csv --validation-csv validation.csv
  imgpipe run --images flowers/ --model-type efficientnet-b0 --max-steps 2000
  imgpipe run --images scans/ --weights none --image-size 64
\b
Exit status: 0 if the model was published, otherwise
"""


_TUNE_EPILOG = """
\b
Examples:
  imgpipe tune --tune initial_learning_rate=log:0.001:0.2 --max-trials 6 --max-parallel-trials 2
  imgpipe tune --images flowers/ --tune weight_decay=log:1e-5:0.1 --tune train_batch_size=16,32,64
  imgpipe tune --config config.yaml --job-dir tuned
\b
Exit status: 0 if the model was published, otherwise
"""


class _Command(click.Command):
    """Takes --max_steps for --max-steps, as the original algorithm did."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings["token_normalize_func"] = lambda word: word.replace("_", "-")


@click.group()
@click.version_option(package_name="image-classification-pipeline", prog_name="imgpipe")
def imgpipe() -> None:
    """Labelled images in, the most accurate SavedModel out."""


def _options_of(
    *arguments_classes: type[Any], default_text: Callable[["dataclasses.Field[Any]"], str]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(flat_fields(arguments_classes).values()):
            command = click.option(
                "--" + field.name.replace("_", "-"),
                field.name,
                type=type(field.default),
                default=None,
                # As often as there is something to tune.
                multiple=field.name == "tune",
                metavar=type(field.default).__name__.upper().replace("STR", "TEXT"),
                help=description_of(field) + default_text(field),
            )(command)
        return command

    return decorate


def _runner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--mount",
            multiple=True,
            metavar="FOLDER",
            help="With --runner docker: a further folder that the steps may read, e.g. of images that a list "
            "names by absolute paths. The folders that other flags name need no mention.",
        ),
        click.option(
            "--network",
            default="none",
            show_default=True,
            help="With --runner docker: the engine's network that steps are connected to, e.g. bridge for "
            "data in Cloud Storage.",
        ),
        click.option(
            "--runner",
            type=click.Choice(["process", "docker"]),
            default="process",
            show_default=True,
            help="What a step runs in: a process, or a container of its image (`make images`), without "
            "network, with a read-only root and not as root.",
        ),
    ):
        command = option(command)
    return command


def _plain_default(field: "dataclasses.Field[Any]") -> str:
    return f"  [default: {field.default}]" if field.default != "" else ""


def _default_text(field: "dataclasses.Field[Any]") -> str:
    by_recipe = [
        f"{name}: {recipe.parameters[field.name]}"
        for name, recipe in RECIPES.items()
        if field.name in recipe.parameters
    ]
    default = [] if field.default == "" else [f"default: {field.default}"]
    return f"  [{'; '.join([*default, *by_recipe])}]" if default or by_recipe else ""


def _exit_codes() -> str:
    return "\n".join(
        f"  {error.exit_code}  {(error.__doc__ or '').splitlines()[0]}" for error in ERROR_CLASSES
    )


@imgpipe.command(cls=_Command, epilog=_RUN_EPILOG + _exit_codes())
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default=None,
    help="The settings to start from; every flag given goes before them. By default: digits without "
    "data; for your own images frozen-backbone, or from-scratch with --weights none, or fine-tune with "
    "--freeze none. " + " ".join(f"{name}: {recipe.description}." for name, recipe in RECIPES.items()),
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What stdout ends with: a summary for a person, or one JSON line.",
)
@click.option(
    "--retrain",
    is_flag=True,
    help="Start from the weights of the model that serves: give --deploy-target and --deploy-dir. While none "
    "serves yet, this changes nothing.",
)
@_runner_options
@_options_of(*PIPELINE_ARGUMENTS, default_text=_default_text)
def run(
    recipe: str | None,
    output_format: str,
    retrain: bool,
    runner: str,
    network: str,
    mount: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run the whole pipeline on this machine: convert, validate, train, evaluate, export, gate, deploy.

    The images come as a folder with a subfolder a class (--images), as CSV files of path,label
    (--train-csv), or as TFRecord files (--training-data-path). Without any of them, scikit-learn's digits
    are trained on.
    """
    containers = ContainerOptions(network, mount) if runner == "docker" else None
    _run_pipeline(RETRAIN if retrain else TRAIN, _given(flags), recipe, output_format, containers)


@imgpipe.command(cls=_Command, epilog=_TUNE_EPILOG + _exit_codes())
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default=None,
    help="The settings that all trials start from, as in `imgpipe run`.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="AI Platform's config.yaml, as it is: its hyperparameters block is taken, and nothing else.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What stdout ends with: a summary for a person, or one JSON line.",
)
@_runner_options
@_options_of(*TUNE_PIPELINE_ARGUMENTS, default_text=_default_text)
def tune(
    recipe: str | None,
    config: Path | None,
    output_format: str,
    runner: str,
    network: str,
    mount: tuple[str, ...],
    tune: tuple[str, ...],
    **flags: Any,
) -> None:
    """Try many values of the training's arguments on this machine and keep the best model.

    The pipeline of `imgpipe run` with many trainings, some at a time, in the place of one. A run that was
    interrupted goes on when it is started again with the same --job-dir.
    """
    given = _given(flags)
    if tune:
        given["tune"] = "; ".join(tune)
    containers = ContainerOptions(network, mount) if runner == "docker" else None
    _run_pipeline(TUNE, given, recipe, output_format, containers, config)


def _run_pipeline(
    pipeline: LocalPipeline,
    given: dict[str, Any],
    recipe: str | None,
    output_format: str,
    containers: ContainerOptions | None,
    config: Path | None = None,
) -> None:
    console = Console(stderr=True)
    try:
        if config is not None:
            text = read_text(config)
            block_in(text, where=str(config))
            given = {"hyperparameters": text, **given}
        prepared = prepare_run(pipeline, given, recipe=recipe, containers=containers)
        for line in (*prepared.warnings, prepared.title):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        result = run_prepared(prepared, RunDisplay(console))
    except PipelineError as error:
        _fail(error, output_format, console)
    if output_format == "json":
        click.echo(json.dumps(_summary(prepared.folder, result), ensure_ascii=False))
        return
    click.echo(f"\n  top-1 accuracy  {result.top_1_accuracy:.4f}")
    for name, path in _outputs(prepared.folder):
        if not path.exists():
            continue
        click.echo(f"  {name:<14}  {_shown(path)}")


@imgpipe.command(cls=_Command)
@_options_of(BatchPredictArguments, default_text=_plain_default)
def predict(**flags: Any) -> None:
    """Predict many images: a line of JSON for each, in files below --output-dir.

    The images come as a folder or a pattern (--images), a CSV file (--image-list) or TFRecord files
    (--records). A bad image costs its own line only. What was interrupted goes on when it is started again.
    """
    console = Console(stderr=True)
    try:
        given = _given(flags)
        arguments = BatchPredictArguments(**given)
        if not arguments.output_dir:
            raise InvalidArgumentError("--output-dir is missing", remedy="give --output-dir=FOLDER")
        run_step("batch_predict", [f"--{name}={value}" for name, value in given.items()], RunDisplay(console))
    except PipelineError as error:
        _fail(error, "text", console)
    click.echo(f"  predictions  {arguments.output_dir}")


@imgpipe.command(cls=_Command)
@_options_of(ServeArguments, default_text=_plain_default)
def serve(**flags: Any) -> None:
    """Serve a model on this machine, as TensorFlow Serving's REST API does.

    For trying a model out: there is no authentication. --model is the folder model of a run, or a folder with
    numbered versions as deploy_target=local makes it. Ends with Ctrl-C.
    """
    try:
        arguments = ServeArguments(**_given(flags))
        model_folder_at(local_path(arguments.model))
        # Imported here: TensorFlow takes seconds to load.
        from imgpipe.components.serve.server import serve as serve_model

        with events_told():
            serve_model(arguments)
    except PipelineError as error:
        _fail(error, "text", Console(stderr=True))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _outputs(folder: RunFolder) -> tuple[tuple[str, Path], ...]:
    return (
        ("model", folder.model),
        ("report", folder.report),
        ("trials", folder.tuning_report),
        ("data report", folder.data_report),
        ("logs", folder.log),
    )


def _shown(path: Path) -> str:
    """Returns the path from the current folder, if it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _summary(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    return {
        "model": str(folder.model),
        "report": str(folder.report),
        "data_report": str(folder.data_report),
        "logs": str(folder.log),
        "top_1_accuracy": result.top_1_accuracy,
        **({"trials": str(folder.trials)} if folder.trials.exists() else {}),
        "seconds": result.seconds,
        "overhead_seconds": result.overhead_seconds,
    }


def _fail(error: PipelineError, output_format: str, console: Console) -> NoReturn:
    step = error.step if isinstance(error, StepFailedError) else ""
    log = f"\nlog: {error.log}" if isinstance(error, StepFailedError) else ""
    console.print(
        f"\nerror{' in ' + step if step else ''}: {error}{log}",
        style="red",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if output_format == "json":
        click.echo(
            json.dumps(
                {
                    "error": error.problem,
                    "where": error.where,
                    "remedy": error.remedy,
                    "step": step,
                    "logs": str(error.log) if isinstance(error, StepFailedError) else "",
                    "exit_code": error.exit_code,
                    "retry_can_help": error.retry_can_help,
                },
                ensure_ascii=False,
            )
        )
    sys.exit(error.exit_code)


for _command in (submit, check, migrate, describe, list_, stream_logs, cancel, schedule, completion):
    imgpipe.add_command(_command)


def main() -> None:
    """Runs ``imgpipe``."""
    try:
        imgpipe.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(InvalidArgumentError.exit_code)
    except click.Abort:
        sys.exit(InterruptedRunError.exit_code)
