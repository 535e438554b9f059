"""Predicts all images into JSON Lines files; a resumed run keeps the files that are complete."""

import hashlib
import json
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.inputs import InputImage, images_in_records, list_inputs
from imgpipe.components.batch_predict.worth_labelling import keep_least_sure, worth_labelling_csv
from imgpipe.components.common.errors import InvalidDataError, OutputError, os_error_remedy
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.model_folder import local_model, model_digest
from imgpipe.components.common.plural import plural
from imgpipe.components.common.provenance import PROVENANCE_NAME, read_provenance
from imgpipe.components.storage import Location, parse_location

if TYPE_CHECKING:
    from imgpipe.components.batch_predict.predictor import Predictor

SUMMARY_NAME, WORTH_LABELLING_NAME = "summary.json", "worth_labelling.csv"
_PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class PredictionSummary:
    """The result of a batch prediction.

    Attributes:
        images: The number of lines in all files.
        failed: The number of lines with an error.
        files: The number of files.
    """

    images: int
    failed: int
    files: int


def batch_predict(arguments: BatchPredictArguments, output_dir: str = "") -> PredictionSummary:
    """Writes one line per image, in the order of the input.

    A line has ``key`` and either ``class`` (0..N-1), ``label``, ``probability``, ``margin`` and ``top`` (the
    ``top_k`` most probable classes with the first three fields), or ``error`` for an image that is missing,
    damaged or too large. A table has the images with the smallest margins, whose labels a model would learn
    most from. Files are written atomically; when the run is started again with the same model, input and
    settings, it keeps the files that exist.

    Args:
        arguments: The model, the images and the output.
        output_dir: Folder for the predictions; empty = ``arguments.output_dir``.

    Raises:
        MissingInputError: if the model or the input is missing.
        InvalidDataError: if a TFRecord file or the list is damaged, or no image could be predicted.
        CheckFailedError: if the model is damaged.
        OutputError: if the folder has other files, or cannot be written.
        InterruptedRunError: if a remote store cannot be reached.
    """
    folder = parse_location(output_dir or arguments.output_dir)
    files = list_inputs(arguments)
    with local_model(parse_location(arguments.model)) as model_folder:
        plan = _plan(arguments, files, model_digest(model_folder))
        existing = _claim(folder, plan)
        if SUMMARY_NAME in existing:
            summary = PredictionSummary(**json.loads((folder / SUMMARY_NAME).read()))
            log_result(
                "batch_predict", f"{plural(summary.images, 'prediction')} already complete", **asdict(summary)
            )
            _check_any_predicted(summary, folder, arguments)
            return summary
        # Imported here so that missing inputs and finished runs are reported before TensorFlow is loaded.
        from imgpipe.components.batch_predict.predictor import Predictor
        from imgpipe.components.common.served_model import load_served_model

        model = load_served_model(model_folder)
        with closing(Predictor(model, arguments, multi_label=_is_multi_label(model_folder))) as predictor:
            summary = _write_files(arguments, files, folder, existing, predictor)
    _write(folder, SUMMARY_NAME, json.dumps(asdict(summary), indent=1) + "\n")
    images, files_written = plural(summary.images, "image"), plural(summary.files, "file")
    result = f"{images}, {summary.failed:,} with an error, in {files_written}"
    log_result("batch_predict", result, **asdict(summary))
    _check_any_predicted(summary, folder, arguments)
    return summary


def _is_multi_label(model_folder: Path) -> bool:
    # A SavedModel of another origin has no provenance.
    if not (model_folder / PROVENANCE_NAME).is_file():
        return False
    return bool(read_provenance(model_folder).get("multi_label", False))


