import io
import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.dataset import Manifest, Shard, Split
from imgpipe.components.common.html_page import thumbnail_source
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.evaluate.examples import Example, choose_examples, with_pictures
from imgpipe.components.evaluate.report import add_run
from imgpipe.components.evaluate.thresholds import count_thresholds

from .report_page import report_page

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
    return report_page(true, probabilities, labels, manifest(labels), **{"provenance": PROVENANCE, **changes})


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (300, 200), (10, 200, 30, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def example(**changes: Any) -> Example:
    values = {
        "index": 4,
        "true_label": "daisy",
        "predicted_label": "roses",
        "predicted_class": 1,
        "probability": 0.912,
        "true_probability": 0.051,
        "cell": (0, 1),
        "filename": "photos/a.png",
        "picture": thumbnail_source(png()),
        **changes,
    }
    return Example(**values)


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.replace("<wbr>", "")).split())


def test_page_shows_accuracies_loss_and_number_of_images():
    text = text_of(page())
    assert "83.33% top-1 accuracy" in text
    assert "100.00% top-3 accuracy" in text
    assert "loss (cross-entropy)" in text
    assert "6 images" in text
    assert "best step 100" in text


def test_page_shows_both_learning_curves_and_marks_the_best_step():
    html = page()
    curves = html[html.index("<h2>Learning curves") :].partition("</section>")[0]
    assert curves.count("<svg") == 2
    assert curves.count("<polyline") == 3
    assert html.count("best: step 100") == 2
    assert "training: 0.2 at 150" in html
    assert "validation: 0.7 at 100" in html


def test_page_shows_the_networks_among_which_one_was_selected():
    probes = [
        {"model_type": "mobilenet-v2", "milliseconds": 14.26, "accuracy": 0.8625, "reason": ""},
        {"model_type": "resnet-50", "milliseconds": None, "accuracy": None, "reason": "no time was left"},
    ]
    race = {"model_type": "mobilenet-v2", "probes": probes}
    text = text_of(page(provenance={**PROVENANCE, "model_race": race}))
    assert "mobilenet-v2 (selected) 86.25% 14.3 resnet-50 no time was left" in text
    assert "Selection of the network" not in text_of(page())


def test_page_shows_recall_and_precision_and_support_of_every_class():
    html = page()
    row = text_of(html[html.index('<th scope="row">roses') :].partition("</tr>")[0])
    # Two images of roses, both predicted correctly; three images predicted as roses; ten in each split.
    assert row == "roses 100.0% 66.7% 0.800 2 3 10 10"


def test_the_classes_with_the_lowest_f1_are_the_first():
    rows = re.findall(r'<th scope="row">(daisy|roses|tulips)', page())
    assert rows[:3] == ["daisy", "roses", "tulips"]
    rows = re.findall(r'<th scope="row">([abc])<', page(("b", "c", "a")))
    assert rows[:3] == ["b", "c", "a"]


def test_undefined_fraction_is_a_dash():
    labels = ("a", "b")
    html = report_page(np.array([0]), np.array([[0.9, 0.1]], np.float32), labels, manifest(labels))
    row = text_of(html[html.index('<th scope="row">b') :].partition("</tr>")[0])
    assert row == "b \N{EN DASH} \N{EN DASH} \N{EN DASH} 0 0 10 10"


def test_up_to_fifty_classes_are_shown_as_a_matrix():
    html = page(tuple(f"class {number:02}" for number in range(50)))
    assert '<table class="heat' in html
    assert "Most confused classes" not in html


def test_more_than_fifty_classes_are_shown_as_the_most_confused_pairs():
    html = page(tuple(f"class {number:02}" for number in range(51)))
    assert '<table class="heat' not in html
    assert "Most confused classes" in html
    assert "true class predicted class images class 00 class 01 1" in text_of(html)


def test_page_shows_mistakes_with_their_images_and_both_probabilities():
    html = page(examples=[example()])
    assert html.count('<img src="data:image/jpeg;base64,') == 1
    assert "roses 91.2% true: daisy 5.1% photos/a.png" in text_of(html)


def test_a_mistake_without_a_picture_is_still_listed():
    html = page(examples=[example(picture="")])
    assert "no picture" in html
    assert "photos/a.png" in text_of(html)


def test_a_cell_of_the_matrix_and_its_pictures_have_the_same_name():
    html = page(examples=[example(), example(true_label="roses", cell=(1, 1), index=5)])
    assert html.count('<td data-cell="0-1"') == html.count('<li data-in="0-1"') == 1
    assert html.count('<td data-cell="1-1"') == html.count('<li data-in="1-1" hidden') == 1


