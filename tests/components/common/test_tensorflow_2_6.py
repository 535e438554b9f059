"""A written model can be loaded by TensorFlow 2.6 and later, and predicts the same."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.tensorflow_2_6 import unknown_operations
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import build_classifier
from tests.components.common.test_saved_model import Mean
from tests.components.images.image_files import EQUAL, ROTATED, encoded, picture

SIZE = 64
# The smallest network of each family.
FAMILIES = tuple({kind.family: name for name, kind in reversed(MODEL_TYPES.items())}.values())
# The largest difference of a probability between two versions.
TOLERANCE = 1e-5
# The Python that each version of TensorFlow has packages for.
VERSIONS = {"2.6.5": "3.9", "2.12.1": "3.11", "2.15.1": "3.11", "2.18.1": "3.11", "2.20.0": "3.11"}
FILES = {name: data for name, data in {**EQUAL, **ROTATED}.items() if "WebP" not in name}

# Runs without imgpipe: it is what a user's own program, or a server, does.
PREDICT = """
import sys
import numpy as np
import tensorflow as tf

with np.load("images.npz") as arrays:
    images = {name: arrays[name].tobytes() for name in arrays.files}
answers = {}
for family in sys.argv[2:]:
    model = tf.saved_model.load(family)
    answers[family] = np.stack([
        model.signatures["serving_default"](image_bytes=tf.constant([data]), key=tf.constant(["k"]))[
            "probabilities"
        ].numpy()[0]
        for data in images.values()
    ])
    # As a server loads it: the whole graph, in a session.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], family).signature_def["serving_default"]
        data = next(iter(images.values()))
        served = session.run(
            signature.outputs["probabilities"].name,
            {signature.inputs["image_bytes"].name: [data], signature.inputs["key"].name: [b"k"]},
        )
        assert np.abs(served[0] - answers[family][0]).max() < 1e-5
np.savez(sys.argv[1], **answers)
"""


def test_a_written_model_has_only_operations_of_tensorflow_2_6(linear_model, tmp_path):
    assert unknown_operations(linear_model(tmp_path / "model")) == []


def test_a_model_that_decodes_webp_needs_a_later_version_and_decodes_it(tmp_path):
    write_saved_model(Mean(), 8, ["red", "green", "blue"], tmp_path / "model", webp=True)
    assert unknown_operations(tmp_path / "model") == ["DecodeWebP"]
    signature = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    files = [encoded(picture(), "PNG"), encoded(picture(), "WEBP", lossless=True)]
    answer = signature(image_bytes=tf.constant(files), key=tf.constant(["a", "b"]))["probabilities"].numpy()
    np.testing.assert_array_equal(*answer)


def test_an_attribute_that_tensorflow_2_6_lacks_is_found(linear_model, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    file = linear_model(tmp_path / "model") / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    node = next(n for n in content.meta_graphs[0].graph_def.node if n.op == "VarHandleOp")
    node.attr["debug_name"].s = b"kernel"
    node.attr["_runtime_hint"].s = b"allowed on any operation"
    file.write_bytes(content.SerializeToString())
    assert unknown_operations(tmp_path / "model") == ["VarHandleOp.debug_name"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with one model of each family, the images, and our TensorFlow's answers."""
    folder = tmp_path_factory.mktemp("versions")
    for family in FAMILIES:
        classifier = build_classifier(
            family, num_classes=3, image_size=SIZE, weights="none", seed=0, pretrained_checkpoint_path=""
        )
        write_saved_model(classifier, SIZE, ["a", "b", "c"], folder / family)
        assert unknown_operations(folder / family) == []
    np.savez(folder / "images.npz", **{name: np.frombuffer(data, np.uint8) for name, data in FILES.items()})
    (folder / "predict.py").write_text(PREDICT)
    return folder, predict(folder, sys.executable, "own.npz")


def predict(folder, python, output):
    command = [python, "predict.py", output, *FAMILIES]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    with np.load(folder / output) as arrays:
        return dict(arrays)


def find_python(version):
    """Returns a Python of this version, on the PATH or installed by pyenv."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *pyenv):
        # A shim of pyenv may be on the PATH although this version is not selected.
        if candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:
            return candidate
    return pytest.skip(f"there is no Python {version} on this machine")


# It installs a TensorFlow and loads nine networks twice.
@pytest.mark.timeout(2400)
@pytest.mark.proof
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_tensorflow_gives_the_same_answers(work, version, tmp_path):
    uv = str(Path(sys.executable).with_name("uv"))
    interpreter = find_python(VERSIONS[version])
    python = tmp_path / "env" / "bin" / "python"
    package = "tensorflow" if version == "2.6.5" else "tensorflow-cpu"
    subprocess.run([uv, "venv", "--quiet", "--python", interpreter, tmp_path / "env"], check=True)
    # TensorFlow 2.6 does not limit its own dependency.
    packages = [f"{package}=={version}", *(["protobuf<3.21"] if version == "2.6.5" else [])]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    folder, own = work
    answers = predict(folder, python, f"{version}.npz")
    for family in FAMILIES:
        differences = np.abs(answers[family] - own[family]).max(axis=1)
        print(f"TensorFlow {version}, {family}: {len(FILES)} images, at most {differences.max():.1e}")
        assert differences.max() <= TOLERANCE, list(FILES)[int(differences.argmax())]
        assert (answers[family].argmax(axis=1) == own[family].argmax(axis=1)).all()
