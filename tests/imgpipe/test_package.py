"""What `import imgpipe` brings, and where it can be imported."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import imgpipe
from tests.command_line import run_python

ROOT = Path(__file__).parents[2]


def python(code, cwd, **environment):
    return run_python(code, cwd=cwd, env={"PATH": "", **environment})


def test_every_public_name_is_there_and_documented():
    for name in imgpipe.__all__:
        assert getattr(imgpipe, name).__doc__
    assert set(imgpipe.__all__) <= set(dir(imgpipe))


def test_signatures_and_docstrings_have_every_option_with_its_default():
    for function, defaults in (
        (imgpipe.run, {"images": "", "max_steps": ..., "seed": 0, "recipe": "auto", "progress": True}),
        (imgpipe.tune, {"search_space": None, "images": "", "trial_early_stopping": "auto"}),
        (imgpipe.convert, {"images": "", "validation_fraction": 0.2}),
        (imgpipe.validate, {"num_classes": 0}),
    ):
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in defaults} == defaults
        for name in parameters:
            assert f"\n    {name}: " in function.__doc__
    text = " ".join(imgpipe.run.__doc__.split())
    assert "Default: from the recipe: by the data (head-then-fine-tune, " in text


def test_a_name_is_shown_as_it_is_imported():
    for name in set(imgpipe.__all__) - {"errors"}:
        assert getattr(imgpipe, name).__module__ == "imgpipe"
    assert imgpipe.errors.InvalidDataError.__module__ == "imgpipe.errors"


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        imgpipe.trian  # noqa: B018


def test_importing_loads_none_of_the_libraries():
    heavy = {"tensorflow", "numpy", "kfp", "click", "rich", "PIL"}
    code = f"import sys, imgpipe; sys.exit({heavy} & set(sys.modules) or 0)"
    result = python(code, ROOT)
    assert result.returncode == 0, result.stderr


def test_running_a_pipeline_does_not_load_tensorflow_here():
    code = "import sys, imgpipe; imgpipe.run, imgpipe.Run; sys.exit('tensorflow' in sys.modules)"
    assert python(code, ROOT).returncode == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *build, "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", folder / "installed"]
    subprocess.run([*pip, *install, wheel], check=True)
    return folder / "installed"


def test_the_wheel_holds_one_package_with_all_files(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"bin", "imgpipe"}
    for file in (
        "components/train/train.py",
        "components/common/templates/page.html",
        "pipelines/compiled/local/image_classification.yaml",
        "components/train/recipe_files/digits.yaml",
        "py.typed",
    ):
        assert (installed / "imgpipe" / file).is_file()


@pytest.mark.parametrize("kind", ["package", "folder"])
@pytest.mark.parametrize("first", ["imgpipe", "the other project"])
def test_a_project_with_folders_of_the_same_names_can_use_both(installed, tmp_path, kind, first):
    """A user's `pipelines` once hid ours: No module named 'pipelines.cli'."""
    for name in ("components", "pipelines", "containers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("NAME = __name__\n")
        if kind == "package":
            (tmp_path / name / "__init__.py").write_text("")
    code = (
        "import components.mine, pipelines.mine, imgpipe; from imgpipe.pipelines.cli import imgpipe as cli\n"
        "print(components.mine.NAME, pipelines.mine.NAME, imgpipe.run.__name__, cli.name, imgpipe.__file__)"
    )
    places = [installed, tmp_path] if first == "imgpipe" else [tmp_path, installed]
    result = python(code, tmp_path, PYTHONPATH=":".join(map(str, places)))
    expected = ["components.mine", "pipelines.mine", "run", "imgpipe", str(installed / "imgpipe/__init__.py")]
    assert result.stdout.split() == expected, result.stderr
