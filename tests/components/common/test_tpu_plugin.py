import os

import pytest

from tests.command_line import run_python


@pytest.mark.parametrize(
    ("environment", "has_plugin"),
    [
        # Set by our jobs on Vertex AI, and by Google Kubernetes Engine.
        ({"NEXT_PLUGGABLE_DEVICE_USE_C_API": "true"}, True),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, True),
        ({"TPU_ACCELERATOR_TYPE": "v3-8"}, False),
        ({}, False),
    ],
)
def test_tensorflow_gets_the_plugin_on_tpu_v5e_only(tmp_path, environment, has_plugin):
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "__init__.py").touch()
    names = ("NEXT_PLUGGABLE_DEVICE_USE_C_API", "TF_PLUGGABLE_DEVICE_LIBRARY_PATH")
    code = (
        "import os\n"
        "from imgpipe.components.common.tpu_plugin import use_tpu_plugin\n"
        "use_tpu_plugin()\n"
        f"print(*(os.environ.get(name, '') for name in {names}), sep='\\n')\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run_python(code, env={**os.environ, "PYTHONPATH": path, **environment})
    expected = ["true", str(tmp_path / "libtpu" / "libtpu.so")] if has_plugin else ["", ""]
    assert result.stdout.split("\n")[:2] == expected
