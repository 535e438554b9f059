"""Reads the compiled pipelines."""

from pathlib import Path

import yaml

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


def file_of(target, name="image_classification"):
    """Returns the compiled file of a pipeline that has all arguments as inputs."""
    file = COMPILED / target / f"{name}_all_arguments.yaml"
    return file if file.exists() else COMPILED / target / f"{name}.yaml"


def spec_of(target, name="image_classification"):
    """Returns the spec of the pipeline with all arguments, the first document of a compiled file."""
    return next(yaml.safe_load_all(file_of(target, name).read_text()))


def form_of(name="image_classification"):
    """Returns the spec of a pipeline with a form."""
    return next(yaml.safe_load_all((COMPILED / "kubeflow" / f"{name}.yaml").read_text()))
