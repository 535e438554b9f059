"""The user's settings for other programs do not change what the steps compute."""

import json
import os

import pytest

from imgpipe.components.common.user_settings import (
    describe_ignored_cluster,
    ignored_keras_settings,
    without_user_settings,
)
from tests.command_line import run_python

TWO_HOSTS = json.dumps(
    {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}},
)


@pytest.fixture
def keras_json(tmp_path, monkeypatch):
    """``keras_json(text)`` writes the settings of the user."""
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def write(text):
        (tmp_path / "keras.json").write_text(text)
        return tmp_path / "keras.json"

    return write


def test_the_steps_use_the_defaults_of_keras_whatever_the_user_has_set(keras_json, monkeypatch):
    settings = {"backend": "jax", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    keras_json(json.dumps(settings))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "many")
    result = run_python(
        "import os\n"
        "from imgpipe.components.common.tf_import import keras\n"
        "layer = keras.layers.Conv2D(4, 3)\n"
        "layer.build((None, 8, 8, 3))\n"
        "print(keras.backend.backend(), keras.config.epsilon(), layer.data_format, layer.kernel.dtype)\n"
        "print(keras.config.dtype_policy().name, os.environ['KERAS_BACKEND'], os.environ['KERAS_MAX_EPOCHS'])"
    )
    assert result.stdout.splitlines() == ["tensorflow 1e-07 channels_last float32", "float32 torch many"]


def test_settings_that_keras_does_not_accept_are_reported_with_their_file(keras_json):
    file = keras_json('{"floatx": "bfloat16"}')
    result = run_python(
        "from imgpipe.components.common.step import run_command\n"
        "run_command('train', lambda: __import__('imgpipe.components.common.tf_import'))"
    )
    assert result.returncode == 64
    failure = json.loads(result.stdout.splitlines()[-1])
    assert failure["where"] == str(file)
    assert "floatx" in failure["problem"]
    assert "delete this file" in failure["remedy"]


def test_each_ignored_setting_is_named_with_where_it_is_set(keras_json, monkeypatch):
    file = keras_json('{"floatx": "float16", "epsilon": 1e-07, "backend": "tensorflow"}')
    assert ignored_keras_settings() == [f"floatx=float16 in {file}"]
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert ignored_keras_settings() == [f"floatx=float16 in {file}"]
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert ignored_keras_settings() == ["KERAS_BACKEND=torch", f"floatx=float16 in {file}"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_empty_or_malformed_file_has_no_settings(keras_json, text):
    keras_json(text)
    assert ignored_keras_settings() == []


def test_a_step_says_in_one_line_which_settings_it_ignores(keras_json, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    result = run_python(
        "from imgpipe.components.common.step import run_command\nrun_command('train', lambda: None)"
    )
    event = json.loads(result.stdout)
    assert (event["severity"], event["settings"]) == ("WARNING", ["KERAS_BACKEND=jax"])
    assert event["message"] == "these settings of Keras are ignored: KERAS_BACKEND=jax"


def test_steps_of_a_local_run_get_neither_a_cluster_nor_changes_of_python():
    environment = {
        "TF_CONFIG": TWO_HOSTS,
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "PATH": "/bin",
        "PYTHONPATH": "here",
    }
    assert without_user_settings(environment) == {"PATH": "/bin", "PYTHONPATH": "here"}


def test_an_ignored_cluster_is_described_with_its_hosts(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", TWO_HOSTS)
    assert "names the hosts a:1, b:1" in describe_ignored_cluster()
    for text in ("", "{", "[]", '{"cluster": {"chief": ["a:1"]}}'):
        monkeypatch.setenv("TF_CONFIG", text)
        assert describe_ignored_cluster() == ""


def test_the_help_is_complete_without_docstrings():
    code = "from imgpipe.pipelines.cli import main; main()"
    shown = run_python(code, "run", "--help", env={**os.environ, "PYTHONOPTIMIZE": "2"}).stdout
    assert "Run the whole pipeline on this machine" in shown
    assert "64  An argument, or a combination of arguments, is not allowed." in shown
