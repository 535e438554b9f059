"""Reads the compiled pipelines."""

from pathlib import Path

import yaml

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


def spec_of(target, name="image_classification"):
    """Returns the pipeline spec, which is the first document of a compiled file."""
    return next(yaml.safe_load_all((COMPILED / target / f"{name}.yaml").read_text()))
