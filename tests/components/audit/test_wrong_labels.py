"""Labels that the other images contradict."""

import numpy as np
import pytest

from imgpipe.components.audit.wrong_labels import (
    _left_out,
    find_wrong_labels,
    kernel_directions,
    out_of_sample_probabilities,
)


@pytest.fixture
def clusters():
    """Features of 3 classes of 60 images each, and their classes."""
    draw = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 60)
    centers = draw.normal(0, 1, (3, 40))
    return (centers[classes] + draw.normal(0, 0.7, (180, 40))).astype(np.float32), classes


def test_planted_wrong_labels_are_found_with_the_right_ones(clusters):
    features, truth = clusters
    planted = truth.copy()
    wrong = [3, 40, 70, 100, 130, 170]
    planted[wrong] = (truth[wrong] + 1) % 3
    found = {doubt.number: doubt.suggested for doubt in find_wrong_labels(features, planted, 3)}
    assert found == {number: truth[number] for number in wrong}


def test_right_labels_are_not_doubted(clusters):
    assert find_wrong_labels(*clusters, 3) == []


def test_a_label_with_few_images_is_neither_judged_nor_suggested(clusters):
    features, classes = clusters
    few = np.concatenate([np.arange(120), np.arange(120, 129)])
    planted = classes[few].copy()
    planted[[0, 125]] = 2, 1
    found = find_wrong_labels(features[few], planted, 3)
    assert all(doubt.suggested != 2 for doubt in found)
    assert 0 not in {doubt.number for doubt in found}


def test_a_copy_does_not_confirm_a_wrong_label(clusters):
    features, classes = clusters
    features[1], features[2] = features[0], features[0]
    planted = classes.copy()
    planted[:3] = 1
    copies = out_of_sample_probabilities(features, planted, 3, [(0, 1, 2)])
    assert (copies[:3, 0] > 0.8).all()
    assert (out_of_sample_probabilities(features, planted, 3)[:3, 1] > copies[:3, 1]).all()


def test_what_is_left_out_does_not_matter(clusters):
    # The closed form is that of a fit without the image, whose own label then cannot matter.
    features, classes = clusters
    directions, variances = kernel_directions(features)
    one, other = np.eye(3)[classes], np.eye(3)[classes]
    other[[7, 9]] = [0, 0, 1]
    for groups, numbers in (((), [7]), (((7, 9),), [7, 9])):
        changed = one.copy()
        changed[numbers] = other[numbers]
        found = [
            _left_out(directions, variances, targets, 0.3, groups)[numbers] for targets in (one, changed)
        ]
        assert np.allclose(found[0], found[1], atol=1e-3)


def test_an_image_with_hundreds_of_copies_is_not_judged(clusters):
    features, classes = clusters
    features = np.concatenate([features, np.repeat(features[:1], 500, axis=0)])
    labels = np.eye(3)[np.concatenate([classes, np.arange(500) % 3])]
    copies = [0, *range(len(classes), len(features))]
    predicted = _left_out(*kernel_directions(features), labels, 0.1, [copies])
    assert (predicted[copies] == labels[copies]).all()
    assert (predicted[1 : len(classes)] != labels[1 : len(classes)]).any(axis=1).all()
