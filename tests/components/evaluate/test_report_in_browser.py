"""The script of the report, in a sandboxed frame of a headless browser, as Kubeflow's interface shows it."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from imgpipe.components.common.dataset import Manifest, Shard, Split
from imgpipe.components.evaluate.examples import choose_examples

from .report_page import report_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CLASSES = 40
LABELS = tuple(f"class {number:02}" for number in range(CLASSES))

pytestmark = pytest.mark.skipif(BROWSER is None, reason="NOT CHECKED: no Chromium runs the report's script")


def page() -> str:
    true = np.repeat(np.arange(CLASSES), 3)
    probabilities = np.full((len(true), CLASSES), 0.001, np.float32)
    probabilities[np.arange(len(true)), true] = 0.9
    # Of each class from 8 on, an image is predicted as the next class; of class 20, two.
    for index in (*range(24, len(true), 3), 61):
        probabilities[index] = 0.001
        probabilities[index, (true[index] + 1) % CLASSES] = 0.7
    split = Split((Shard("v", len(true), 1, "ab"),), (3,) * CLASSES)
    manifest = Manifest(LABELS, {"validation": split}, {})
    examples = choose_examples(true, probabilities, LABELS)
    return report_page(true, probabilities, LABELS, manifest, examples=examples)


def run_in_frame(page: str, script: str, folder) -> dict:
    """Runs a script at the end of the page's own, and returns the object that it passes to ``send``."""
    (own,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    both = f"{own}\nconst send = (value) => parent.postMessage(JSON.stringify(value), '*');\n{script}"
    digest = base64.b64encode(hashlib.sha256(both.encode()).digest()).decode()
    page = re.sub("script-src '[^']*'", f"script-src 'sha256-{digest}'", page.replace(own, both))
    (folder / "frame.html").write_text(
        "<pre></pre><script>addEventListener('message', (event) => {"
        "document.querySelector('pre').textContent = event.data; });</script>"
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}"></iframe>',
        encoding="utf-8",
    )
    dump = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=200,
        check=True,
    ).stdout.decode()
    return json.loads(html.unescape(re.search("<pre>(.*?)</pre>", dump, re.DOTALL)[1]))


SCRIPT = """
const table = document.querySelector("table.sortable");
const visible = () => [...table.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => row.cells[0].textContent);
const result = {folded: visible()};
const tools = table.closest("section").querySelector(".tools");
const search = tools.querySelector("input");
search.value = "39";
search.dispatchEvent(new Event("input"));
result.filtered = visible();
search.value = "";
search.dispatchEvent(new Event("input"));
tools.querySelector("button").click();
result.all = visible().length;
table.tHead.querySelector("button").click();
table.tHead.querySelector("button").click();
result.sorted = visible().slice(0, 2);
result.aria = table.tHead.querySelector("th").getAttribute("aria-sort");

document.querySelector('[data-cell="20-21"] button').click();
result.pictures = document.querySelectorAll("#cell li").length;
result.heading = document.querySelector("#cell h3").textContent;
document.querySelector('[data-cell="0-0"] button').click();
result.correct = document.querySelectorAll("#cell li").length;

const list = document.querySelector(".paged");
const shown = () => [...list.children].filter((entry) => !entry.hidden).length;
result.page = shown();
list.nextElementSibling.querySelectorAll("button")[1].click();
result.mistakes = shown();

const text = (name) => document.getElementById(`threshold-${name}`).textContent;
result.threshold = ["value", "precision", "recall", "predicted"].map(text);
slider.value = 40;
slider.dispatchEvent(new Event("input"));
result.higher = ["value", "precision", "recall", "predicted"].map(text);
send(result);
"""


def test_tables_cells_mistakes_and_the_threshold_work_in_a_sandboxed_frame(tmp_path):
    result = run_in_frame(page(), SCRIPT, tmp_path)
    # The worst: class 20 has one correct of three images and a wrong prediction.
    assert result["folded"][0] == "class 20"
    assert len(result["folded"]) == 15
    assert result["filtered"] == ["class 39"]
    assert result["all"] == CLASSES
    assert (result["sorted"], result["aria"]) == (["class 39", "class 38"], "descending")
    assert (result["pictures"], result["correct"]) == (2, 3)
    assert result["heading"].startswith("class 20 predicted as class 21: 2,")
    assert (result["page"], result["mistakes"]) == (24, 33)
    # 120 images, of which 33 are wrong with a probability of 0.7.
    assert result["threshold"] == ["50%", "72.5%", "72.5%", "120"]
    assert result["higher"] == ["80%", "100.0%", "72.5%", "87"]
