"""The arguments of batch prediction."""

from dataclasses import dataclass
from functools import partial

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES

_INPUTS = ("images", "image_list", "records")
_basic_argument = partial(argument, group=Group.BASICS)
_prediction_argument = partial(argument, group=Group.PREDICTION)


@dataclass(frozen=True)
class BatchPredictArguments:
    """The model, the images and the output."""

    model: str = _basic_argument(
        "",
        "The model: a folder, local, gs:// or s3://, that contains saved_model.pb; the local folder of a "
        "run; or a folder of numbered versions, of which the highest is used.",
        kind=Kind.INPUT_MODEL,
    )
    images: str = _basic_argument(
        "",
        "Folder, local, gs:// or s3://, with the images, which may be in subfolders; or a pattern such as "
        "photos/*/*.jpg. Give exactly one of images, image_list and records.",
        kind=Kind.INPUT_IMAGES,
    )
    image_list: str = _basic_argument(
        "",
        "CSV file, local, gs:// or s3://, with image paths in the first column, UTF-8, without a header; or "
        'JSON Lines as for Vertex AI, {"content": PATH}. The paths are local, gs:// or s3://, absolute or '
        "relative to "
        "the file's folder. Give exactly one of images, "
        "image_list and records.",
        kind=Kind.INPUT_FILE,
    )
    records: str = _basic_argument(
        "",
        "TFRecord files: a path with *, ? or [1-9], or several separated by commas, local, gs:// or s3://. "
        "Labels are ignored. Give exactly one of images, image_list and records.",
        kind=Kind.INPUT_PATTERNS,
    )
    output_dir: str = _basic_argument(
        "",
        "Folder, local, gs:// or s3://, for the predictions: predictions-00000.jsonl and so on, and "
        "summary.json when all are complete. An interrupted run resumes when it is started again.",
        kind=Kind.OUTPUT_FOLDER,
    )
    top_k: int = _prediction_argument(5, "Number of classes in each line, most probable first.", minimum=1)
    batch_size: int = argument(32, "Images per batch.", group=Group.PREDICTION, minimum=1)
    images_per_file: int = _prediction_argument(
        5_000,
        "Lines per file. A resumed run keeps the files that are complete.",
        minimum=1,
    )
    max_image_pixels: int = shared_arguments.MAX_IMAGE_PIXELS
    max_image_bytes: int = argument(
        DEFAULT_MAX_IMAGE_BYTES, "Largest image file in bytes.", group=Group.DATA, minimum=1
    )

    def __post_init__(self) -> None:
        """Checks every value, then the combination.

        Raises:
            InvalidArgumentError: if a value is invalid or missing, or if more than one input is given.
        """
        check_fields(self)
        if not self.model:
            raise InvalidArgumentError("model is missing", remedy="set it to the model folder of a run")
        given = [name for name in _INPUTS if getattr(self, name)]
        if len(given) != 1:
            raise InvalidArgumentError(
                f"{' and '.join(given)} are given" if given else "no images are given",
                remedy=f"use one of {', '.join(_INPUTS)}",
            )
