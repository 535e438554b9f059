"""The folder of Keras' weights."""

import hashlib

import h5py
import pytest


@pytest.fixture
def keras_models(tmp_path, monkeypatch):
    """The folder of Keras' weights, empty; Keras read the environment variable when it was imported."""
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(folder.parent))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(folder.parent))
    return folder


@pytest.fixture
def write_weights(keras_models, monkeypatch):
    """``write_weights(model_type)`` writes random weights of a network as Keras' file of ImageNet weights."""
    from keras.src.applications import mobilenet_v3
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    from imgpipe.components.common.tf_import import keras, tf
    from imgpipe.components.train.model_types import MODEL_TYPES
    from imgpipe.components.train.weight_files import weights_file_name

    def write(model_type):
        network = getattr(keras.applications, MODEL_TYPES[model_type].keras_name)(
            include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
        )
        # With the initial statistics, every feature would be nearly 0.
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        network(tf.random.stateless_uniform((16, 32, 32, 3), (1, 2), -1, 1), training=True)
        path = keras_models / weights_file_name(model_type, 32)
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, network)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(mobilenet_v3.WEIGHTS_HASHES, "small_224_1.0_float", ("", digest))
        return path

    return write
