"""The commands of the README and the docs work as they stand, and their links lead somewhere."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.common.errors import ERROR_CLASSES
from components.convert.arguments import ConvertArguments
from components.convert.convert import convert
from pipelines.recipes import RECIPES
from tests.end_to_end.runs import IMGPIPE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Given after the documented flags, so that a command takes seconds: what is documented is parsed and run, on
# small data, without the downloaded weights.
SHORT = ["--weights", "none", "--freeze", "none", "--image-size", "32", "--max-steps", "2"]


def prose_of(page):
    """The page without its code blocks, whose brackets are no links."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands():
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                yield pytest.param(line, id=f"{page.name}: {line}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with everything that the documented commands name."""
    folder = tmp_path_factory.mktemp("documented")
    draw = np.random.default_rng(0)
    for label in ("daisy", "tulips"):
        (folder / "flowers" / label).mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flowers" / label / f"{number}.png")
    shutil.copytree(folder / "flowers", folder / "scans")
    rows = [
        f"flowers/{label}/{number}.png,{label}\n" for label in ("daisy", "tulips") for number in range(40)
    ]
    (folder / "train.csv").write_text("".join(rows))
    (folder / "validation.csv").write_text("".join(rows[::4]))
    convert(ConvertArguments(images=str(folder / "flowers")), folder / "data")
    return folder


@pytest.mark.parametrize("command", list(commands()))
def test_a_documented_command_works(command, folder, tmp_path):
    words = shlex.split(command)
    if words[0] == "make":
        result = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        return
    assert words[0] == ".venv/bin/imgpipe", "teach this test to run the command"
    assert words[1] in ("run", "tune"), "teach this test to run the command"
    result = subprocess.run(
        [IMGPIPE, *words[1:], *SHORT, "--job-dir", str(tmp_path / "job")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "job" / "model" / "saved_model.pb").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", prose_of(page)):
        if target and not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_heading_leads_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#]*)#([^)]*)\)", prose_of(page)):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
        assert heading in anchors


def test_every_exit_code_is_documented():
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    for error in ERROR_CLASSES:
        assert f"| {error.exit_code} |" in page


def test_every_recipe_is_documented_with_its_expected_result():
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {recipe.description} | {recipe.expected} |" in page
