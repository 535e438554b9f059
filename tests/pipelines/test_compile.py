"""The compiled pipelines: what was reviewed is what runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.common.arguments import description_of, flat_fields
from pipelines.parameters import PIPELINE_ARGUMENTS

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "pipelines" / "compiled"
TARGETS = ("local", "kubeflow")
KFP_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}


def spec_of(target):
    documents = yaml.safe_load_all((COMPILED / target / "image_classification.yaml").read_text())
    return next(iter(documents))


def compile_py(root, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "compile.py", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        check=False,
    )


@pytest.fixture
def copy_of_project(tmp_path):
    root = tmp_path / "elsewhere"
    root.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copy(ROOT / "compile.py", root)
    for name in ("components", "pipelines", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    return root


def test_compiling_elsewhere_in_another_environment_gives_the_committed_bytes(copy_of_project):
    committed = {file.relative_to(COMPILED): file.read_bytes() for file in COMPILED.rglob("*.yaml")}
    compiled = copy_of_project / "pipelines" / "compiled"
    shutil.rmtree(compiled)
    result = compile_py(
        copy_of_project,
        PYTHONHASHSEED="7",
        TZ="Asia/Tokyo",
        HOME="/nonexistent",
        LANG="de_DE.UTF-8",
        USER="somebody",
        KFP_PACKAGE_PATH="",
    )
    assert result.returncode == 0, result.stderr
    assert {file.relative_to(compiled): file.read_bytes() for file in compiled.rglob("*.yaml")} == committed


def test_check_passes_on_what_is_committed():
    result = compile_py(ROOT, "--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_check_fails_when_the_arguments_page_is_old(copy_of_project):
    page = copy_of_project / "docs" / "arguments.md"
    page.write_text(page.read_text() + "by hand\n")
    result = compile_py(copy_of_project, "--check")
    assert result.returncode == 1
    assert "docs/arguments.md" in result.stderr


@pytest.mark.parametrize("change", ["edited", "missing", "left over"])
def test_check_fails_on_drift_and_names_the_file(copy_of_project, change):
    file = copy_of_project / "pipelines" / "compiled" / "kubeflow" / "image_classification.yaml"
    if change == "edited":
        file.write_text(file.read_text().replace("mobilenet-v2 is the smallest", "mobilenet-v2 is small"))
    elif change == "missing":
        file.unlink()
    else:
        file = file.with_name("forgotten.yaml")
        file.write_text("a: 1\n")
    result = compile_py(copy_of_project, "--check")
    assert result.returncode == 1
    assert f"pipelines/compiled/kubeflow/{file.name}" in result.stderr
    assert "make compile" in result.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_every_pipeline_input_has_the_type_default_and_description_of_its_argument(target):
    inputs = spec_of(target)["root"]["inputDefinitions"]["parameters"]
    fields = flat_fields(PIPELINE_ARGUMENTS)
    assert {
        name: (one["parameterType"], one["defaultValue"], one["description"]) for name, one in inputs.items()
    } == {
        name: (KFP_TYPES[type(field.default)], field.default, description_of(field))
        for name, field in fields.items()
    }


def test_every_description_is_a_sentence_for_a_person():
    for name, field in flat_fields(PIPELINE_ARGUMENTS).items():
        description = field.metadata["description"]
        assert len(description) >= 14, name
        assert description[0].isupper() or description[0].isdigit(), name
        assert description.endswith("."), name


@pytest.mark.parametrize("target", TARGETS)
def test_no_compiled_file_holds_a_path_a_date_a_project_or_a_moving_tag(target):
    text = (COMPILED / target / "image_classification.yaml").read_text()
    assert not re.search(
        r":latest\b|\b20\d\d-\d\d-\d\d|gs://\w|projects/|/home/|/tmp/|" + re.escape(str(ROOT)), text
    )


def test_the_targets_graphs_agree():
    graphs = []
    for target in TARGETS:
        spec = spec_of(target)
        tasks = spec["root"]["dag"]["tasks"]
        for task in tasks.values():
            task.pop("cachingOptions", None)
        executors = spec["deploymentSpec"]["executors"]
        for executor in executors.values():
            executor["container"].pop("resources", None)
        graphs.append((spec["components"], executors, tasks, spec["root"]["inputDefinitions"]))
    assert graphs[0] == graphs[1]


def test_training_starts_only_after_validation():
    tasks = spec_of("kubeflow")["root"]["dag"]["tasks"]
    assert "validate" in tasks["train"]["dependentTasks"]


def test_the_kubeflow_interface_gets_metrics_confusion_matrix_and_pages():
    components = spec_of("kubeflow")["components"]
    kinds = {
        name: artifact["artifactType"]["schemaTitle"]
        for component in ("comp-evaluate", "comp-validate")
        for name, artifact in components[component]["outputDefinitions"]["artifacts"].items()
    }
    assert kinds["metrics"] == "system.Metrics"
    assert kinds["classification_metrics"] == "system.ClassificationMetrics"
    assert kinds["report"] == "system.HTML"


def test_no_step_is_cached_by_the_path_of_its_data():
    """Corrected images under the same path would be served the old data set."""
    spec = spec_of("kubeflow")
    graphs = [spec["root"], *(one for one in spec["components"].values() if "dag" in one)]
    steps = {
        name: task
        for graph in graphs
        for name, task in graph["dag"]["tasks"].items()
        # A condition is a graph, not a step.
        if not name.startswith("condition")
    }
    assert set(steps) == {"convert", "validate", "train", "evaluate", "export", "gate", "deploy"}
    assert not any(task["cachingOptions"].get("enableCache") for task in steps.values())


def test_compiling_does_not_import_tensorflow():
    code = "import sys; import compile as c; c.drifted_files(); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
