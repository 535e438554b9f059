"""Loads a network's weights from a previously trained model."""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import check_not_tensorflow_checkpoint, local_model
from imgpipe.components.common.plural import plural
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.storage import parse_location
from imgpipe.components.train.checkpoints import read_checkpoint_weights

Arrays = dict[str, NDArray[Any]]

# The key of a variable in the SavedModels of write_saved_model, with .S for / in the variable's path.
_SAVED_MODEL_KEY = re.compile(r"classifier_variables/(.+)/\.ATTRIBUTES/VARIABLE_VALUE")
# Keras numbers these layers, and ConvNeXt's factors per channel, through all networks of a process.
_NUMBERED = re.compile(r"(?<=^normalization)_\d+(?=/)|(?<=^layer_normalization)_\d+(?=/)|(?<=/variable)_\d+$")
_HEAD_PATHS = ("logits/kernel", "logits/bias")
_KERAS_FILES = (".keras", ".h5")
_REMEDY = "use a SavedModel or checkpoints folder of imgpipe, or a Keras file (.weights.h5 or .keras)"


@dataclass(frozen=True)
class _PretrainedWeights:
    """The weights of a previously trained model.

    Attributes:
        source: Description of the model, for messages.
        network: By name, as from ``_weight_name``.
        head: Kernel [features, classes] and bias [classes]; empty if there is no such layer.
    """

    source: str
    network: Arrays
    head: tuple[NDArray[Any], ...]


def load_pretrained_weights(location: str, model_type: str, network: keras.Model, head: keras.Model) -> None:
    """Replaces a classifier's random weights and logs which ones.

    Args:
        location: A SavedModel folder, a folder with numbered versions, the highest of which is used, a
            checkpoints folder of imgpipe, or a Keras file; local, ``gs://`` or ``s3://``.
        model_type: For messages.
        network: All its weights are replaced.
        head: Its weights are replaced if the last layer there has the same number of classes.

    Raises:
        MissingInputError: if ``location`` does not exist or is not of a supported format.
        InvalidDataError: if a file there is damaged.
        InvalidArgumentError: if the weights belong to another network.
        InterruptedRunError: if a remote store cannot be reached.
    """
    pretrained = _read(location, network)
    variables = {_weight_name(variable.path): variable for variable in network.weights}
    _check_architecture(pretrained, variables, model_type, location)
    for name, variable in variables.items():
        variable.assign(pretrained.network[name])
    kernel, bias = head.weights
    same_head = [value.shape for value in pretrained.head] == [tuple(kernel.shape), tuple(bias.shape)]
    if same_head:
        for variable, value in zip((kernel, bias), pretrained.head, strict=True):
            variable.assign(value)
    log_event(
        "pretrained_weights",
        f"train: {plural(len(variables), 'weight')} of {model_type} loaded from {pretrained.source} at "
        f"{location}; {_describe_head(pretrained, same_head, int(bias.shape[0]))}",
        path=location,
        loaded=len(variables) + 2 * same_head,
        last_layer_loaded=same_head,
    )


def _read(location: str, network: keras.Model) -> _PretrainedWeights:
    """Reads the weights; ``network`` has the layers that Keras files refer to by number."""
    source = parse_location(location)
    check_not_tensorflow_checkpoint(source)
    if source.is_folder():
        try:
            with local_model(source) as folder:
                return _read_saved_model(folder)
        except MissingInputError:
            return _separate_head("the checkpoints", read_checkpoint_weights(source))
    if source.status() is None:
        raise MissingInputError(f"pretrained_checkpoint_path={location!r} does not exist", remedy=_REMEDY)
    if not source.name.endswith(_KERAS_FILES):
        raise MissingInputError(
            f"pretrained_checkpoint_path={location!r} has an unsupported file format", remedy=_REMEDY
        )
    with source.local_copy() as path:
        return _read_keras_file(path, location, network)


def _read_keras_file(path: Path, location: str, network: keras.Model) -> _PretrainedWeights:
    try:
        if not location.endswith(".keras"):
            with h5py.File(path) as file:
                return _find_network("the Keras weights", file, network)
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            content = archive.read("model.weights.h5")
        source = f"the Keras model {config.get('config', {}).get('name', '')!r}"
        with h5py.File(io.BytesIO(content)) as file:
            return _find_network(source, file, network)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidDataError(
            f"the file cannot be read: {error}",
            where=location,
            remedy="save the model again, or copy the file again",
        ) from None


def _weight_name(path: str) -> str:
    """Returns a name for the path of a variable, ``layer/weight``, that is the same in every process."""
    return _NUMBERED.sub("", path)


def _read_saved_model(folder: Path) -> _PretrainedWeights:
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
            "the SavedModel was not written by imgpipe, or by a version that did not name its weights: its "
            f"variables ({len(keys)}) cannot be identified",
            where=str(folder),
            remedy=_REMEDY,
        )
    return _separate_head(_describe_saved_model(folder), arrays)


def _describe_saved_model(folder: Path) -> str:
    try:
        model_type = json.loads((folder / "provenance.json").read_bytes())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return "the SavedModel"
    # The location may be the parent folder of several versions.
    version = f", version {folder.name}" if folder.name.isdigit() else ""
    return f"the SavedModel of {model_type}{version}"


