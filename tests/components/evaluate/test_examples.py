import base64
import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.records import ImageRecord
from imgpipe.components.evaluate import examples as examples_module
from imgpipe.components.evaluate.examples import Example, _draw_attention, choose_examples, with_pictures

LABELS = ("a", "b", "c")


def predictions(cells):
    """Returns the classes and probabilities for a list of (true, predicted, probability)."""
    classes = np.array([true for true, _, _ in cells])
    probabilities = np.zeros((len(cells), 3), np.float32)
    for row, (_, predicted, probability) in zip(probabilities, cells, strict=True):
        row[:] = (1 - probability) / 2
        row[predicted] = probability
    return classes, probabilities


def record(name: str) -> ImageRecord:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (10, 200, 30)).save(buffer, "PNG")
    return ImageRecord(buffer.getvalue(), filename=name)


def test_the_worst_mistakes_come_first_with_the_probability_of_the_true_class():
    chosen = choose_examples(*predictions([(0, 1, 0.5), (0, 2, 0.9), (1, 1, 0.8)]), LABELS)
    assert [(example.index, example.cell) for example in chosen] == [(1, (0, 2)), (0, (0, 1)), (2, (1, 1))]
    assert (chosen[0].true_label, chosen[0].predicted_label) == ("a", "c")
    assert np.isclose(chosen[0].probability, 0.9)
    assert np.isclose(chosen[0].true_probability, 0.05)
    assert [example.is_correct for example in chosen] == [False, False, True]


def test_equal_mistakes_keep_the_order_of_the_images():
    chosen = choose_examples(*predictions([(0, 1, 0.5), (1, 0, 0.8), (2, 0, 0.8), (1, 2, 0.8)]), LABELS)
    assert [example.index for example in chosen] == [1, 2, 3, 0]


def test_the_least_certain_correct_predictions_of_each_class_are_shown():
    cells = [(0, 0, 0.9), (0, 0, 0.5), (0, 0, 0.8), (0, 0, 0.7), (2, 2, 0.95)]
    chosen = choose_examples(*predictions(cells), LABELS)
    assert [example.index for example in chosen] == [1, 3, 2, 4]


def test_every_cell_has_its_worst_mistake_before_any_has_its_second(monkeypatch):
    monkeypatch.setattr(examples_module, "_LARGE", 1)
    cells = [(0, 1, 0.99), (0, 1, 0.98), (0, 1, 0.97), (1, 0, 0.6), (2, 0, 0.5)]
    chosen = choose_examples(*predictions(cells), LABELS)
    assert [example.index for example in chosen] == [0, 3, 4, 1, 2]


def test_a_wrong_decision_of_multi_label_data_names_the_label():
    targets = np.array([[True, False, False], [False, True, True]])
    probabilities = np.array([[0.1, 0.8, 0.2], [0.3, 0.9, 0.6]], np.float32)
    chosen = choose_examples(targets, probabilities, LABELS)
    assert [(example.index, example.true_label, example.predicted_label) for example in chosen] == [
        (0, "a", "not a"),
        (0, "a", "b"),
    ]
    assert [example.probability for example in chosen] == pytest.approx([0.9, 0.8])
    assert not any(example.is_correct for example in chosen)


def test_pictures_and_names_belong_to_the_records():
    chosen = [Example(2, "a", "b", 1, 0.9), Example(0, "a", "b", 1, 0.8)]
    complete = with_pictures(chosen, (record(f"{number}.png") for number in range(4)))
    assert [example.filename for example in complete] == ["2.png", "0.png"]
    assert all(example.picture.startswith("data:image/jpeg") for example in complete)


def test_an_image_that_cannot_be_decoded_has_no_picture():
    (example,) = with_pictures([Example(0, "a", "b", 1, 0.9)], iter([ImageRecord(b"no image", filename="x")]))
    assert (example.picture, example.filename) == ("", "x")


def test_pictures_that_do_not_fit_into_the_page_are_left_out(monkeypatch):
    one = len(with_pictures([Example(0, "a", "b", 1, 0.9)], iter([record("x")]))[0].picture)
    monkeypatch.setattr(examples_module, "MAX_PICTURE_BYTES", 2 * one)
    chosen = [Example(number, "a", "b", 1, 0.9) for number in range(3)]
    complete = with_pictures(chosen, (record("x") for _ in range(3)))
    assert [bool(example.picture) for example in complete] == [True, True, False]


def test_the_worst_mistakes_are_explained_with_their_predicted_class():
    asked = []

    def explain(images, classes):
        asked.append((list(images), list(classes)))
        attention = np.zeros((2, 2, 2), np.float32)
        attention[0, 0, 0] = 1
        return attention

    chosen = [
        Example(2, "a", "b", 1, 0.9, 0.1, (0, 1)),
        Example(0, "a", "c", 2, 0.8, 0.1, (0, 2)),
        Example(1, "a", "a", 0, 0.8, 0.8, (0, 0)),
    ]
    records = [record(f"{number}.png") for number in range(3)]
    complete = with_pictures(chosen, iter(records), explain)
    assert asked == [([records[2].encoded, records[0].encoded], [1, 2])]
    # Nothing supports the second one's class.
    assert [bool(example.attention) for example in complete] == [True, False, False]
    encoded = base64.b64decode(complete[0].attention.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), int)
    assert pixels[5, 5, 0] > pixels[-5, -5, 0] + 50


@pytest.mark.parametrize(("resize", "strong"), [("stretch", 20), ("crop", 10), ("letterbox", 20)])
def test_the_attention_lies_on_what_the_network_saw(resize, strong):
    attention = np.zeros((1, 20), np.float32).repeat(20, axis=0)
    attention[:, 10:] = 1
    picture = np.asarray(_draw_attention(Image.new("RGB", (40, 20)), attention, resize), int)
    # Half of the columns of what the network saw: all 40, the middle 20, or all 40.
    found = picture[10, :, 0] > picture[10, :, 0].max() / 2
    assert found.sum() == strong


def test_a_network_without_features_to_explain_has_no_such_pictures():
    chosen = [Example(0, "a", "b", 1, 0.9)]
    (example,) = with_pictures(chosen, iter([record("x")]), lambda *_: None)
    assert example.picture
    assert not example.attention
