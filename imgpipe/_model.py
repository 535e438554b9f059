"""A trained model in this process: images in, labels and probabilities out."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imgpipe._options import checked_path
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, must_be_readable
from imgpipe.components.common.plural import plural

if TYPE_CHECKING:
    from imgpipe._run import Run
    from imgpipe.components.common.served_model import ServedModel

# A file's path or content, a picture of Pillow's, or pixels: uint8 [height, width], [height, width, 1],
# [height, width, 3] (RGB) or [height, width, 4] (RGBA).
ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

# Modes of PIL that are not one of PNG's 8-bit modes, and the one that holds the same picture.
_PNG_MODES = {"1": "L", "LA": "RGBA", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}

# They could be iterated, but not over images.
_NOT_LISTS = (bytearray, memoryview, io.IOBase, Mapping)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's prediction for one image.

    Attributes:
        key: The image's path, or its position in the list if it has none.
        labels: The model's labels, in the order of ``probabilities``.
        probabilities: float32 [labels]. They sum to 1, or each is independent if the model is multi-label.
        true_labels: The image's own labels where they are known (``Run.predictions``); otherwise empty.
    """

    key: str
    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    true_labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The most probable label; of equally probable ones the first."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """The probability of ``label``."""
        return float(self.probabilities.max())

    @property
    def correct(self) -> bool | None:
        """Whether ``label`` is one of ``true_labels``; None if these are not known."""
        return self.label in self.true_labels if self.true_labels else None

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns the ``count`` most probable labels with their probabilities, most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[index], float(self.probabilities[index])) for index in order]

    def __repr__(self) -> str:
        """Returns key, label and probability; the probabilities of thousands of labels would be noise."""
        true = f", true_labels={self.true_labels}" if self.true_labels else ""
        return f"Prediction({self.key!r}, label={self.label!r}, probability={self.probability:.4f}{true})"


class Model:
    """A SavedModel that imgpipe trained, loaded into this process; see ``load``.

    Attributes:
        path: The model's folder; the URI as it was given, if it is in a store.
        labels: In the order of the probabilities.
    """

    def __init__(self, path: Path | str, served: "ServedModel") -> None:
        self._served = served
        self.path = path
        self.labels = served.labels

    # A str is an iterable of str; the first signature wins.
    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]: ...

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | list[Prediction]:
        """Predicts one image, or several of them in batches.

        An image is a file's path (local, ``gs://`` or ``s3://``), the content of a file as bytes, a
        ``PIL.Image.Image``, or a uint8 array of shape [height, width], [height, width, 1], [height, width, 3]
        (RGB) or [height, width, 4] (RGBA). The model itself decodes, resizes and normalizes it, as on a
        server.

        Returns:
            A ``Prediction`` for one image; a list of them, in the same order, for several.

        Raises:
            MissingInputError: if a file cannot be read.
            InvalidDataError: if an image cannot be decoded; the message names it.
            InvalidArgumentError: if something is not an image, e.g. an array of floats.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray):
            return self._predict([images])[0]
        if not isinstance(images, Iterable) or isinstance(images, _NOT_LISTS):
            raise _not_an_image(images)
        return self._predict(list(images))

    def _predict(self, images: Sequence[ImageLike]) -> list[Prediction]:
        from imgpipe.components.common.served_model import BATCH_SIZE

        predictions: list[Prediction] = []
        for begin in range(0, len(images), BATCH_SIZE):
            batch = images[begin : begin + BATCH_SIZE]
            keys = [_key(image, number) for number, image in enumerate(batch, start=begin)]
            contents = [_content(image, key) for image, key in zip(batch, keys, strict=True)]
            for key, probabilities in zip(keys, self._probabilities(contents, keys), strict=True):
                predictions.append(Prediction(key, self.labels, probabilities))
        return predictions

    def _probabilities(self, contents: Sequence[bytes], keys: Sequence[str]) -> NDArray[np.float32]:
        try:
            return self._served.predict(contents).probabilities
        except InvalidDataError as error:
            # TensorFlow does not say which image of a batch it cannot decode.
            if len(contents) > 1:
                pairs = zip(contents, keys, strict=True)
                return np.concatenate([self._probabilities([content], [key]) for content, key in pairs])
            raise InvalidDataError(
                error.problem, where=f"image {keys[0]}", remedy="remove or repair the image"
            ) from None

    def __repr__(self) -> str:
        """Returns the path and the number of labels."""
        return f"Model({str(self.path)!r}, {plural(len(self.labels), 'label')})"


