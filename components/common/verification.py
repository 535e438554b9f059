"""verification.json: how a server's answers prove that it serves exactly this model.

The export step writes it beside ``saved_model.pb`` after a new process has loaded the model and reproduced
the evaluation. It has a few images of the evaluation with their probabilities, and the SHA-256 of each file.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import file_sha256
from imgpipe.components.common.errors import CheckFailedError, MissingInputError, must_be_readable
from imgpipe.components.common.plural import plural

VERIFICATION_NAME = "verification.json"
# Servers have other processors and other versions of TensorFlow than the evaluation.
TOLERANCE = 0.01
_MAX_IMAGES = 8
# The images are sent in one request; the servers' limits are tens of megabytes.
_MAX_BYTES = 4_000_000
_REMEDY = "deploy the model that the export step wrote, without changes; if it has none, run export again"


class WrongAnswerError(CheckFailedError):
    """A server answers, but not as the model does."""


@dataclass(frozen=True)
class Verification:
    """The content of verification.json.

    Attributes:
        labels: The labels in class order.
        images: Image files.
        probabilities: The evaluation's probabilities of each image, in class order.
        files: SHA-256 by path relative to the model folder, of all files but verification.json.
    """

    labels: tuple[str, ...]
    images: tuple[bytes, ...]
    probabilities: tuple[tuple[float, ...], ...]
    files: Mapping[str, str]

    def to_json(self) -> str:
        """Returns the content of the file."""
        images = [
            {"image_bytes": base64.b64encode(image).decode(), "probabilities": probabilities}
            for image, probabilities in zip(self.images, self.probabilities, strict=True)
        ]
        content = {"labels": self.labels, "images": images, "files": dict(self.files)}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    def instances(self) -> list[dict[str, Any]]:
        """Returns the instances of a predict request with all images."""
        return [
            {"image_bytes": {"b64": base64.b64encode(image).decode()}, "key": str(number)}
            for number, image in enumerate(self.images)
        ]

    def check_probabilities(self, predictions: Any, tolerance: float = TOLERANCE) -> None:
        """Compares the predictions of the signature serving_default with the evaluation.

        Args:
            predictions: One for each image.
            tolerance: The largest difference of a probability.

        Raises:
            WrongAnswerError: if they are not predictions, or a probability differs by more.
        """
        try:
            keys = [found["key"] for found in predictions]
            differences = [
                abs(float(value) - probability)
                for found, probabilities in zip(predictions, self.probabilities, strict=True)
                for value, probability in zip(found["probabilities"], probabilities, strict=True)
            ]
        except (TypeError, ValueError, KeyError):
            raise WrongAnswerError(
                f"its response to {plural(len(self.images), 'image')} does not have the probabilities of "
                f"{plural(len(self.labels), 'label')}"
            ) from None
        if keys != [str(number) for number in range(len(self.images))]:
            raise WrongAnswerError("it does not return the keys unchanged")
        # Written so that NaN is wrong.
        wrong = [difference for difference in differences if not difference <= tolerance]
        if wrong:
            raise WrongAnswerError(
                f"its answers are not those of the evaluation: {len(wrong)} of {len(differences)} "
                f"probabilities differ, the first by {wrong[0]:.2g}"
            )

    def check_labels(self, predictions: Any) -> None:
        """Checks that the signature top_labels returns the labels of its classes.

        Raises:
            WrongAnswerError: naming the first label that differs.
        """
        try:
            pairs = [
                (self.labels[number], label)
                for found in predictions
                for number, label in zip(found["classes"], found["labels"], strict=True)
            ]
        except (TypeError, ValueError, KeyError, IndexError):
            raise WrongAnswerError("the response of its signature top_labels does not have labels") from None
        for expected, label in pairs:
            if label != expected:
                raise WrongAnswerError(f"it calls the label {expected!r} {label!r}")


def write_verification(
    folder: Path,
    labels: Sequence[str],
    images: Sequence[bytes],
    probabilities: Sequence[Sequence[float]],
) -> None:
    """Writes verification.json with up to 8 images, at most 4 MB unless one alone is larger.

    Images of different classes, and then small ones, are preferred.

    Args:
        folder: The model folder, complete.
        labels: The labels in class order.
        images: Image files of the evaluation; at least one.
        probabilities: The evaluation's probabilities, in class order.
    """
    seen: dict[int, int] = {}
    ranks = []
    for number, values in enumerate(probabilities):
        best = max(range(len(values)), key=values.__getitem__)
        ranks.append((seen.setdefault(best, 0), len(images[number]), number))
        seen[best] += 1
    chosen: list[int] = []
    size = 0
    for _, length, number in sorted(ranks)[:_MAX_IMAGES]:
        if not chosen or size + length <= _MAX_BYTES:
            chosen.append(number)
            size += length
    verification = Verification(
        tuple(labels),
        tuple(images[number] for number in chosen),
        tuple(tuple(map(float, probabilities[number])) for number in chosen),
        _digests(folder),
    )
    (folder / VERIFICATION_NAME).write_text(verification.to_json(), encoding="utf-8")


def parse_verification(content: bytes | str, where: str) -> Verification:
    """Parses the content of verification.json.

    Raises:
        MissingInputError: if it is damaged.
    """
    with must_be_readable(repr(where), ValueError, KeyError, TypeError, AttributeError, remedy=_REMEDY):
        values = json.loads(content)
        images = values["images"]
        return Verification(
            tuple(values["labels"]),
            tuple(base64.b64decode(image["image_bytes"], validate=True) for image in images),
            tuple(tuple(map(float, image["probabilities"])) for image in images),
            {str(name): str(digest) for name, digest in values["files"].items()},
        )


def read_verified_model(folder: Path) -> Verification:
    """Reads verification.json and checks every file of the model, in the time that hashing takes.

    The files are those that a new process has loaded in the export step, so the model is not damaged.

    Raises:
        MissingInputError: if there is no verification.json: the export step did not write this model.
        CheckFailedError: if a file was changed, added or removed since the export.
    """
    path = folder / VERIFICATION_NAME
    if not path.exists():
        raise MissingInputError(
            f"{str(folder)!r} has no {VERIFICATION_NAME}, which the export step writes beside a model",
            remedy=_REMEDY,
        )
    with must_be_readable(repr(str(path)), remedy=_REMEDY):
        content = path.read_bytes()
    verification = parse_verification(content, str(path))
    found = _digests(folder)
    for name in sorted(found.keys() | verification.files.keys()):
        if found.get(name) != verification.files.get(name):
            if name not in found:
                change = "is missing"
            else:
                change = f"was {'changed' if name in verification.files else 'added'} after the export"
            raise CheckFailedError(
                f"the model is not the one that was verified: {name} {change}",
                where=str(folder),
                remedy=_REMEDY,
            )
    if not verification.images:
        raise MissingInputError(f"{str(path)!r} has no images", remedy=_REMEDY)
    return verification


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_sha256(path) for name, path in names.items() if name != VERIFICATION_NAME}
