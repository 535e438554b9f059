import numpy as np
import pytest

from imgpipe.components.evaluate.thresholds import STEPS, count_thresholds

CLASSES = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]], np.float32)


def test_all_classes_count_the_most_probable_class_of_each_image():
    everything = count_thresholds(CLASSES, PROBABILITIES, ("a", "b"))[0]
    assert (everything.name, everything.support) == ("", 4)
    # Predicted: a 0.9 (right), b 0.6 (wrong), b 0.8 (right), a 0.5 (wrong).
    assert (everything.predicted[0], everything.hits[0]) == (4, 2)
    at_70 = 35
    assert (everything.predicted[at_70], everything.hits[at_70]) == (2, 2)
    assert everything.precision(at_70) == 1
    assert everything.recall(at_70) == 0.5
    assert everything.precision(STEPS) is None


def test_a_class_counts_its_own_probability():
    of_a = count_thresholds(CLASSES, PROBABILITIES, ("a", "b"))[1]
    assert (of_a.name, of_a.support) == ("a", 2)
    # At exactly 50%, the image with a probability of 0.5 is predicted.
    assert (of_a.predicted[25], of_a.hits[25]) == (2, 1)
    assert (of_a.predicted[26], of_a.hits[26]) == (1, 1)


def test_multi_label_data_counts_every_label():
    targets = np.array([[True, True], [False, True]])
    probabilities = np.array([[0.9, 0.3], [0.6, 0.7]], np.float32)
    everything, of_a, of_b = count_thresholds(targets, probabilities, ("a", "b"))
    assert (everything.support, everything.predicted[25], everything.hits[25]) == (3, 3, 2)
    assert (of_a.support, of_b.support) == (1, 2)
    assert of_b.recall(25) == 0.5


def test_a_class_without_images_has_no_recall():
    of_b = count_thresholds(np.array([0]), np.array([[0.9, 0.1]], np.float32), ("a", "b"))[2]
    assert of_b.recall(0) is None


@pytest.mark.parametrize("classes", [200, 203])
def test_at_most_two_hundred_classes_are_counted_those_with_the_most_images(classes):
    labels = tuple(str(number) for number in range(classes))
    true = np.arange(classes)[-200:]
    counts = count_thresholds(true, np.full((200, classes), 1 / classes, np.float32), labels)
    assert [count.name for count in counts[1:]] == list(labels[-200:])
