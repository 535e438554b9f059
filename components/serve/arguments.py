"""The arguments of the server."""

from dataclasses import dataclass

from imgpipe.components.common.arguments import Group, Kind, argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage.files import local_path


@dataclass(frozen=True)
class ServeArguments:
    """What to serve, where, and how much of it at a time."""

    model: str = argument(
        "",
        "Folder that holds saved_model.pb, or one with numbered versions, of which the highest is served; a "
        "version that appears later takes over.",
        group=Group.BASICS,
        kind=Kind.INPUT_MODEL,
    )
    name: str = argument("", "The model's name in URLs. Empty = the name of the folder.", group=Group.BASICS)
    host: str = argument(
        "127.0.0.1",
        "Address to listen on. There is no authentication: leave it on this machine.",
        group=Group.BASICS,
    )
    port: int = argument(
        8501, "Port to listen on; 0 = any that is free.", group=Group.BASICS, minimum=0, maximum=65_535
    )
    max_batch_size: int = argument(
        32,
        "Images that go through the model together: those that arrived while it was busy.",
        group=Group.LIMITS,
        minimum=1,
    )
    max_waiting_images: int = argument(
        512,
        "Images that may wait; a request that would make them more is told to come back.",
        group=Group.LIMITS,
        minimum=1,
    )
    max_images_per_request: int = argument(128, "Images in one request.", group=Group.LIMITS, minimum=1)
    max_request_bytes: int = argument(32_000_000, "Size of a request's body.", group=Group.LIMITS, minimum=1)
    max_bytes_in_flight: int = argument(
        256_000_000,
        "Sum of the bodies of all requests that are read or answered; one that would make it more is told "
        "to come back.",
        group=Group.LIMITS,
        minimum=1,
    )
    max_image_pixels: int = argument(
        50_000_000,
        "Pixels of an image (width x height); a small file can claim gigapixels.",
        group=Group.LIMITS,
        minimum=1,
        maximum=2**32,
    )
    request_seconds: float = argument(
        10.0, "Time that a request has to arrive whole.", group=Group.LIMITS, above=0
    )
    poll_seconds: float = argument(
        2.0, "Time between two looks for a new version.", group=Group.LIMITS, above=0
    )

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if no model is named, or a value is not allowed.
        """
        check_fields(self)
        if not local_path(self.model).name:
            raise InvalidArgumentError(
                "--model is missing", remedy="give --model=FOLDER, e.g. the folder model of a run"
            )
        if self.max_images_per_request > self.max_waiting_images:
            raise InvalidArgumentError(
                f"max_images_per_request={self.max_images_per_request} is more than "
                f"max_waiting_images={self.max_waiting_images}",
                remedy="such a request could never be taken: raise the latter",
            )

    def model_name(self) -> str:
        """Returns the model's name in URLs."""
        return self.name or local_path(self.model).absolute().name
