"""The version of a model that is served, which a newer one replaces while requests are answered."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imgpipe.components.common.errors import MissingInputError, PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import version_folders
from imgpipe.components.common.served_model import ServedModel, check_probe_prediction, load_served_model
from imgpipe.components.serve.predict_request import RequestError

AVAILABLE, END = "AVAILABLE", "END"


@dataclass(frozen=True)
class VersionStatus:
    """A version, whether it serves, and why not."""

    version: int
    state: str
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns TensorFlow Serving's form of it."""
        code = "UNKNOWN" if self.error else "OK"
        return {
            "version": str(self.version),
            "state": self.state,
            "status": {"error_code": code, "error_message": self.error},
        }


class LiveModel:
    """Loads the highest version, and again when another one is the highest.

    A version that cannot be loaded, or does not answer, is reported and left alone: what served before
    goes on serving.

    Args:
        location: A SavedModel, which is version 1 for ever, or a folder with numbered versions.
    """

    def __init__(self, location: Path) -> None:
        self._location = location
        self._lock = threading.Lock()
        self._current: tuple[int, ServedModel] | None = None
        self._failed: dict[int, str] = {}
        self._told: set[int] = set()
        self.refresh()
        if self._current is None:
            reasons = "; ".join(f"version {number}: {reason}" for number, reason in self._failed.items())
            raise MissingInputError(
                f"there is no SavedModel that can be served in {str(location)!r}"
                + (f" ({reasons})" if reasons else ""),
                remedy="give a folder that holds saved_model.pb, or one with numbered versions of a model",
            )

    @property
    def version(self) -> int:
        """The version that is served."""
        return self._serving()[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the version that is served, in the order of the classes."""
        return self._serving()[1].labels

    @property
    def signatures(self) -> dict[str, Any]:
        """The signatures of the version that is served, by name."""
        return self._serving()[1].signatures

    def statuses(self) -> list[VersionStatus]:
        """Returns the version that is served and those that failed."""
        failed = [VersionStatus(number, END, reason) for number, reason in sorted(self._failed.items())]
        return [VersionStatus(self.version, AVAILABLE), *failed]

    def ask(self, signature: str, images: Sequence[bytes], keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Asks the version that is served; see ``ServedModel.ask``."""
        model = self._serving()[1]
        if signature not in model.signatures:
            # It was there when the request was checked; another version has taken over since.
            raise RequestError(400, f"the model has no signature {signature!r}")
        return model.ask(images, keys, signature)

    def refresh(self) -> None:
        """Looks for another highest version and loads it; takes seconds if there is one."""
        with self._lock:
            folders = self._folders()
            self._failed = {number: reason for number, reason in self._failed.items() if number in folders}
            for number in sorted(set(folders) - set(self._failed), reverse=True):
                if self._current is not None and self._current[0] == number:
                    return
                model = self._loaded(number, folders[number])
                if model is not None:
                    self._current = (number, model)
                    log_event("version_served", f"serve: version {number} is served", version=number)
                    break
            if self._current is not None:
                # Otherwise the error that ends the server says it.
                self._tell_failed()

    def _tell_failed(self) -> None:
        for number in sorted(set(self._failed) - self._told):
            log_event(
                "version_failed",
                f"serve: version {number} cannot be served: {self._failed[number]}",
                severity="ERROR",
                version=number,
            )
        self._told = set(self._failed)

    def _serving(self) -> tuple[int, ServedModel]:
        assert self._current is not None  # noqa: S101 - __init__ made sure of it
        return self._current

    def _folders(self) -> dict[int, Path]:
        if (self._location / "saved_model.pb").is_file():
            return {1: self._location}
        return version_folders(self._location)

    def _loaded(self, number: int, folder: Path) -> ServedModel | None:
        try:
            model = load_served_model(folder)
            check_probe_prediction(model)
        except PipelineError as error:
            self._failed[number] = error.problem
            return None
        return model