def load(model: "str | os.PathLike[str] | Run") -> Model:
    """Loads a model that imgpipe trained. It imports TensorFlow, which takes some seconds the first time.

    Args:
        model: A ``Run`` or its folder; the folder of a SavedModel, e.g. ``run.model``; or a folder of
            numbered versions as ``deploy_target="local"`` writes it, of which the highest is loaded. A
            folder may be local, ``gs://`` or ``s3://``.

    Raises:
        InvalidArgumentError: if ``model`` is not a path.
        MissingInputError: if there is no SavedModel that imgpipe wrote.
        CheckFailedError: if it is damaged.
        InterruptedRunError: if a store cannot be reached.
    """
    from imgpipe.components.common.model_folder import local_model
    from imgpipe.components.storage import parse_location

    path: Any = getattr(model, "folder", model)
    location = parse_location(checked_path("model", path, remedy="use a run, or the folder of a model"))
    with local_model(location) as folder:
        # Imported late: it loads TensorFlow.
        from imgpipe.components.common.served_model import load_served_model

        return Model(folder if location.is_local else str(location), load_served_model(folder))


def _key(image: Any, number: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else str(number)


def _content(image: Any, key: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return _file_content(os.fspath(image))
    if isinstance(image, np.ndarray):
        return _encoded(_picture(image, key), key)
    if isinstance(image, Image.Image):
        return _encoded(image, key)
    raise _not_an_image(image, where=f"image {key}")


def _file_content(path: str) -> bytes:
    from imgpipe.components.storage import parse_location

    remedy = "check the path; for a folder, give the list of its files"
    # A path with a zero byte is a ValueError.
    with must_be_readable(f"the image {path!r}", ValueError, remedy=remedy):
        return parse_location(path).read()


def _picture(pixels: NDArray[Any], key: str) -> Image.Image:
    shape = pixels.shape[:2] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels.shape
    has_image_shape = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not has_image_shape or not pixels.size:
        raise InvalidArgumentError(
            f"an array of {pixels.dtype} with shape {pixels.shape} is not an image",
            where=f"image {key}",
            remedy="use uint8 of shape [height, width] or [height, width, 3]; multiply pixels of 0..1 by "
            "255, and split a batch into a list of images: list(batch)",
        )
    return Image.fromarray(pixels.reshape(shape))


def _encoded(picture: Image.Image, key: str) -> bytes:
    """Returns the picture, turned upright by its EXIF data, as the content of a PNG file."""
    mode = _PNG_MODES.get(picture.mode, picture.mode)
    if picture.mode == "P" and "transparency" in picture.info:
        mode = "RGBA"
    if mode not in ("L", "RGB", "RGBA"):
        raise InvalidArgumentError(
            f"a PIL image of mode {picture.mode!r} has no 8-bit pixels",
            where=f"image {key}",
            remedy='scale its values to 0..255 and convert it: image.convert("L")',
        )
    content = io.BytesIO()
    try:
        ImageOps.exif_transpose(picture).convert(mode).save(content, "PNG", compress_level=1)
    except (OSError, ValueError, AssertionError) as error:
        # Pillow reads a file when its pixels are needed: it may be damaged, or closed, which Pillow asserts
        # without a text.
        raise InvalidDataError(
            f"cannot read the PIL image: {str(error) or 'its file is closed'}",
            where=f"image {key}",
            remedy="pass the path of its file; or open it again, and predict before it is closed",
        ) from None
    return content.getvalue()


def _not_an_image(value: Any, *, where: str = "") -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{type(value).__name__} is not an image",
        where=where,
        remedy="use a path, the bytes of a file, a PIL image or a uint8 array; or a list of these",
    )
