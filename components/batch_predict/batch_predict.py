"""Predicts every image of an input, into files of JSON lines that a second run does not make again."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.inputs import InputImage, images_of_records, listed_files
from imgpipe.components.common.errors import OutputError
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.model_folder import local_model, model_digest
from imgpipe.components.storage.folders import Folder, folder_at

if TYPE_CHECKING:
    from imgpipe.components.batch_predict.predictor import Predictor

SUMMARY_NAME = "summary.json"
_PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class PredictionSummary:
    """What a batch prediction came to.

    Attributes:
        images: Lines in all files.
        failed: Those that hold an error.
        files: How many files there are.
    """

    images: int
    failed: int
    files: int


def batch_predict(arguments: BatchPredictArguments, output_dir: str = "") -> PredictionSummary:
    """Writes a line for every image, in the order of the input.

    A line has ``key`` and either ``class`` (0..N-1), ``label``, ``probability`` and ``top`` (the ``top_k``
    most probable classes with the same three), or ``error``: an image that is missing, damaged or too
    large costs its own line only. Each file appears whole; when the run is started again, files that are
    there are kept, provided that model, input and settings are the same.

    Args:
        arguments: Which model, which images.
        output_dir: Where to; empty = ``arguments.output_dir``.

    Raises:
        MissingInputError: if the model or the input is not there.
        InvalidDataError: if a TFRecord file or the list is damaged.
        CheckFailedError: if the model is damaged.
        OutputError: if the folder holds something else, or cannot be written.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    folder = folder_at(output_dir or arguments.output_dir)
    files = listed_files(arguments)
    with local_model(arguments.model) as model_folder:
        plan = _plan(arguments, files, model_digest(model_folder))
        names = _claimed(folder, plan)
        if SUMMARY_NAME in names:
            summary = PredictionSummary(**json.loads(folder.read(SUMMARY_NAME)))
            log_result(
                "batch_predict", f"{summary.images:,} predictions were there already", **asdict(summary)
            )
            return summary
        # Only now: what is missing, in the way or done already is said without waiting for TensorFlow.
        from imgpipe.components.batch_predict.predictor import Predictor
        from imgpipe.components.common.served_model import load_served_model

        predictor = Predictor(load_served_model(model_folder), arguments)
        try:
            summary = _write_files(arguments, files, folder, names, predictor)
        finally:
            predictor.close()
    _write(folder, SUMMARY_NAME, json.dumps(asdict(summary), indent=1) + "\n")
    log_result(
        "batch_predict",
        f"{summary.images:,} images, {summary.failed:,} with an error, in {summary.files:,} files",
        **asdict(summary),
    )
    return summary


def _plan(arguments: BatchPredictArguments, files: list[InputImage], model: str) -> dict[str, Any]:
    """Returns what the lines depend on: equal plans, equal files."""
    digest = hashlib.sha256()
    for image in files:
        text = json.dumps([image.key, image.location, image.size, image.version])
        digest.update(text.encode("utf-8", "backslashreplace"))
    return {
        "input_sha256": digest.hexdigest(),
        "model_sha256": model,
        "top_k": arguments.top_k,
        "batch_size": arguments.batch_size,
        "images_per_file": arguments.images_per_file,
        "max_image_pixels": arguments.max_image_pixels,
        "max_image_bytes": arguments.max_image_bytes,
    }


def _claimed(folder: Folder, plan: dict[str, Any]) -> set[str]:
    """Returns the files that an earlier run of the same plan left; makes the folder ours if it is empty.

    Raises:
        OutputError: if it holds anything else.
    """
    names = {name for name in folder.names() if not name.rpartition("/")[2].startswith(".")}
    if _PLAN_NAME in names:
        earlier = json.loads(folder.read(_PLAN_NAME))
        different = sorted(name for name, value in plan.items() if earlier.get(name) != value)
        if different:
            raise OutputError(
                f"{folder.location!r} holds predictions of another run: {', '.join(different)} differ",
                remedy="name a new output_dir, or remove the old predictions",
            )
        return names
    if names:
        raise OutputError(
            f"{folder.location!r} is not empty: it holds {', '.join(sorted(names)[:5])}",
            remedy="name a new output_dir; nothing is overwritten",
        )
    _write(folder, _PLAN_NAME, json.dumps(plan, indent=1) + "\n")
    return {_PLAN_NAME}


def _write_files(
    arguments: BatchPredictArguments,
    files: list[InputImage],
    folder: Folder,
    names: set[str],
    predictor: "Predictor",
) -> PredictionSummary:
    images = iter(images_of_records(files) if arguments.records else files)
    progress = Progress("batch_predict", 0 if arguments.records else len(files), "images")
    done = failed = number = 0
    while part := _taken(images, arguments.images_per_file):
        name = f"predictions-{number:05d}.jsonl"
        if name in names:
            log_event("file_kept", f"batch_predict: {name} is there already", file=name)
            lines = folder.read(name).decode().splitlines(keepends=True)
        else:
            lines = list(_counted(predictor.lines(part), progress, done))
            _write(folder, name, "".join(lines))
        done += len(lines)
        failed += sum("error" in json.loads(line) for line in lines)
        number += 1
    return PredictionSummary(done, failed, number)


def _taken(images: Iterator[InputImage], count: int) -> list[InputImage]:
    return list(islice(images, count))


def _counted(lines: Iterable[str], progress: Progress, done: int) -> Iterator[str]:
    for count, line in enumerate(lines, start=done + 1):
        yield line
        progress.update(count)


def _write(folder: Folder, name: str, text: str) -> None:
    try:
        folder.write(name, text.encode())
    except OSError as error:
        raise OutputError(
            f"cannot write {name!r} to {folder.location!r}: {error.strerror or error}",
            remedy="free some space, or name a folder that you may write to; the same run goes on there",
        ) from None
