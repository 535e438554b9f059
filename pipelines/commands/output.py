"""A command's result in its formats: a table to read, JSON or YAML for programs."""

import contextlib
import dataclasses
import errno
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from imgpipe.components.common.arguments import flat_fields, with_flags
from imgpipe.components.common.characters import escape_controls
from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import json_events, parse_event
from imgpipe.components.common.urls import redact_urls
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.commands.grouped_options import RUNNING, option

FORMATS = ("table", "json", "yaml")


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--format``."""
    decorate = option(
        "--format",
        "output_format",
        group=RUNNING,
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Format of the result on stdout; notices and errors go to stderr.",
    )
    decorated: Callable[..., Any] = decorate(command)
    return decorated


def show_one(values: Mapping[str, Any], output_format: str) -> None:
    """Prints one record: a line for each field that is not empty, or all of it as JSON or YAML."""
    if output_format != "table":
        _print_structured(values, output_format)
        return
    shown = {name: value for name, value in values.items() if value not in ("", {}, [], None)}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        if isinstance(value, Mapping | list):
            click.echo(f"{name}:")
            text = _yaml(value)
            click.echo("".join(f"  {line}\n" for line in text.splitlines()), nl=False)
        else:
            click.echo(f"{name:<{width}}  {escape_controls(str(value))}")


def show_many(
    rows: Sequence[Any],
    columns: Sequence[str],
    output_format: str,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Prints dataclass instances: a table of some fields, or all of them as JSON or YAML.

    Args:
        rows: The instances.
        columns: The fields in the table.
        output_format: One of ``FORMATS``.
        headers: Headers of columns whose field's name is not enough.
    """
    values = [dataclasses.asdict(row) for row in rows]
    if output_format != "table":
        _print_structured(values, output_format)
        return
    headings = [headers.get(column) or column.upper().replace("_", " ") for column in columns]
    _print_table([[value[column] for column in columns] for value in values], headings)


def show_rows(rows: Sequence[Sequence[Any]], columns: Sequence[str], output_format: str) -> None:
    """Prints rows of values as a table, or as a list of JSON or YAML objects with the columns' names."""
    if output_format == "table":
        _print_table(rows, columns)
    else:
        _print_structured([dict(zip(columns, row, strict=True)) for row in rows], output_format)


def _print_table(rows: Sequence[Sequence[Any]], headings: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        texts = (f"{value:.4f}" if isinstance(value, float) and 0.001 < value < 1 else value for value in row)
        table.add_row(*("" if text is None else escape_controls(str(text)) for text in texts))
    # Output to a file or a pipe is not wrapped at 80 columns.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


class _Output(io.FileIO):
    """The standard output or error of this process, which drops text that has no reader.

    Attributes:
        dropped: Whether the pipe or the terminal was closed.
    """

    dropped = False

    def write(self, data: Any) -> int:
        """Writes the data; a full disk is still an error."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self.dropped = True
            return len(data)


def survive_closed_output() -> None:
    """Lets this process continue when its output is closed, e.g. by ``| head`` or with the terminal."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Missing in a process without a terminal; otherwise a stream of Python's own.
        if isinstance(stream, io.TextIOWrapper) and stream.fileno() in (1, 2):
            output = _Output(stream.fileno(), "wb", closefd=False)
            buffered = stream.line_buffering or name == "stderr"
            text = io.TextIOWrapper(
                io.BufferedWriter(output), stream.encoding, stream.errors, line_buffering=buffered
            )
            stream.flush()
            setattr(sys, name, text)


def is_output_closed() -> bool:
    """Returns whether what this process writes to stdout is dropped."""
    return getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "dropped", False)


def notice(text: str) -> None:
    """Prints a notice on stderr; secrets in URLs are replaced, and control characters."""
    click.echo(f"! {escape_controls(redact_urls(text))}", err=True)


@contextmanager
def echo_events() -> Iterator[None]:
    """Prints the messages of the block's log events on stderr: stdout is for the result."""
    events = _EventEcho()
    try:
        with contextlib.redirect_stdout(events), json_events():
            yield
    finally:
        events.finish()


class _EventEcho(io.TextIOBase):
    """A stdout that prints the messages of log events as notices."""

    def __init__(self) -> None:
        self._partial = ""

    def write(self, text: str) -> int:
        """Prints the complete lines."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in filter(str.strip, lines):
            event = parse_event(line)
            notice(str(event["message"]) if event else line)
        return len(text)

    def finish(self) -> None:
        """Prints a last line without a line end."""
        if self._partial:
            self.write("\n")


def error_fields(error: PipelineError) -> dict[str, Any]:
    """Returns an error as ``--format json`` prints it."""
    return {
        "error": error.problem,
        "where": error.where,
        "remedy": error.remedy,
        "exit_code": error.exit_code,
        "retry_can_help": error.retry_can_help,
    }


def exit_on_error(command: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a command that raises a PipelineError print it on stderr and exit with its exit code.

    The training's arguments are written as flags.
    """

    @wraps(command)
    def with_exit(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except PipelineError as error:
            text = with_flags(str(error), flat_fields(TUNE_PIPELINE_ARGUMENTS))
            click.echo(click.style(f"error: {text}", fg="red"), err=True)
            if options.get("output_format") == "json":
                click.echo(json.dumps(error_fields(error), ensure_ascii=False))
            sys.exit(error.exit_code)

    return with_exit


def _print_structured(values: Any, output_format: str) -> None:
    if output_format == "json":
        click.echo(json.dumps(_plain(values), ensure_ascii=False, indent=1))
    else:
        click.echo(_yaml(values), nl=False)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _yaml(value: Any) -> str:
    return str(yaml.dump(_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def _plain(value: Any) -> Any:
    """Returns the value with only dicts, lists and scalars in it, which YAML can write."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
