"""The data_version step as a KFP component."""

# KFP reads its annotations as values: OutputPath(str) is a call.
# mypy: disable-error-code="valid-type"

from pathlib import Path

from kfp.dsl import OutputPath

from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.data_version.data_version import compute_data_version


def data_version(version: OutputPath(str), arguments: DataVersionArguments) -> None:
    """Computes the version of the input data: convert and validate are cached while it is unchanged.

    Args:
        version: The user's data_version, a digest of the files, or a unique text, which prevents caching.
        arguments: The input data, and optionally its version.
    """
    Path(version).write_text(compute_data_version(arguments))
