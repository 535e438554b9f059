"""The arguments of the server."""

from dataclasses import dataclass
from functools import partial

from imgpipe.components.common.arguments import Group, Kind, argument, check_fields
from imgpipe.components.common.engines import AUTO, ENGINES
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage import local_path

_basic_argument = partial(argument, group=Group.BASICS)
_limit_argument = partial(argument, group=Group.LIMITS)


@dataclass(frozen=True)
class ServeArguments:
    """The model, the address and the limits of the server."""

    model: str = _basic_argument(
        "",
        "Folder of a run or of a SavedModel, or a folder of numbered versions, of which the highest is "
        "served; a higher version that is added later replaces it.",
        kind=Kind.INPUT_MODEL,
    )
    name: str = argument("", "The model's name in URLs. Empty = the name of the folder.", group=Group.BASICS)
    engine: str = argument(
        AUTO,
        "What computes the network: tensorflow, onnxruntime, openvino (with a model that has an "
        "ONNX file, from imgpipe run --export-formats onnx or auto), or auto: the one that export found "
        "to be the fastest of equal accuracy, or tensorflow if export measured none or it is not "
        "installed here.",
        group=Group.BASICS,
        choices=(AUTO, *ENGINES),
    )
    host: str = _basic_argument(
        "127.0.0.1",
        "Address to listen on. There is no authentication: keep the server local.",
    )
    port: int = _basic_argument(8501, "Port to listen on; 0 = any free port.", minimum=0, maximum=65_535)
    max_batch_size: int = _limit_argument(
        32,
        "Largest batch: the images of requests that arrived while the model was busy.",
        minimum=1,
    )
    max_waiting_images: int = _limit_argument(
        512,
        "Largest number of waiting images; further requests get status 503.",
        minimum=1,
    )
    max_images_per_request: int = _limit_argument(128, "Largest number of images in a request.", minimum=1)
    max_request_bytes: int = _limit_argument(32_000_000, "Largest request body, in bytes.", minimum=1)
    max_bytes_in_flight: int = _limit_argument(
        256_000_000,
        "Largest total of the bodies of all requests in progress, in bytes; further requests get status 503.",
        minimum=1,
    )
    max_image_pixels: int = _limit_argument(
        50_000_000,
        "Largest number of pixels (width x height) of an image; a small file can decode to gigapixels.",
        minimum=1,
        maximum=2**32,
    )
    request_seconds: float = _limit_argument(
        10.0, "Seconds within which a request must arrive completely.", above=0
    )
    poll_seconds: float = _limit_argument(2.0, "Seconds between two checks for a new version.", above=0)

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if the model is missing or a value is invalid.
        """
        check_fields(self)
        if not local_path(self.model).name:
            raise InvalidArgumentError("model is missing", remedy="set it to a folder, e.g. that of a run")
        if self.max_images_per_request > self.max_waiting_images:
            raise InvalidArgumentError(
                f"max_images_per_request={self.max_images_per_request} is more than "
                f"max_waiting_images={self.max_waiting_images}",
                remedy="raise max_waiting_images: a request of that size would always be rejected",
            )

    def model_name(self) -> str:
        """Returns the model's name in URLs."""
        return self.name or local_path(self.model).absolute().name
