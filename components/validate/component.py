"""The validate step as a KFP component."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.validate import validate_to_files


def validate(
    dataset: Input[Dataset], report: Output[HTML], summary: Output[Artifact], arguments: ValidateArguments
) -> None:
    """Reads every record and fails if training could not use the data set, before a training machine starts.

    Args:
        dataset: The manifest and shards from the convert step.
        report: HTML page with the class balance, image sizes, sample images and findings.
        summary: The same as JSON, without the images.
        arguments: The training arguments that the data is checked against.
    """
    folder = Path(dataset.path)
    validate_to_files(read_manifest(folder), folder, Path(report.path), Path(summary.path), arguments)
