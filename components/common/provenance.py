"""The two small files beside a SavedModel that record how it was trained and how to deploy it."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from imgpipe import __version__
from imgpipe.components.common.errors import MissingInputError, must_be_readable
from imgpipe.components.images.resize_modes import STRETCH
from imgpipe.components.storage import uri_of_mounted

PROVENANCE_NAME = "provenance.json"
DEPLOYMENT_CONFIG_NAME = "deployment_config.yaml"
# The image formats that a model decodes: those of TensorFlow 2.6, or those of TensorFlow 2.20.
SERVING_FORMATS = "jpeg,png,gif,bmp"
SERVING_FORMATS_WITH_WEBP = f"{SERVING_FORMATS},webp"
# The folder of the model in other formats; servers of a SavedModel ignore it.
FORMATS_FOLDER = "formats"
# The sketch of the evaluation's embeddings, see ``drift``.
DRIFT_NAME = "drift.npz"
# Set in the containers of a job.
JOB_ID_VARIABLE = "IMGPIPE_JOB_ID"
_REMEDY = "use the model folder that the train step wrote"


def write_provenance(folder: Path, provenance: dict[str, Any]) -> None:
    """Writes ``provenance.json``: how the model was trained, with imgpipe's version added to ``versions``."""
    versions = {"imgpipe": __version__, **provenance.get("versions", {})}
    text = json.dumps({**provenance, "versions": versions}, ensure_ascii=False, indent=1, sort_keys=True)
    (folder / PROVENANCE_NAME).write_text(text + "\n", encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Reads ``provenance.json``.

    Raises:
        MissingInputError: if it is missing or not a JSON object.
    """
    return read_json_object(folder / PROVENANCE_NAME, remedy=_REMEDY)


def read_json_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a JSON file that another step wrote.

    Raises:
        MissingInputError: if it is missing or not a JSON object.
    """
    with must_be_readable(repr(str(path)), ValueError, remedy=remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise MissingInputError(f"{str(path)!r} is not a JSON object", remedy=remedy)
    return content


def write_deployment_config(
    folder: Path, *, global_step: int, serving_formats: str = SERVING_FORMATS, resize: str = STRETCH
) -> None:
    """Writes ``deployment_config.yaml`` with the fields of the original algorithm.

    ``deploymentUri`` is ``.``, the file's own folder, so that the folder can be moved; a job sets it, see
    ``set_deployment_uri``. ``job_id`` is the id with which the job was submitted. Three fields are ours:
    ``minimumRuntimeVersion``, the oldest TensorFlow that loads the model, ``servingFormats``, and ``resize``,
    how an application makes the square that the other formats take.
    """
    config = {
        "deploymentUri": ".",
        "framework": "TENSORFLOW",
        "labels": {"job_id": os.environ.get(JOB_ID_VARIABLE, ""), "global_step": str(global_step)},
        "runtimeVersion": ".".join(tensorflow_version().split(".")[:2]),
        "minimumRuntimeVersion": "2.20" if serving_formats == SERVING_FORMATS_WITH_WEBP else "2.6",
        "servingFormats": serving_formats,
        "resize": resize,
    }
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / DEPLOYMENT_CONFIG_NAME).write_text(text, encoding="utf-8")


def set_deployment_uri(folder: Path, location: str) -> None:
    """Writes where the model is published to ``deployment_config.yaml``, as the original algorithm did.

    Args:
        folder: A model folder, before it is published.
        location: Where; a path below ``/gcs`` is written as ``gs://``.
    """
    _update_deployment_config(folder, {"deploymentUri": uri_of_mounted(location)})


def add_formats(folder: Path, formats: Sequence[Mapping[str, Any]]) -> None:
    """Adds other formats of a model to its two files.

    Args:
        folder: The model folder.
        formats: Each with its name ``format``, its path ``file`` relative to the folder, and optional
            details. ``formats`` in ``provenance.json`` has all of it; ``formats`` in
            ``deployment_config.yaml`` has ``format`` and ``deploymentUri``.

    Raises:
        MissingInputError: if one of the files is missing.
    """
    write_provenance(folder, {**read_provenance(folder), "formats": [dict(entry) for entry in formats]})
    listed = [{"format": entry["format"], "deploymentUri": entry["file"]} for entry in formats]
    _update_deployment_config(folder, {"formats": listed})


def add_candidates(
    folder: Path,
    candidates: Sequence[Mapping[str, Any]],
    *,
    fastest: Mapping[str, Any],
    served: Mapping[str, Any],
) -> None:
    """Adds what was measured to a model's two files.

    Args:
        folder: The model folder.
        candidates: Each with ``format``, ``engine``, ``precision`` and the measurements. ``candidates`` in
            ``provenance.json`` has all of it.
        fastest: The fastest of equal accuracy: ``fastest`` in ``deployment_config.yaml``.
        served: The fastest that ``imgpipe serve`` can serve: ``servingEngine`` there.

    Raises:
        MissingInputError: if one of the files is missing.
    """
    write_provenance(folder, {**read_provenance(folder), "candidates": [dict(entry) for entry in candidates]})
    names = ("format", "engine", "precision")
    _update_deployment_config(
        folder,
        {
            "fastest": {name: fastest[name] for name in names},
            "servingEngine": {
                **{name: served[name] for name in names},
                "largestDifference": served["largest_difference"],
            },
        },
    )


def read_serving_engine(folder: Path) -> tuple[str, str, float] | None:
    """Returns the engine that the export step found to be the fastest, with its precision and difference.

    The difference is the largest of a probability from the SavedModel's. None if it did not measure any.
    """
    try:
        config = yaml.safe_load((folder / DEPLOYMENT_CONFIG_NAME).read_text(encoding="utf-8"))
        entry = config["servingEngine"]
        return str(entry["engine"]), str(entry["precision"]), float(entry["largestDifference"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError):
        return None


def _update_deployment_config(folder: Path, fields: Mapping[str, Any]) -> None:
    path = folder / DEPLOYMENT_CONFIG_NAME
    with must_be_readable(repr(str(path)), yaml.YAMLError, TypeError, remedy=_REMEDY):
        config = {**yaml.safe_load(path.read_text(encoding="utf-8")), **fields}
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def tensorflow_version() -> str:
    """Returns the installed TensorFlow's version without importing it; "" if it is not installed."""
    for name in ("tensorflow-cpu", "tensorflow", "tensorflow-tpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
