"""The two small files beside a SavedModel that say where it came from and how to deploy it."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from imgpipe.components.common.errors import MissingInputError

PROVENANCE_NAME = "provenance.json"
DEPLOYMENT_CONFIG_NAME = "deployment_config.yaml"
# Holds the model in further formats; servers of a SavedModel take no notice of it.
FORMATS_FOLDER = "formats"


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Writes ``provenance.json``: how the model came about, with our version added to ``versions``."""
    versions = {"imgpipe": _our_version(), **provenance.get("versions", {})}
    text = json.dumps({**provenance, "versions": versions}, ensure_ascii=False, indent=1, sort_keys=True)
    (folder / PROVENANCE_NAME).write_text(text + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Reads ``provenance.json``.

    Raises:
        MissingInputError: if there is none or it is no JSON object.
    """
    path = folder / PROVENANCE_NAME
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingInputError(
            f"cannot read {str(path)!r}: {error}", remedy="give the model folder that the train step wrote"
        ) from None
    if not isinstance(provenance, dict):
        raise MissingInputError(f"{str(path)!r} is not a JSON object", remedy="train the model again")
    return provenance


def write_deployment_config(folder: Path, *, global_step: int, job_id: str = "") -> None:
    """Writes ``deployment_config.yaml`` with the fields of the original algorithm.

    ``deploymentUri`` is ``.``: the folder in which the file lies, wherever it is moved to.
    """
    config = {
        "deploymentUri": ".",
        "framework": "TENSORFLOW",
        "labels": {"job_id": job_id, "global_step": str(global_step)},
        "runtimeVersion": ".".join(tensorflow_version().split(".")[:2]),
    }
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / DEPLOYMENT_CONFIG_NAME).write_text(text, encoding="utf-8")


def add_formats(folder: Path, formats: Sequence[Mapping[str, Any]]) -> None:
    """Lists further formats of a model in its two files.

    Args:
        folder: Of the model.
        formats: Each with ``format``, its name, ``file``, relative to the folder, and what else is known of
            it. In ``provenance.json`` that is ``formats``; in ``deployment_config.yaml`` each has ``format``
            and ``deploymentUri``.

    Raises:
        MissingInputError: if one of the files is not there.
    """
    write_provenance(folder, {**read_provenance(folder), "formats": [dict(one) for one in formats]})
    path = folder / DEPLOYMENT_CONFIG_NAME
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["formats"] = [{"format": one["format"], "deploymentUri": one["file"]} for one in formats]
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise MissingInputError(
            f"cannot read {str(path)!r}: {error}", remedy="give the model folder that the train step wrote"
        ) from None
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def tensorflow_version() -> str:
    """Returns the version of the TensorFlow that is installed, without importing it; "" if there is none."""
    for name in ("tensorflow-cpu", "tensorflow", "tensorflow-tpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _our_version() -> str:
    try:
        return version("image-classification-pipeline")
    except PackageNotFoundError:
        return ""
