"""Takes a network's weights over from a model that was trained before."""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import local_model, model_folder_at, version_folders
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import local_copy, local_path
from imgpipe.components.train.checkpoints import read_checkpoint_weights

Arrays = dict[str, NDArray[Any]]

# As tf.Module names what write_saved_model keeps: classifier_variables/<path>/.ATTRIBUTES/VARIABLE_VALUE,
# with .S for / inside a path.
_SAVED_MODEL_KEY = re.compile(r"classifier_variables/(.+)/\.ATTRIBUTES/VARIABLE_VALUE")
# Names that Keras numbers through within a process.
_NUMBERED = re.compile(r"^normalization_\d+/")
_HEAD_PATHS = ("logits/kernel", "logits/bias")
_KERAS_FILES = (".keras", ".h5")
_REMEDY = (
    "name a SavedModel folder or a checkpoints folder of imgpipe, or a Keras file that ends in "
    ".weights.h5 or .keras"
)


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights of a model that was trained before.

    Attributes:
        described: What they are of, for messages.
        network: By name, as ``weight_names`` gives them.
        head: Kernel [features, classes] and bias [classes]; empty when there is no such layer.
    """

    described: str
    network: Arrays
    head: tuple[NDArray[Any], ...]


def take_over_weights(location: str, model_type: str, network: keras.Model, head: keras.Model) -> None:
    """Replaces a classifier's random weights; logs what was taken over and what was not.

    Args:
        location: Of a SavedModel folder, a folder with numbered versions of one, of which the highest counts,
            or a checkpoints folder of imgpipe, or of a Keras file; local or ``gs://``.
        model_type: For messages.
        network: All of its weights are replaced.
        head: Replaced if the last layer there has as many classes.

    Raises:
        MissingInputError: if there is nothing at ``location``, or nothing of a known kind.
        InvalidDataError: if a file there is damaged.
        InvalidArgumentError: if the weights are of another network.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    found = read_pretrained_weights(location, network)
    named = dict(zip(weight_names(network), network.weights, strict=True))
    _check_architecture(found, named, model_type, location)
    for name, variable in named.items():
        variable.assign(found.network[name])
    kernel, bias = head.weights
    matching = [value.shape for value in found.head] == [tuple(kernel.shape), tuple(bias.shape)]
    if matching:
        for variable, value in zip((kernel, bias), found.head, strict=True):
            variable.assign(value)
    log_event(
        "pretrained_weights",
        f"train: {len(named)} weights of {model_type} taken over from {found.described} at {location}; "
        f"{_said_of_head(found, matching, int(bias.shape[0]))}",
        path=location,
        taken_over=len(named) + 2 * matching,
        last_layer_taken_over=matching,
    )


def weight_names(network: keras.Model) -> list[str]:
    """Returns a name for each of ``network.weights``: ``layer/weight``, the same in every process."""
    return [_name(variable.path) for variable in network.weights]


def read_pretrained_weights(location: str, network: keras.Model) -> PretrainedWeights:
    """Reads the weights at a place.

    Args:
        location: As for ``take_over_weights``.
        network: Keras files number their layers instead of naming them; the numbers are this network's.

    Raises:
        MissingInputError: if there is nothing, or nothing of a known kind.
        InvalidDataError: if a file is damaged.
    """
    if is_cloud_path(location):
        return _read_from_cloud(location, network)
    path = local_path(location)
    if not path.exists():
        raise MissingInputError(
            f"pretrained_checkpoint_path={location!r} does not exist",
            remedy=_REMEDY,
        )
    if not path.is_dir():
        return _of_file(path, location, network)
    if (path / "saved_model.pb").is_file() or version_folders(path):
        return _of_saved_model(model_folder_at(path))
    return _of_paths("the checkpoints", read_checkpoint_weights(str(path)))


def _read_from_cloud(location: str, network: keras.Model) -> PretrainedWeights:
    if location.endswith(_KERAS_FILES):
        with local_copy(location) as path:
            return _of_file(path, location, network)
    try:
        with local_model(location) as folder:
            return _of_saved_model(folder)
    except MissingInputError:
        return _of_paths("the checkpoints", read_checkpoint_weights(location))


def _of_saved_model(folder: Path) -> PretrainedWeights:
    return _of_paths(_described_saved_model(folder), _read_saved_model(folder))


def _of_file(path: Path, location: str, network: keras.Model) -> PretrainedWeights:
    try:
        if location.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                content = archive.read("model.weights.h5")
            described = f"the Keras model {config.get('config', {}).get('name', '')!r}"
            with h5py.File(io.BytesIO(content)) as file:
                return _of_keras_file(described, file, network)
        if location.endswith(".h5"):
            with h5py.File(path) as file:
                return _of_keras_file("the Keras weights", file, network)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidDataError(
            f"the file cannot be read: {error}",
            where=location,
            remedy="save the model again, or copy the file again",
        ) from None
    raise MissingInputError(
        f"pretrained_checkpoint_path={location!r} is no kind of file that is understood", remedy=_REMEDY
    )


def _name(path: str) -> str:
    return _NUMBERED.sub("normalization/", path)


