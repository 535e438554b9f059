"""The Python code in the README and docs/python.md works in a notebook with a real kernel."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[2]
# Runs before the documented cells, so that they run with a small network, on small data and without
# downloaded weights.
QUICK = """
import imgpipe

SMALL = {"model_type": "resnet-18", "weights": "none", "image_size": 32, "max_steps": 2}

def quick(function):
    def call(*arguments, **options):
        return function(*arguments, **{**SMALL, **options})
    return call

imgpipe.run, imgpipe.tune = quick(imgpipe.run), quick(imgpipe.tune)
"""


def cells_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import imgpipe" in block
    ]


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for label, extension in (("daisy", "jpg"), ("tulips", "png")):
        (tmp_path / "flowers" / label).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "flowers" / label / f"{number}.{extension}")
    return tmp_path


def execute(cells, folder):
    """Returns the executed notebook; an exception in a cell is raised."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()


def output_of(cell):
    outputs = [output for output in cell.outputs if "data" in output]
    return "".join(output.data.get("text/html", output.data.get("text/plain", "")) for output in outputs)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_snippets_of_a_page_work_in_order(page, folder):
    cells = cells_of(page)
    notebook = execute([QUICK, *cells], folder)
    first = output_of(notebook.cells[1])
    for step in ("convert", "validate", "train", "evaluate", "export"):
        assert step in first
    # The progress bar is removed when its step has ended.
    assert "<progress" not in first


def test_progress_is_one_line_that_is_updated_in_place(folder):
    event = (
        '{{"event": "progress", "step": "train", "done": {}, "total": 10, "unit": "steps", "per_second": 2}}'
    )
    cell = f"""
import time
from imgpipe._progress import display

shown = display(True)
for done in ({event.format(3)}, {event.format(7)}):
    shown.show(done)
    time.sleep(0.6)
"""
    outputs = output_of(execute([cell], folder).cells[0])
    assert outputs.count("<progress") == 1
    assert 'value="7" max="10"></progress> 7 of 10 steps, 0:00:02 left' in outputs


def test_the_last_value_of_a_cell_is_shown_as_html(folder):
    notebook = execute(
        [QUICK, 'run = imgpipe.run(images="flowers/", progress=False)', "run.report", "run"], folder
    )
    silent, report, run = notebook.cells[1:]
    assert silent.outputs == []
    assert "<iframe" in output_of(report)
    assert "top-1 accuracy" in output_of(run)
