"""Code that runs in a container does not import code that builds pipelines."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(
    "file", sorted((ROOT / "components").rglob("*.py")), ids=lambda file: file.parent.name + "/" + file.name
)
def test_a_component_does_not_import_pipelines(file):
    assert not [name for name in imported(file) if name.startswith("imgpipe.pipelines")]


@pytest.mark.parametrize(
    "module",
    [
        "imgpipe.components.convert.__main__",
        "imgpipe.components.convert.component",
        "imgpipe.components.custom_job.custom_job",
        "imgpipe.components.data_version.data_version",
        "imgpipe.components.preflight.preflight",
    ],
)
def test_a_step_that_needs_no_tensorflow_does_not_import_it(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
