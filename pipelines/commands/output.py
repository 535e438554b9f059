"""The forms of a command's answer: a table for a person, JSON or YAML for a program."""

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import parse_event

FORMATS = ("table", "json", "yaml")


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--format``."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Form of the answer on stdout; notices and errors go to stderr.",
    )(command)


def show_one(values: Mapping[str, Any], output_format: str) -> None:
    """Prints one thing: a line a field that is not empty, or the whole as JSON or YAML."""
    if output_format != "table":
        _print_structured(values, output_format)
        return
    shown = {name: value for name, value in values.items() if value not in ("", {}, [], None)}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        if isinstance(value, Mapping | list):
            click.echo(f"{name}:")
            text = yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=100)
            click.echo("".join(f"  {line}\n" for line in text.splitlines()), nl=False)
        else:
            click.echo(f"{name:<{width}}  {value}")


def show_many(rows: Sequence[Any], columns: Sequence[str], output_format: str) -> None:
    """Prints dataclass instances: a table of some fields, or all of them as JSON or YAML."""
    values = [dataclasses.asdict(row) for row in rows]
    if output_format != "table":
        _print_structured(values, output_format)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for value in values:
        table.add_row(*(str(value[column]) for column in columns))
    # Not cut to a width of 80 where nobody looks on.
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


def notice(text: str) -> None:
    """Tells a person something beside the answer."""
    click.echo(f"! {text}", err=True)


@contextmanager
def events_told() -> Iterator[None]:
    """Tells what the block logs for machines in words, on stderr: stdout is for the answer."""
    told = _Told()
    try:
        with contextlib.redirect_stdout(told):
            yield
    finally:
        told.finish()


class _Told(io.TextIOBase):
    """Takes lines of log; see ``events_told``."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        """Tells the lines that are whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            event = parse_event(line)
            notice(str(event["message"]) if event else line)
        return len(text)

    def finish(self) -> None:
        """Tells a last line that has no end."""
        if self._rest:
            self.write("\n")


def errors_told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command with the error's text on stderr and its exit code."""

    @wraps(command)
    def told(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except PipelineError as error:
            click.echo(click.style(f"error: {error}", fg="red"), err=True)
            if options.get("output_format") == "json":
                click.echo(
                    json.dumps(
                        {
                            "error": error.problem,
                            "where": error.where,
                            "remedy": error.remedy,
                            "exit_code": error.exit_code,
                            "retry_can_help": error.retry_can_help,
                        },
                        ensure_ascii=False,
                    )
                )
            sys.exit(error.exit_code)

    return told


def _print_structured(values: Any, output_format: str) -> None:
    if output_format == "json":
        click.echo(json.dumps(_plain(values), ensure_ascii=False, indent=1))
    else:
        click.echo(yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=100), nl=False)


def _plain(value: Any) -> Any:
    """Returns the value of plain dicts, lists and scalars."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