def _check_any_predicted(
    summary: PredictionSummary, folder: Location, arguments: BatchPredictArguments
) -> None:
    """Rejects a prediction that failed for every image: the input or the model is not what was meant."""
    if summary.failed < summary.images:
        return
    name = _file_name(0)
    first = json.loads((folder / name).read().decode().partition("\n")[0])
    remedy = f"see the errors in {folder / name}"
    if arguments.image_list:
        remedy = f"check the paths in the list: they are relative to the folder of {arguments.image_list!r}"
    raise InvalidDataError(
        f"no image could be predicted; the first of {summary.images:,}, {first['key']!r}: {first['error']}",
        where=str(folder / name),
        remedy=remedy,
    )


def _plan(arguments: BatchPredictArguments, files: list[InputImage], model: str) -> dict[str, Any]:
    """Returns everything that the output depends on: equal plans give equal files."""
    digest = hashlib.sha256()
    for image in files:
        size, version = (image.status.size, image.status.version) if image.status else (-1, -1)
        text = json.dumps([image.key, str(image.location), size, version])
        digest.update(text.encode("utf-8", "backslashreplace"))
    return {
        "input_sha256": digest.hexdigest(),
        "model_sha256": model,
        # An earlier version's lines do not have it.
        "margin": True,
        "top_k": arguments.top_k,
        "batch_size": arguments.batch_size,
        "images_per_file": arguments.images_per_file,
        "max_image_pixels": arguments.max_image_pixels,
        "max_image_bytes": arguments.max_image_bytes,
    }


def _claim(folder: Location, plan: dict[str, Any]) -> set[str]:
    """Returns the files of an earlier run with the same plan; writes the plan if the folder is empty.

    Raises:
        OutputError: if the folder has other files.
    """
    names = {name for name in folder.contents() if not name.rpartition("/")[2].startswith(".")}
    if _PLAN_NAME in names:
        earlier = json.loads((folder / _PLAN_NAME).read())
        different = sorted(name for name, value in plan.items() if earlier.get(name) != value)
        if different:
            raise OutputError(
                f"{folder!r} has predictions of a different run: different {', '.join(different)}",
                remedy="set output_dir to a new folder, or remove the old predictions",
            )
        return names
    if names:
        raise OutputError(
            f"{folder!r} is not empty: it has {', '.join(sorted(names)[:5])}",
            remedy="set output_dir to a new or empty folder: existing files are never overwritten",
        )
    _write(folder, _PLAN_NAME, json.dumps(plan, indent=1) + "\n")
    return {_PLAN_NAME}


def _write_files(
    arguments: BatchPredictArguments,
    files: list[InputImage],
    folder: Location,
    existing: set[str],
    predictor: "Predictor",
) -> PredictionSummary:
    images = iter(images_in_records(files) if arguments.records else files)
    progress = Progress("batch_predict", 0 if arguments.records else len(files), "images")
    least_sure: list[dict[str, Any]] = []
    done = failed = number = 0
    while part := list(islice(images, arguments.images_per_file)):
        name = _file_name(number)
        if name in existing:
            log_event("file_kept", f"batch_predict: {name} is already complete", file=name)
            lines = (folder / name).read().decode().splitlines(keepends=True)
            progress.add(len(lines))
        else:
            lines = []
            for line in predictor.lines(part):
                lines.append(line)
                progress.add(1)
            _write(folder, name, "".join(lines))
        predictions = [json.loads(line) for line in lines]
        least_sure = keep_least_sure(least_sure, predictions)
        done += len(lines)
        failed += sum("error" in prediction for prediction in predictions)
        number += 1
    _write(folder, WORTH_LABELLING_NAME, worth_labelling_csv(least_sure))
    return PredictionSummary(done, failed, number)


def _file_name(number: int) -> str:
    return f"predictions-{number:05d}.jsonl"


def _write(folder: Location, name: str, text: str) -> None:
    try:
        (folder / name).write(text.encode())
    except OSError as error:
        raise OutputError(
            f"cannot write {name!r} to {folder!r}: {error.strerror or error}",
            remedy=os_error_remedy(error, "fix the permissions")
            + "; what was written is kept, and the run resumes",
        ) from None
