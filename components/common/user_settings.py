"""Settings of the user for other programs, which must not change what a step computes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError

# What the steps depend on.
KERAS_SETTINGS: Mapping[str, Any] = {
    "backend": "tensorflow",
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
}
# Python without docstrings or with warnings as errors: not every library supports this.
_PYTHON_VARIABLES = ("PYTHONOPTIMIZE", "PYTHONWARNINGS")
# Where Keras keeps its files.
_KERAS_HOME = "KERAS_HOME"
# Where Keras looks if that folder, or the home folder, is not writable.
KERAS_FALLBACK = Path("/tmp/.keras")  # noqa: S108 - Keras' choice


def keras_home() -> Path:
    """Returns the folder of Keras' files, as Keras finds it when it is imported."""
    if home := os.environ.get(_KERAS_HOME):
        return Path(home).expanduser()
    home = os.path.expanduser("~")
    return Path(home, ".keras") if os.access(home, os.W_OK) else KERAS_FALLBACK


def ignored_keras_settings() -> list[str]:
    """Returns the user's settings of Keras that the steps override, each with where it is set."""
    ignored = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("KERAS_") and name != _KERAS_HOME and value != KERAS_SETTINGS["backend"]
    ]
    file = keras_home() / "keras.json"
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        # Keras ignores it, too.
        return ignored
    if not isinstance(values, dict):
        return ignored
    return ignored + [
        f"{name}={values[name]} in {file}"
        for name, value in KERAS_SETTINGS.items()
        if name in values and values[name] != value
    ]


def remove_keras_variables() -> dict[str, str]:
    """Selects TensorFlow as Keras' backend; removes and returns its variables, except for ``KERAS_HOME``.

    It must be called before Keras is imported.
    """
    names = [name for name in os.environ if name.startswith("KERAS_") and name != _KERAS_HOME]
    removed = {name: os.environ.pop(name) for name in names}
    os.environ["KERAS_BACKEND"] = KERAS_SETTINGS["backend"]
    return removed


def invalid_keras_settings(error: Exception) -> InvalidArgumentError:
    """Returns the error for a ``keras.json`` with which Keras cannot be imported."""
    return InvalidArgumentError(
        f"Keras does not accept its settings: {error}",
        where=str(keras_home() / "keras.json"),
        remedy="delete this file; Keras writes it again with its defaults",
    )


def without_user_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a step on this machine.

    It has no variables that change Python itself, and no ``TF_CONFIG``: the steps of a local run train on
    this machine only.
    """
    removed = {*_PYTHON_VARIABLES, "TF_CONFIG"}
    return {name: value for name, value in environment.items() if name not in removed}


def describe_ignored_cluster() -> str:
    """Returns a sentence about a ``TF_CONFIG`` of several hosts, which local runs ignore; empty if none."""
    hosts = cluster_hosts(os.environ.get("TF_CONFIG", ""))
    if len(hosts) < 2:
        return ""
    return (
        f"TF_CONFIG is ignored: it names the hosts {', '.join(hosts)}, but this run trains on this machine "
        "only; to train on all of them, start `python -m imgpipe.components.train` on each"
    )


def cluster_hosts(text: str) -> list[str]:
    """Returns the addresses of the hosts that ``TF_CONFIG`` lets train together; the chief is the first."""
    try:
        cluster = json.loads(text).get("cluster") or {}
        return [str(host) for role in ("chief", "master", "worker") for host in cluster.get(role, [])]
    except (ValueError, TypeError, AttributeError):
        return []
