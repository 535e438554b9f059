"""Options in named groups, and the options that arguments dataclasses declare."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from imgpipe.components.common.arguments import Group, Kind, description_of, flat_fields, nearest_name
from imgpipe.pipelines.recipes import RECIPES

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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line; rejects unknown options with what was meant, and repeated ones."""
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
        return super().parse_args(ctx, args)


def option(*names: str, group: str, **settings: Any) -> Callable[..., Any]:
    """Declares an option of a ``GroupedCommand``, as ``click.option``; a text option defaults to ""."""
    if not settings.keys() & {"type", "is_flag", "multiple", "default"}:
        settings["default"] = ""
    return click.option(*names, cls=GroupedOption, group=group, show_envvar=True, **settings)


def argument_options(*arguments_classes: type[Any], recipes: bool = False) -> Callable[..., Any]:
    """Adds an option for each argument; an option that is not given has the value None.

    Args:
        *arguments_classes: Arguments dataclasses.
        recipes: Whether the help names the values of recipes, too.
    """
    fields = flat_fields(arguments_classes)
    flags = "|".join(name for name in fields if "_" in name)
    # Not in job_dir/model and 1..num_classes. A word such as images is a name only in a list of names.
    names = re.compile(
        rf"(?<![./\w])(?:({flags})(?![/\w])|({'|'.join(fields)})(?=(?:, | and | or )(?:{flags})\b))"
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(fields.values()):
            text = names.sub(lambda match: "--" + match[0].replace("_", "-"), description_of(field))
            kind = type(field.default)
            type_name = "TEXT" if kind is str else kind.__name__.upper()
            command = option(
                "--" + field.name.replace("_", "-"),
                field.name,
                group=field.metadata["group"],
                type=kind,
                default=None,
                multiple=field.name == "tune",
                metavar=_METAVARS.get(field.metadata["kind"], type_name),
                help=text + _defaults(field, recipes=recipes),
            )(command)
        return command

    return decorate


def _defaults(field: "dataclasses.Field[Any]", *, recipes: bool) -> str:
    defaults = [] if field.default == "" else [f"default: {field.default}"]
    if recipes:
        defaults += [
            f"{name}: {recipe.parameters[field.name]}"
            for name, recipe in RECIPES.items()
            if field.name in recipe.parameters
        ]
    return f"  [{'; '.join(defaults)}]" if defaults else ""
