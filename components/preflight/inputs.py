"""Checks that a run's input exists and its output folders can be written, without reading the data."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.common.model_folder import check_not_tensorflow_checkpoint
from imgpipe.components.common.plural import plural
from imgpipe.components.common.shared_arguments import NO_TARGET
from imgpipe.components.convert.decisions import read_decisions
from imgpipe.components.evaluate.slices_csv import read_slices_csv
from imgpipe.components.preflight.path_arguments import INPUT_KINDS, WILDCARD, path_arguments, paths_in
from imgpipe.components.storage import find_files, is_local, local_path, parse_location


def check_inputs(values: Mapping[str, Any]) -> None:
    """Checks that every file and folder exists that an argument names, and reads slices_csv and decisions.

    Raises:
        MissingInputError: naming the argument and what is there instead.
        InvalidDataError: if slices_csv or decisions is invalid.
        InterruptedRunError: if a store cannot be reached.
    """
    for name in path_arguments(*INPUT_KINDS):
        value = str(values.get(name) or "")
        if paths_in(name, value):
            found_input(name, value)
    if values.get("slices_csv"):
        # Otherwise only the evaluate step would read it, after the training.
        read_slices_csv(str(values["slices_csv"]))
    if values.get("decisions"):
        read_decisions(str(values["decisions"]))


def found_input(name: str, value: str) -> str:
    """Returns what an argument's value is: a number of files, a folder.

    Raises:
        MissingInputError: if there is nothing.
        InterruptedRunError: if its store cannot be reached.
    """
    try:
        # An input that may be a folder.
        if name in path_arguments(Kind.INPUT_IMAGES, Kind.INPUT_MODEL) and not WILDCARD.search(value):
            location = parse_location(value)
            if name in path_arguments(Kind.INPUT_MODEL):
                check_not_tensorflow_checkpoint(location)
            if location.is_folder():
                return f"{value} is a folder"
            if name in path_arguments(Kind.INPUT_IMAGES) and location.status() is not None:
                csv = value.lower().endswith(".csv")
                raise MissingInputError(
                    f"{value} is a file, not a folder",
                    remedy=f"use train_csv={value}" if csv else "use the folder of the images",
                )
            if name in path_arguments(Kind.INPUT_IMAGES) or location.status() is None:
                raise MissingInputError(f"the folder {value} does not exist", remedy="correct the path")
            return f"{value} is a file"
        return f"{value} is {plural(len(find_files(value)), 'file')}"
    except MissingInputError as error:
        remedy = error.remedy
        if name == "train_csv" and is_local(value) and local_path(value).is_dir():
            remedy = f"use images={value}"
        elif is_local(value) and _is_pod():
            remedy = "use a path in a bucket, gs:// or s3://, or below a volume that the pipeline mounts"
        raise MissingInputError(
            f"{name}={value!r}: {error.problem}", where=error.where, remedy=remedy
        ) from None


def _is_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def check_outputs(values: Mapping[str, Any]) -> None:
    """Checks that files can be written to every output folder; in a bucket, by writing one.

    Raises:
        OutputError: naming the argument and the reason.
        InterruptedRunError: if a store cannot be reached.
    """
    for name in path_arguments(Kind.OUTPUT_FOLDER):
        value = str(values.get(name) or "")
        if not value or (name == "deploy_dir" and values.get("deploy_target", NO_TARGET) == NO_TARGET):
            continue
        location = parse_location(value)
        if location.is_local:
            check_local_folder(name, Path(str(location)).absolute())
            continue
        try:
            location.check_writable()
        except OutputError as error:
            raise OutputError(
                f"{name}={value!r}: {error.problem}", where=error.where, remedy=error.remedy
            ) from None


def check_local_folder(name: str, folder: Path) -> None:
    """Checks that a local folder can be written, without creating it.

    Raises:
        OutputError: if not.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"{name}={str(folder)!r}: {str(existing)!r} cannot be written",
            remedy="use a folder that you may write to; in a pod, one on a volume or in a bucket",
        )
