"""The data_version step as a KFP component."""

from pathlib import Path

from kfp.dsl import OutputPath

from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.data_version.data_version import compute_data_version


def data_version(version: OutputPath(str), arguments: DataVersionArguments) -> None:  # type: ignore[valid-type]
    """Names the state of the data, so that convert and validate are cached only while it stays the same.

    Args:
        version: The name: the user's, or a digest of what lies there, or one that never comes again.
        arguments: Where the data lies.
    """
    file = Path(version)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(compute_data_version(arguments))