def test_the_page_has_the_counts_at_every_threshold():
    classes, probabilities = np.array([0, 1]), np.array([[0.9, 0.1], [0.3, 0.7]], np.float32)
    html = page(("a", "</script>"), thresholds=count_thresholds(classes, probabilities, ("a", "</script>")))
    data = json.loads(re.search(r'id="threshold-data">(.*?)</script>', html)[1])
    assert [counts["name"] for counts in data] == ["", "a", "</script>"]
    assert data[0]["hits"][0] == data[0]["support"] == 2
    assert "Precision and recall by threshold" in html


def test_the_run_is_added_with_its_command_gate_and_deployment():
    checks = [
        {"name": "min_accuracy", "passed": True, "reason": "top-1 accuracy 0.9"},
        {"name": "min_class_recall", "passed": False, "reason": "recall: <b> 0.1"},
    ]
    blocked = {"passed": False, "summary": "blocked, not deployed: recall", "checks": checks}
    about = {"command": r"imgpipe run --images='\1<i>'", "duration": "12 s"}
    original = page(about={"machine": "Linux"})
    html = add_run(original, about, gate=blocked, deployment="", deployed=False)
    text = text_of(html)
    assert "data set 60 images, 3 labels machine Linux command imgpipe run" in text
    assert "gate blocked min_accuracy : top-1 accuracy 0.9 failed: min_class_recall : recall:" in text
    assert "deployment none: blocked, not deployed: recall" in text
    assert "<i>" not in html.replace("<i ", "")
    assert r"\1" in html
    deployed = add_run(original, {}, gate={**blocked, "passed": True}, deployment="to /srv", deployed=True)
    assert "deployment deployed to /srv" in text_of(deployed)
    failed = add_run(original, {}, gate=None, deployment="no answer", deployed=False)
    assert "deployment failed no answer" in text_of(failed)


def test_a_page_of_many_classes_and_mistakes_is_small_enough_for_kubeflow():
    labels = tuple(f"a label of a class, number {number:04}" for number in range(3000))
    classes = np.arange(3000)
    probabilities = np.full((3000, 3000), 1e-4, np.float32)
    probabilities[classes, (classes + 1) % 3000] = 0.5
    noise = np.random.default_rng(0)
    records = []
    for number in range(3000):
        buffer = io.BytesIO()
        if number < 1000:
            pixels = noise.integers(0, 255, (96, 96, 3), np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
        records.append(ImageRecord(buffer.getvalue(), filename=f"photos/of/the/set/{number:09}.jpg"))
    examples = with_pictures(choose_examples(classes, probabilities, labels), iter(records))
    html = report_page(classes, probabilities, labels, manifest(labels), examples=examples)
    assert 3_500_000 < len(html.encode()) < 5_000_000


def test_page_shows_arguments_versions_and_data():
    text = text_of(page())
    assert "learning_rate 0.001" in text
    assert "label_map ''" in text.replace("&#39;", "'")
    assert "tensorflow 2.21.0" in text
    assert "validation 30" in text
    assert "0123456789abcdef0123" in text


@pytest.mark.parametrize("missing", sorted(PROVENANCE))
def test_page_is_complete_without_parts_of_the_provenance(missing):
    provenance = {key: value for key, value in PROVENANCE.items() if key != missing}
    assert "</html>" in page(provenance=provenance)


def test_page_shows_what_the_training_decided_and_why():
    html = page(provenance={**PROVENANCE, "decisions": ["only the last layer: <2 epochs fit"]})
    assert "<li>only the last layer: &lt;2 epochs fit</li>" in html


def test_page_without_any_provenance_says_that_no_evaluation_was_recorded():
    html = page(provenance={})
    assert "No evaluations were recorded" in html
    assert manifest(("daisy", "roses", "tulips")).digest() in html


def test_labels_file_names_and_arguments_are_escaped():
    evil = "<script>alert('x')</script>"
    html = page(
        (evil, "b"),
        examples=[example(filename=evil, true_label=evil)],
        about={evil: evil},
        provenance={**PROVENANCE, "arguments": {"model_type": evil}, "model_type": evil},
    )
    # The page's own script, and the counts at every threshold.
    assert html.count("<script") == 2
    assert html.count("&lt;script&gt;") >= 5


def test_page_is_self_contained():
    html = page(examples=[example()])
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)|<link|@import|url\(", html)
    # A sandboxed frame has no storage and no cookies.
    assert not re.search(r"localStorage|sessionStorage|cookie|fetch\(|XMLHttpRequest", html)
