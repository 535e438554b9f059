import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.dataset import Manifest, Shard, Split
from imgpipe.components.evaluate.metrics import compute_metrics
from imgpipe.components.evaluate.report import Mistake, evaluation_report

EVALUATIONS = [
    {"step": 50, "top_1_accuracy": 0.5, "top_5_accuracy": 0.9, "loss": 1.5, "train_loss": 1.2},
    {"step": 100, "top_1_accuracy": 0.8, "top_5_accuracy": 1.0, "loss": 0.7, "train_loss": 0.5},
    {"step": 150, "top_1_accuracy": 0.7, "top_5_accuracy": 1.0, "loss": 0.9, "train_loss": 0.2},
]
PROVENANCE = {
    "arguments": {"learning_rate": 0.001, "model_type": "efficientnet-b4", "label_map": ""},
    "evaluations": EVALUATIONS,
    "best_step": 100,
    "model_type": "efficientnet-b4",
    "data_digest": "0123456789abcdef0123",
    "versions": {"tensorflow": "2.21.0"},
}


def manifest(labels: tuple[str, ...]) -> Manifest:
    shard = Shard("train-00000-of-00001", 10 * len(labels), 100, "ab")
    counts = (10,) * len(labels)
    splits = {"train": Split((shard,), counts), "validation": Split((shard,), counts)}
    return Manifest(labels, splits, {})


def page(labels: tuple[str, ...] = ("daisy", "roses", "tulips"), **changes: Any) -> str:
    classes = len(labels)
    true = np.arange(2 * classes) % classes
    probabilities = np.full((2 * classes, classes), 0.1, np.float32)
    probabilities[np.arange(2 * classes), true] = 0.8
    # The first image of class 0 is predicted as class 1.
    probabilities[0, :2] = (0.1, 0.9)
    values = {"provenance": PROVENANCE, "manifest": manifest(labels), **changes}
    return evaluation_report(compute_metrics(true, probabilities), labels, **values)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (300, 200), (10, 200, 30, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_page_shows_accuracies_loss_and_number_of_images():
    text = text_of(page())
    assert "83.33% top-1 accuracy" in text
    assert "100.00% top-3 accuracy" in text
    assert "loss (cross-entropy)" in text
    assert "6 images" in text
    assert "best step 100" in text


def test_page_shows_both_learning_curves_and_marks_the_best_step():
    html = page()
    assert html.count("<svg") == 2
    assert html.count("<polyline") == 3
    assert html.count("best: step 100") == 2
    assert "training: 0.2 at 150" in html
    assert "validation: 0.7 at 100" in html


def test_page_shows_recall_and_precision_and_support_of_every_class():
    html = page()
    row = text_of(html[html.index('<th scope="row">roses') :].partition("</tr>")[0])
    # Two images of roses, both predicted correctly; three images predicted as roses.
    assert row == "roses 100.0% 66.7% 0.800 2 3"


def test_undefined_fraction_is_a_dash():
    metrics = compute_metrics(np.array([0]), np.array([[0.9, 0.1]], np.float32))
    html = evaluation_report(metrics, ("a", "b"), manifest=manifest(("a", "b")), provenance={})
    row = text_of(html[html.index('<th scope="row">b') :].partition("</tr>")[0])
    assert row == "b \N{EN DASH} \N{EN DASH} \N{EN DASH} 0 0"


def test_up_to_fifty_classes_are_shown_as_a_matrix():
    html = page(tuple(f"class {number:02}" for number in range(50)))
    assert '<table class="heat' in html
    assert "Most confused classes" not in html


def test_more_than_fifty_classes_are_shown_as_the_most_confused_pairs():
    html = page(tuple(f"class {number:02}" for number in range(51)))
    assert '<table class="heat' not in html
    assert "Most confused classes" in html
    assert "true class predicted class images class 00 class 01 1" in text_of(html)


def test_page_shows_the_worst_mistakes_with_their_images():
    html = page(mistakes=[Mistake(png(), "photos/a.png", "daisy", "roses", 0.912)])
    assert html.count('<img src="data:image/jpeg;base64,') == 1
    assert "predicted roses, 91.2% label daisy photos/a.png" in text_of(html)


def test_mistake_with_an_unreadable_image_is_still_listed():
    html = page(mistakes=[Mistake(b"not an image", "photos/a.png", "daisy", "roses", 0.9)])
    assert "cannot be shown" in html
    assert "photos/a.png" in html


def test_page_shows_arguments_versions_and_data():
    text = text_of(page())
    assert "learning_rate 0.001" in text
    assert "label_map ''" in text.replace("&#39;", "'")
    assert "tensorflow 2.21.0" in text
    assert "daisy 10 10" in text
    assert "0123456789abcdef0123" in text


@pytest.mark.parametrize("missing", sorted(PROVENANCE))
def test_page_is_complete_without_parts_of_the_provenance(missing):
    provenance = {key: value for key, value in PROVENANCE.items() if key != missing}
    assert "</html>" in page(provenance=provenance)
    assert "</html>" in page(provenance={**PROVENANCE, missing: None})


def test_page_without_any_provenance_says_that_no_evaluation_was_recorded():
    html = page(provenance={})
    assert "No evaluations were recorded" in html
    assert manifest(("daisy", "roses", "tulips")).digest() in html


@pytest.mark.parametrize("missing", sorted(EVALUATIONS[0]))
def test_missing_numbers_of_an_evaluation_are_skipped(missing):
    evaluations = [{key: value for key, value in entry.items() if key != missing} for entry in EVALUATIONS]
    evaluations.append({"step": 200, "top_1_accuracy": float("nan"), "loss": None, "train_loss": "much"})
    html = page(provenance={**PROVENANCE, "evaluations": evaluations})
    assert "</html>" in html
    assert "nan" not in re.sub(r'title="[^"]*"', "", html).lower()


def test_labels_file_names_and_arguments_are_escaped():
    evil = "<script>alert('x')</script>"
    html = page(
        (evil, "b"),
        mistakes=[Mistake(png(), evil, evil, "b", 0.9)],
        provenance={**PROVENANCE, "arguments": {"model_type": evil}, "model_type": evil},
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_page_is_self_contained():
    html = page(mistakes=[Mistake(png(), "a.png", "daisy", "roses", 0.9)])
    assert not re.search(r"https?://|<link|@import|url\(", html)
