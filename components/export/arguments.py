"""The arguments of the export step."""

from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, argument, check_fields, nearest_name
from imgpipe.components.common.errors import InvalidArgumentError

TFLITE, TFLITE_INT8, ONNX, AUTO = "tflite", "tflite-int8", "onnx", "auto"
FORMATS = (TFLITE, TFLITE_INT8, ONNX)


@dataclass(frozen=True)
class ExportArguments:
    """Where the model goes, and what is asked of it."""

    job_dir: str = shared_arguments.JOB_DIR
    max_latency_ms: float = shared_arguments.MAX_LATENCY_MS
    export_formats: str = argument(
        "",
        "Additional formats of the model, separated by commas: tflite, tflite-int8 (calibrated with "
        "training images), onnx, or auto: those installed, of which the fastest of equal accuracy is named. "
        "Each is measured on the evaluation's images and written to formats/ beside the SavedModel; its "
        "input is decoded pixels, uint8. Empty = none.",
        group=Group.EXPORT,
    )
    export_max_accuracy_loss: float = argument(
        0.01,
        "For export_formats=auto: the accuracy counts as equal if the 95% confidence interval of the loss "
        "of top-1 accuracy contains 0 or a gain, and its end is at most this.",
        group=Group.EXPORT,
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if job_dir is a URL of another kind, or there is no such format.
        """
        check_fields(self)
        for name in self._names():
            if name not in (*FORMATS, AUTO):
                raise InvalidArgumentError(
                    f"export_formats={self.export_formats!r}: there is no format {name!r}",
                    remedy=nearest_name(name, (*FORMATS, AUTO)),
                )

    def formats(self) -> tuple[str, ...]:
        """Returns the further formats that are named, each once."""
        return tuple(name for name in self._names() if name != AUTO)

    def is_auto(self) -> bool:
        """Whether to convert to the installed formats and to name the fastest."""
        return AUTO in self._names()

    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (part.strip() for part in self.export_formats.split(",")))))
