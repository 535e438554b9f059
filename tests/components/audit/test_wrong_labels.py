"""Labels that the other images contradict."""

import numpy as np
import pytest

from imgpipe.components.audit.wrong_labels import (
    _left_out,
    find_wrong_labels,
    out_of_sample_probabilities,
    principal_directions,
    wrong_label_probabilities,
)


@pytest.fixture
def clusters():
    """Features of 3 classes of 60 images each, and their classes."""
    return clusters_of(3, 60)


def clusters_of(classes, images, spread=0.7, seed=0):
    draw = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(classes), images)
    centers = draw.normal(0, 1, (classes, 40))
    features = centers[numbers] + draw.normal(0, spread, (len(numbers), 40))
    return features.astype(np.float32), numbers


def test_planted_wrong_labels_are_found_with_the_right_ones(clusters):
    features, truth = clusters
    planted = truth.copy()
    wrong = [3, 40, 70, 100, 130, 170]
    planted[wrong] = (truth[wrong] + 1) % 3
    found = {doubt.number: doubt.suggested for doubt in find_wrong_labels([features], planted, 3)}
    assert found == {number: truth[number] for number in wrong}


def test_right_labels_are_not_doubted(clusters):
    features, classes = clusters
    assert find_wrong_labels([features], classes, 3) == []


def test_a_label_with_few_images_is_neither_judged_nor_suggested(clusters):
    features, classes = clusters
    few = np.concatenate([np.arange(120), np.arange(120, 129)])
    planted = classes[few].copy()
    planted[[0, 125]] = 2, 1
    found = find_wrong_labels([features[few]], planted, 3)
    assert all(doubt.suggested != 2 for doubt in found)
    assert 0 not in {doubt.number for doubt in found}


def test_a_copy_does_not_confirm_a_wrong_label(clusters):
    features, classes = clusters
    features[1], features[2] = features[0], features[0]
    planted = classes.copy()
    planted[:3] = 1
    copies = out_of_sample_probabilities([features], planted, 3, [(0, 1, 2)])
    assert (copies[:3, 0] > 0.8).all()
    assert (out_of_sample_probabilities([features], planted, 3)[:3, 1] > copies[:3, 1]).all()


def test_what_is_left_out_does_not_matter(clusters):
    # The closed form is that of a fit without the image, whose own label then cannot matter.
    features, classes = clusters
    directions, variances = principal_directions(features)
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
    predicted = _left_out(*principal_directions(features), labels, 0.1, [copies])
    assert (predicted[copies] == labels[copies]).all()
    assert (predicted[1 : len(classes)] != labels[1 : len(classes)]).any(axis=1).all()


@pytest.mark.parametrize("part", [0.02, 0.05, 0.2])
@pytest.mark.parametrize(("num_classes", "spread"), [(5, 1.8), (50, 1.0)])
def test_the_probability_to_be_wrong_is_true(num_classes, spread, part):
    features, truth = clusters_of(num_classes, 2000 // num_classes, spread)
    draw = np.random.default_rng(1)
    wrong = draw.random(len(truth)) < part
    planted = np.where(wrong, (truth + draw.integers(1, num_classes, len(truth))) % num_classes, truth)
    found = find_wrong_labels([features], planted, num_classes)
    precision = wrong[[doubt.number for doubt in found]].mean()
    # At least what the scores say, but for chance; most are found.
    assert precision > np.mean([doubt.score for doubt in found]) - 0.1
    assert wrong[[doubt.number for doubt in found]].sum() > 0.7 * wrong.sum()


def test_layers_that_see_different_things_find_more_together():
    features, truth = clusters_of(4, 150, 1.6)
    planted = truth.copy()
    wrong = np.arange(0, 600, 20)
    planted[wrong] = (truth[wrong] + 1) % 4
    halves = [features[:, :20], features[:, 20:]]

    def found(layers):
        doubts = wrong_label_probabilities(out_of_sample_probabilities(layers, planted, 4), planted)
        return np.isin(np.argsort(-doubts)[: len(wrong)], wrong).sum()

    assert found(halves) > max(found(halves[:1]), found(halves[1:]))


def test_without_any_difference_between_the_images_no_label_is_doubted():
    features = np.ones((40, 8), np.float32)
    assert find_wrong_labels([features], np.arange(40) % 2, 2) == []
