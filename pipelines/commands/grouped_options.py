"""Options in named groups, and the options that arguments dataclasses declare."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from imgpipe.components.common.arguments import (
    Group,
    Kind,
    description_of,
    flat_fields,
    nearest_name,
    with_flags,
)
from imgpipe.pipelines.targets.local_jobs import RUNS

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

# The groups of options that are not pipeline arguments; ``CONTAINERS`` comes last.
TARGET, JOB, MACHINES, IMAGES, NETWORK = "Target", "Job", "Machines", "Images", "Network and encryption"
RUNNING, IGNORED, CONTAINERS = "Running", "Accepted from gcloud and ignored", "Containers"
_ORDER = (*Group, TARGET, JOB, MACHINES, IMAGES, NETWORK, RUNNING, IGNORED, CONTAINERS)
_METAVARS = {
    Kind.INPUT_FILE: "FILE",
    Kind.INPUT_IMAGES: "FOLDER",
    Kind.INPUT_PATTERNS: "PATTERN",
    Kind.INPUT_MODEL: "PATH",
    Kind.OUTPUT_FOLDER: "FOLDER",
}


class Boolean(click.types.BoolParamType):
    """A boolean, whose error says what to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Returns the boolean; see ``click.ParamType``."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not true or false.", param, ctx)


class GroupedOption(click.Option):
    """An option with the name of the group under which ``--help`` lists it."""

    def __init__(self, *arguments: Any, group: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command that lists its options by group."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings["max_content_width"] = 110

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section for each group; options without a group, such as --help, run the command."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "group", RUNNING), []).append(record)
        for group in sorted(sections, key=_ORDER.index):
            with formatter.section(group):
                formatter.write_dl(sections[group])


class ArgumentCommand(GroupedCommand):
    """A command that takes ``--max_steps`` for ``--max-steps``, as the original algorithm did."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings["token_normalize_func"] = lambda word: word.replace("_", "-")
        # For an error that says more than click's.
        self.allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line; rejects values without an option, unknown options, and repeated ones."""
        try:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
        except click.NoSuchOption as error:
            names = [parameter.opts[0].removeprefix("--").replace("-", "_") for parameter in self.params]
            meant = nearest_name(error.option_name.lstrip("-").replace("-", "_"), names, prefix="--")
            text = f"there is no option {error.option_name}" + (
                "" if "valid names" in meant else f": {meant}"
            )
            raise click.NoSuchOption(error.option_name, text, ctx=ctx) from None
        for parameter, count in Counter(order).items():
            if count > 1 and not getattr(parameter, "multiple", False):
                raise click.UsageError(f"{parameter.opts[0]} is given {count} times: keep one", ctx)
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            name = "images" if "images" in ctx.params else "model"
            if ctx.params[name] or any(isinstance(parameter, click.Argument) for parameter in self.params):
                ctx.fail(
                    f"{rest[0]!r} follows another value; put a pattern in quotes, e.g. "
                    f"--{name} 'photos/*/*.jpg'"
                )
            ctx.fail(f"{rest[0]!r} is given without an option: write --{name} {rest[0]}")
        return rest


def option(*names: str, group: str, **settings: Any) -> Callable[..., Any]:
    """Declares an option of a ``GroupedCommand``, as ``click.option``; a text option defaults to ""."""
    if not settings.keys() & {"type", "is_flag", "multiple", "default"}:
        settings["default"] = ""
    return click.option(*names, cls=GroupedOption, group=group, show_envvar=True, **settings)


def argument_options(
    *arguments_classes: type[Any],
    default_of: Callable[["dataclasses.Field[Any]"], str] = lambda field: str(field.default),
) -> Callable[..., Any]:
    """Adds an option for each argument; an option that is not given has the value None.

    Args:
        *arguments_classes: Arguments dataclasses.
        default_of: Returns an argument's default for the help; empty = none.
    """
    fields = flat_fields(arguments_classes)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields.values()):
            kind = type(field.default)
            type_name = "TEXT" if kind is str else kind.__name__.upper()
            metavar = _METAVARS.get(field.metadata["kind"], type_name)
            text = with_flags(description_of(field), fields, hyphens=True)
            if field.name == "tune":
                metavar, text = "NAME=SPACE", f"{text} May be repeated."
            default = default_of(field)
            default = default.lower() if kind is bool else default
            command = option(
                "--" + field.name.replace("_", "-"),
                field.name,
                group=field.metadata["group"],
                type=Boolean() if kind is bool else kind,
                default=None,
                multiple=field.name == "tune",
                metavar=metavar,
                shell_complete=_completion(field),
                help=text + (f"  [default: {default}]" if default else ""),
            )(command)
        return command

    return decorate


def _completion(field: "dataclasses.Field[Any]") -> Completion:
    """Returns the function that completes an argument's value: a path, or one of its choices."""
    choices = field.metadata["choices"] or (("true", "false") if isinstance(field.default, bool) else ())
    if not field.metadata["kind"]:
        return lambda _context, _option, text: [
            CompletionItem(choice) for choice in choices if choice.startswith(text)
        ]
    folders = field.metadata["kind"] in (Kind.OUTPUT_FOLDER, Kind.INPUT_IMAGES)
    return lambda _context, _option, text: [CompletionItem(text, type="dir" if folders else "file")]


def complete_run(_context: click.Context, _argument: click.Parameter, text: str) -> list[CompletionItem]:
    """Completes the name of a run in ``imgpipe-runs``, or else a folder."""
    names = sorted(path.name for path in Path(RUNS).glob("*") if path.name.startswith(text))
    return [CompletionItem(name) for name in names] or [CompletionItem(text, type="dir")]