def _read_saved_model(folder: Path) -> Arrays:
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        keys = list(reader.get_variable_to_shape_map())
        matches = {key: _SAVED_MODEL_KEY.fullmatch(key) for key in keys}
        arrays = {
            match[1].replace(".S", "/"): reader.get_tensor(key) for key, match in matches.items() if match
        }
    except (tf.errors.OpError, ValueError) as error:
        raise InvalidDataError(
            f"the SavedModel's variables cannot be read: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="copy the whole folder again, variables/ included",
        ) from None
    if not arrays:
        raise InvalidArgumentError(
            "the SavedModel was not written by imgpipe, or by one that did not name its weights yet: its "
            f"{len(keys)} variables cannot be told apart",
            where=str(folder),
            remedy=_REMEDY,
        )
    return arrays


def _described_saved_model(folder: Path) -> str:
    try:
        model_type = json.loads((folder / "provenance.json").read_bytes())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return "the SavedModel"
    # Of a folder with versions the path does not say which was taken.
    version = f", version {folder.name}" if folder.name.isdigit() else ""
    return f"the SavedModel of {model_type}{version}"


def _of_paths(described: str, arrays: Mapping[str, NDArray[Any]]) -> PretrainedWeights:
    """Sorts weights by path of their Keras variable into those of the network and of the head."""
    # Of dropout: no weights.
    kept = {path: value for path, value in arrays.items() if "seed_generator" not in path}
    head = tuple(kept[path] for path in _HEAD_PATHS if path in kept)
    network = {_name(path): value for path, value in kept.items() if path not in _HEAD_PATHS}
    return PretrainedWeights(described, network, head)


def _of_keras_file(described: str, file: h5py.File, network: keras.Model) -> PretrainedWeights:
    """Finds the network in a Keras file: as the whole model, or as a layer of it.

    In the file a layer is named after its class and numbered within its model:
    ``layers/conv2d_3/vars/0``.
    """
    keys = _keras_file_keys(network)
    models = [group for group in _groups(file) if "layers" in group]
    if not models:
        raise InvalidArgumentError(
            "the file has no layers as Keras 3 writes them",
            where=file.filename if isinstance(file.filename, str) else "",
            remedy="save it with Keras 3: model.save_weights('NAME.weights.h5') or model.save('NAME.keras')",
        )
    candidates = [_arrays(model["layers"]) for model in models]
    # A model around the network has few weights of its own.
    arrays = max(candidates, key=lambda found: len(set(found) & set(keys)))
    heads = [head for found in candidates if (head := _last_dense_layer(found))]
    named = {
        **{key: value for key, value in arrays.items() if key not in keys and not key.startswith("dense")},
        **{name: arrays[key] for key, name in keys.items() if key in arrays},
    }
    return PretrainedWeights(described, named, heads[-1] if heads else ())


def _keras_file_keys(network: keras.Model) -> dict[str, str]:
    """Returns the name of each weight by its key in a Keras file, without ``layers/``."""
    counts: dict[str, int] = {}
    keys = {}
    for layer in network.layers:
        kind = _snake_case(type(layer).__name__)
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        for index, variable in enumerate(layer.weights):
            keys[f"{kind}_{number}/vars/{index}" if number else f"{kind}/vars/{index}"] = _name(variable.path)
    return keys


def _snake_case(name: str) -> str:
    """Returns Keras' name for a class, e.g. ``depthwise_conv2d``."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _groups(group: h5py.Group) -> list[h5py.Group]:
    """Returns a group and all groups below it."""
    inner = [child for child in group.values() if isinstance(child, h5py.Group)]
    return [group, *(found for child in inner for found in _groups(child))]


def _arrays(layers: h5py.Group) -> Arrays:
    """Returns the weights of the layers of one model, by key."""
    return {
        f"{name}/vars/{index}": np.asarray(value)
        for name, layer in layers.items()
        if isinstance(layer, h5py.Group) and "vars" in layer
        for index, value in layer["vars"].items()
    }


def _last_dense_layer(arrays: Arrays) -> tuple[NDArray[Any], ...]:
    names = sorted(
        (key.split("/", 1)[0] for key in arrays if re.match(r"dense(_\d+)?/vars/1$", key)),
        key=lambda name: int(name.partition("_")[2] or 0),
    )
    return (arrays[f"{names[-1]}/vars/0"], arrays[f"{names[-1]}/vars/1"]) if names else ()


def _check_architecture(
    found: PretrainedWeights, named: Mapping[str, Any], model_type: str, location: str
) -> None:
    missing = [name for name in named if name not in found.network]
    left = [name for name in found.network if name not in named]
    differing = [
        f"{name} is {list(found.network[name].shape)} there and {list(variable.shape)} in {model_type}"
        for name, variable in named.items()
        if name in found.network and tuple(found.network[name].shape) != tuple(variable.shape)
    ]
    if not (missing or left or differing):
        return
    differences = [
        *([f"{len(missing)} weights are not there: {_first_of(missing)}"] if missing else []),
        *([f"{len(left)} weights there are of no use: {_first_of(left)}"] if left else []),
        *([f"{len(differing)} have another shape: {differing[0]}"] if differing else []),
    ]
    raise InvalidArgumentError(
        f"{found.described} holds {len(found.network)} weights, and not those of model_type={model_type}: "
        f"{'; '.join(differences)}",
        where=location,
        remedy="give the model_type that the weights are of, or another pretrained_checkpoint_path; with "
        "--retrain they are those of the model that serves: to change the network, run once without it",
    )


def _first_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _said_of_head(found: PretrainedWeights, matching: bool, classes: int) -> str:
    if matching:
        return f"the last layer too, for {classes} classes"
    if not found.head:
        return f"the last layer, for {classes} classes, is new: there is none"
    return f"the last layer, for {classes} classes, is new: the one there is for {found.head[1].shape[0]}"