def _separate_head(source: str, arrays: Mapping[str, NDArray[Any]]) -> _PretrainedWeights:
    # The state of dropout's random generator is not a weight.
    weights = {path: value for path, value in arrays.items() if "seed_generator" not in path}
    head = tuple(weights[path] for path in _HEAD_PATHS if path in weights)
    network = {_weight_name(path): value for path, value in weights.items() if path not in _HEAD_PATHS}
    return _PretrainedWeights(source, network, head)


def _find_network(source: str, file: h5py.File, network: keras.Model) -> _PretrainedWeights:
    """Finds the network in a Keras file: it may be the whole model or a layer of it.

    In the file, a layer is named after its class and numbered within its model: ``layers/conv2d_3/vars/0``.
    """
    names = _names_by_key(network)
    models = [group for group in _groups(file) if "layers" in group]
    if not models:
        raise InvalidArgumentError(
            "the file does not contain layers in the format of Keras 3",
            where=file.filename if isinstance(file.filename, str) else "",
            remedy="save it with Keras 3: model.save_weights('NAME.weights.h5') or model.save('NAME.keras')",
        )
    candidates = [_arrays(model["layers"]) for model in models]
    # A model around the network has few weights of its own.
    arrays = max(candidates, key=lambda candidate: len(set(candidate) & set(names)))
    # ConvNeXt has dense layers of its own.
    others = [
        {key: value for key, value in candidate.items() if candidate is not arrays or key not in names}
        for candidate in candidates
    ]
    heads = [head for other in others if (head := _last_dense_layer(other))]
    weights = {
        **{key: value for key, value in arrays.items() if key not in names and not key.startswith("dense")},
        **{name: arrays[key] for key, name in names.items() if key in arrays},
    }
    return _PretrainedWeights(source, weights, heads[-1] if heads else ())


def _names_by_key(network: keras.Model, inside: str = "") -> dict[str, str]:
    """Returns the name of each weight by its key in a Keras file, without ``layers/``.

    A part of the network that is a model itself has its layers in a group of its own, ``inside``.
    """
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for layer in network.layers:
        layer_class = keras.src.utils.naming.to_snake_case(type(layer).__name__)
        number = counts.get(layer_class, 0)
        counts[layer_class] = number + 1
        prefix = inside + (f"{layer_class}_{number}" if number else layer_class)
        if isinstance(layer, keras.Model):
            names |= _names_by_key(layer, f"{prefix}/layers/")
            continue
        for index, variable in enumerate(layer.weights):
            names[f"{prefix}/vars/{index}"] = _weight_name(variable.path)
    return names


def _groups(group: h5py.Group) -> list[h5py.Group]:
    inner = [child for child in group.values() if isinstance(child, h5py.Group)]
    return [group, *(found for child in inner for found in _groups(child))]


def _arrays(layers: h5py.Group) -> Arrays:
    arrays: Arrays = {}
    for name, layer in layers.items():
        if isinstance(layer, h5py.Group) and "vars" in layer:
            arrays |= {f"{name}/vars/{index}": np.asarray(value) for index, value in layer["vars"].items()}
        if isinstance(layer, h5py.Group) and "layers" in layer:
            arrays |= {f"{name}/layers/{key}": value for key, value in _arrays(layer["layers"]).items()}
    return arrays


def _last_dense_layer(arrays: Arrays) -> tuple[NDArray[Any], ...]:
    names = sorted(
        (key.split("/", 1)[0] for key in arrays if re.match(r"dense(_\d+)?/vars/1$", key)),
        key=lambda name: int(name.partition("_")[2] or 0),
    )
    return (arrays[f"{names[-1]}/vars/0"], arrays[f"{names[-1]}/vars/1"]) if names else ()


def _check_architecture(
    pretrained: _PretrainedWeights, variables: Mapping[str, Any], model_type: str, location: str
) -> None:
    found = pretrained.network
    missing = [name for name in variables if name not in found]
    unknown = [name for name in found if name not in variables]
    reshaped = [
        f"{name} is {list(found[name].shape)} there and {list(variable.shape)} in {model_type}"
        for name, variable in variables.items()
        if name in found and tuple(found[name].shape) != tuple(variable.shape)
    ]
    differences = [
        f"{len(names)} {difference}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for names, difference in (
            (missing, "missing"),
            (unknown, "unknown"),
            (reshaped, "with another shape"),
        )
        if names
    ]
    if differences:
        raise InvalidArgumentError(
            f"the weights of {pretrained.source} ({len(found)}) do not match model_type={model_type}: "
            f"{'; '.join(differences)}",
            where=location,
            remedy="set the model_type of the weights, or another pretrained_checkpoint_path; --retrain uses "
            "the weights of the serving model: to change the network, run once without it",
        )


def _describe_head(pretrained: _PretrainedWeights, same_head: bool, classes: int) -> str:
    if same_head:
        return f"the last layer too, for {classes} classes"
    new = f"the last layer, for {classes} classes, has new random weights"
    if not pretrained.head:
        return f"{new} because there is none"
    return f"{new} because the one there is for {pretrained.head[1].shape[0]} classes"
