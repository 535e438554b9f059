"""predict: a model's predictions for a few images, as a table, or for many, as files."""

import csv
import json
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.errors import (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.common.plural import plural
from imgpipe.components.storage import is_local, local_path
from imgpipe.pipelines.commands.grouped_options import RUNNING, ArgumentCommand, argument_options, option
from imgpipe.pipelines.commands.output import show_rows
from imgpipe.pipelines.commands.run import exit_with_error, given_values
from imgpipe.pipelines.local_step import run_step
from imgpipe.pipelines.run_display import RunDisplay

_TABLE, _CSV, _JSON = "table", "csv", "json"
# Arguments of the many images, which FILES replaces.
_MANY = ("images", "image_list", "records", "output_dir")
_COLUMNS = ("file", "label", "probability", "error")


@click.command(cls=ArgumentCommand, short_help="Predict images.")
@click.argument(
    "files",
    nargs=-1,
    metavar="[FILE]...",
    shell_complete=lambda _context, _argument, text: [CompletionItem(text, type="file")],
)
@argument_options(BatchPredictArguments)
@option(
    "--format",
    "output_format",
    group=RUNNING,
    type=click.Choice((_TABLE, _CSV, _JSON)),
    default=_TABLE,
    show_default=True,
    help="Format of the predictions of FILE...",
)
def predict(files: tuple[str, ...], output_format: str, **flags: Any) -> None:
    """Predict images with a model: the FILEs as a table, or many images as files below --output-dir.

    Many images are a folder or a pattern (--images), a list (--image-list) or TFRecord files (--records).
    Each gets one line of JSON; for an image that cannot be read, the line has the error. Run the same command
    again to resume.
    """
    console = Console(stderr=True)
    given = given_values(flags)
    try:
        if files:
            _predict_files(files, given, output_format, console)
            return
        arguments = BatchPredictArguments(**given)
        if not arguments.output_dir:
            raise InvalidArgumentError(
                "--output-dir is missing",
                remedy="set --output-dir FOLDER; or, for a few images, name the files in place of --images",
            )
        run_step("batch_predict", given, RunDisplay(console))
    except PipelineError as error:
        exit_with_error(error, console)
    click.echo(f"  predictions  {arguments.output_dir}")


def _predict_files(
    files: tuple[str, ...], given: dict[str, Any], output_format: str, console: Console
) -> None:
    """Prints the predictions for the files.

    Raises:
        InvalidArgumentError: if the model is missing, or an argument for many images is set.
        InvalidDataError: if no file could be predicted.
    """
    unused = [f"--{name.replace('_', '-')}" for name in _MANY if given.get(name)]
    if unused:
        raise InvalidArgumentError(
            f"{unused[0]} cannot be combined with FILE arguments: {files[0]}",
            remedy=f"omit {unused[0]}, or the FILE arguments",
        )
    for file in files:
        if not is_local(file):
            continue
        if local_path(file).is_dir():
            raise InvalidArgumentError(
                f"{file} is a folder, not a file", remedy=f"use --images {file} --output-dir FOLDER"
            )
    if not any(not is_local(file) or local_path(file).exists() for file in files):
        raise MissingInputError(f"{files[0]} does not exist", remedy="correct the path")
    # Checks the model and the limits.
    arguments = BatchPredictArguments(**{**given, "images": files[0]})
    with console.status("loading the model"):
        # Imported here because it loads TensorFlow.
        from imgpipe import load

        model = load(arguments.model)
    rows: list[tuple[Any, ...]] = []
    for file in files:
        try:
            found = model.predict(file)
        except PipelineError as error:
            rows.append((file, "", "", error.problem))
        else:
            rows.append((file, found.label, found.probability, ""))
    if output_format == _JSON:
        values = [
            {name: value for name, value in zip(_COLUMNS, row, strict=True) if value != ""} for row in rows
        ]
        click.echo(json.dumps(values, ensure_ascii=False, indent=1))
    else:
        _show_rows(rows, output_format)
    if all(error for *_, error in rows):
        first, *_, problem = rows[0]
        raise InvalidDataError(f"{plural(len(rows), 'image')} could not be predicted: {problem}", where=first)


def _show_rows(rows: list[tuple[Any, ...]], output_format: str) -> None:
    shown = [
        (file, label, probability if error else f"{probability:.4f}", error)
        for file, label, probability, error in rows
    ]
    if output_format == _CSV:
        csv.writer(sys.stdout, lineterminator="\n").writerows([_COLUMNS, *shown])
        return
    width = 4 if any(error for *_, error in rows) else 3
    columns = [name.upper() for name in _COLUMNS[:width]]
    show_rows([row[:width] for row in shown], columns, output_format)
