"""The served version of a model, which a newer version replaces while requests are processed."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.drift import DriftSketch, load_sketch
from imgpipe.components.common.engines import AUTO, DEFAULT_ENGINE, TENSORFLOW, Engine, select_engine
from imgpipe.components.common.errors import MissingInputError, PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_folder_at, served_versions
from imgpipe.components.common.served_model import ServedModel, check_probe_prediction, load_served_model
from imgpipe.components.common.verification import TOLERANCE, VERIFICATION_NAME, parse_verification
from imgpipe.components.serve.predict_request import RequestError


class LiveModel:
    """Serves the highest version of a model, and switches when another one becomes the highest.

    A version that cannot be loaded, or that fails on a test image, is reported and skipped; the previous
    version stays in service.

    Args:
        location: A SavedModel or the folder of a run, which is version 1 and never changes, or a folder with
            numbered versions.
        engine: What computes the network; see ``select_engine``.
    """

    def __init__(self, location: Path, engine: str = AUTO) -> None:
        self._location = location
        self._engine_name = engine
        # Called with the embeddings of served images, if the version has a sketch to compare them with.
        self.on_embeddings: Callable[[DriftSketch, NDArray[np.float32]], None] = lambda *_: None
        self._lock = threading.Lock()
        self._current: tuple[int, ServedModel, DriftSketch | None] | None = None
        self._failed: dict[int, str] = {}
        self.refresh()
        if self._current is None:
            # Raises if there is no model.
            model_folder_at(location)
            reasons = "; ".join(f"version {number}: {reason}" for number, reason in self._failed.items())
            raise MissingInputError(
                f"the model {str(location)!r} cannot be served ({reasons})",
                remedy="use the folder of another run or SavedModel, or export the model again"
                + (", or use engine=tensorflow" if engine not in (AUTO, TENSORFLOW) else ""),
            )

    @property
    def version(self) -> int:
        """The number of the served version."""
        return self._served()[0]

    @property
    def engine(self) -> Engine:
        """What computes the network of the served version."""
        return self._served()[1].engine

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the served version, in class order."""
        return self._served()[1].labels

    @property
    def signatures(self) -> dict[str, Any]:
        """The signatures of the served version, by name."""
        return self._served()[1].signatures

    def statuses(self) -> list[dict[str, Any]]:
        """Returns the served version and those that failed, in TensorFlow Serving's form."""
        failed = [_status(number, "END", reason) for number, reason in sorted(self._failed.items())]
        return [_status(self.version, "AVAILABLE"), *failed]

    def predict(
        self, signature: str, images: Sequence[bytes], keys: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Runs the served version; see ``ServedModel.call``."""
        _, model, sketch = self._served()
        if signature not in model.signatures:
            # It existed when the request was checked; another version has taken over since.
            raise RequestError(400, f"the model has no signature {signature!r}")
        if sketch is None:
            return model.call(images, keys, signature)
        outputs, embeddings = model.call_with_embeddings(images, keys, signature)
        self.on_embeddings(sketch, embeddings)
        return outputs

    def refresh(self) -> None:
        """Loads the highest version if it is not the served one; takes seconds then."""
        with self._lock:
            folders = served_versions(self._location)
            self._failed = {number: reason for number, reason in self._failed.items() if number in folders}
            for number in sorted(set(folders) - set(self._failed), reverse=True):
                if self._current is not None and self._current[0] == number:
                    return
                try:
                    model = self._load(folders[number])
                    sketch = load_sketch(folders[number])
                except PipelineError as error:
                    self._failed[number] = error.problem
                    log_event(
                        "version_failed",
                        f"serve: version {number} cannot be served: {error.problem}",
                        severity="ERROR",
                        version=number,
                    )
                    continue
                self._current = (number, model, sketch)
                log_event(
                    "version_served",
                    f"serve: serving version {number}",
                    version=number,
                    engine=str(model.engine),
                )
                break

    def _load(self, folder: Path) -> ServedModel:
        engine = select_engine(self._engine_name, folder)
        try:
            return _load_checked(folder, engine)
        except PipelineError as error:
            if self._engine_name != AUTO or engine == DEFAULT_ENGINE:
                raise
            log_event(
                "engine_left_out",
                f"serve: {error.problem}; TensorFlow computes the model",
                severity="WARNING",
            )
            return _load_checked(folder, DEFAULT_ENGINE)

    def _served(self) -> tuple[int, ServedModel, DriftSketch | None]:
        assert self._current is not None  # noqa: S101 - __init__ raises otherwise
        return self._current


def _load_checked(folder: Path, engine: Engine) -> ServedModel:
    model = load_served_model(folder, engine)
    check_probe_prediction(model)
    if engine != DEFAULT_ENGINE:
        _check_answers(model, folder)
    return model


def _check_answers(model: ServedModel, folder: Path) -> None:
    """Compares an engine's answers with the evaluation's, on the images of verification.json if there is one.

    Raises:
        CheckFailedError: if they differ.
    """
    path = folder / VERIFICATION_NAME
    if not path.is_file():
        return
    verification = parse_verification(path.read_bytes(), str(path))
    found = model.predict(verification.images).probabilities.tolist()
    verification.check_probabilities(
        [{"key": str(number), "probabilities": values} for number, values in enumerate(found)],
        TOLERANCE + model.engine.largest_difference,
    )


def _status(version: int, state: str, error: str = "") -> dict[str, Any]:
    code = "UNKNOWN" if error else "OK"
    return {
        "version": str(version),
        "state": state,
        "status": {"error_code": code, "error_message": error},
    }
