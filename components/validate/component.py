"""The validate step as a KFP component."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.validate import validate_to_files


def validate(
    dataset: Input[Dataset], report: Output[HTML], summary: Output[Artifact], arguments: ValidateArguments
) -> None:
    """Reads every record of the data set and fails, before a machine is rented, if training could not use it.

    Args:
        dataset: What the convert step made: a manifest and its shards.
        report: A page with the class balance, image sizes, sample pictures and every finding.
        summary: The same as JSON, without the pictures.
        arguments: What the training will ask of the data.
    """
    validate_to_files(Path(dataset.path), Path(report.path), Path(summary.path), arguments)
