"""audit: what is likely wrong with a data set, as a page and a table to decide in."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.common.arguments import Group, flat_fields, from_values
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.decisions import check_undecided
from imgpipe.pipelines.commands.grouped_options import RUNNING, ArgumentCommand, argument_options, option
from imgpipe.pipelines.commands.run import exit_with_error, given_values
from imgpipe.pipelines.local_step import run_step
from imgpipe.pipelines.run_display import RunDisplay

_EXAMPLES = """
\b
Examples:
  imgpipe audit --images flowers/
  imgpipe audit --train-csv train.csv --output audits/first
  imgpipe run --images flowers/ --decisions audit/decisions.csv
"""


@click.command(cls=ArgumentCommand, epilog=_EXAMPLES, short_help="Find what is wrong with a data set.")
@option(
    "--dataset",
    group=Group.BASICS,
    metavar="FOLDER",
    help="Folder with the manifest.json of an already converted data set, e.g. "
    "imgpipe-runs/.../artifacts/.../dataset, in place of its images.",
)
@argument_options(ConvertArguments, AuditArguments)
@option(
    "--output",
    group=RUNNING,
    metavar="FOLDER",
    default="audit",
    show_default=True,
    help="Folder for audit.html, decisions.csv and audit.json; images that are not converted yet are "
    "converted to its folder data, unless --output-dir is set.",
)
def audit(dataset: str, output: str, **flags: Any) -> None:
    """Find what is wrong with a data set: wrong labels, copies, useless images, labels that files give away.

    The images are a folder with one subfolder per class (--images), CSV files (--train-csv), or a data set
    that is already converted (--dataset). Nothing is changed: write what you decide into the column action of
    decisions.csv, and convert or train with --decisions.
    """
    console = Console(stderr=True)
    given = given_values(flags)
    known = flat_fields([ConvertArguments])
    convert = {name: value for name, value in given.items() if name in known}
    try:
        arguments = from_values(AuditArguments, given)
        if dataset and (unused := sorted(convert.keys() - {"max_image_pixels"})):
            name = unused[0].replace("_", "-")
            raise InvalidArgumentError(
                f"--{name} is given together with --dataset {dataset}",
                remedy="use one of them: the data set is already converted",
            )
        if not dataset:
            from_values(ConvertArguments, given)
        # Before the conversion, which may take long.
        check_undecided(Path(output, "decisions.csv"))
        arguments.check_weights()
        if not dataset:
            dataset = convert.setdefault("output_dir", str(Path(output, "data")))
            run_step("convert", convert, RunDisplay(console))
        audited: dict[str, Any] = {
            name: given[name] for name in ("audit_model_type", "max_image_pixels") if name in given
        }
        run_step("audit", {**audited, "dataset": dataset, "output": output}, RunDisplay(console))
    except PipelineError as error:
        exit_with_error(error, console)
    click.echo(f"  page       {Path(output, 'audit.html')}")
    click.echo(f"  decisions  {Path(output, 'decisions.csv')}")
