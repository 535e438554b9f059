"""Labels that a property of the files gives away."""

import numpy as np

from imgpipe.components.audit.shortcuts import find_shortcuts


def traits_of(classes, share, others):
    """Files of class 0 are PNG with one probability, those of other classes with another."""
    draw = np.random.default_rng(1)
    is_png = draw.random(len(classes)) < np.where(classes == 0, share, others)
    sizes = draw.integers(200, 300, len(classes))
    return [
        {"format": "PNG" if png else "JPEG", "longer side": str(size), "EXIF": "no"}
        for png, size in zip(is_png, sizes, strict=True)
    ]


CLASSES = np.repeat(np.arange(4), 50)


def test_a_format_that_one_label_has_is_found():
    [found] = find_shortcuts(CLASSES, traits_of(CLASSES, 1, 0), 4)
    assert (found.class_index, found.trait, found.value) == (0, "format", "PNG")
    assert (found.share, found.share_of_others) == (1, 0)


def test_a_format_of_most_files_of_a_label_is_found():
    [found] = find_shortcuts(CLASSES, traits_of(CLASSES, 0.7, 0.1), 4)
    assert (found.class_index, found.trait) == (0, "format")


def test_files_that_say_nothing_raise_no_alarm():
    for seed in range(20):
        shuffled = np.random.default_rng(seed).permutation(CLASSES)
        assert find_shortcuts(shuffled, traits_of(CLASSES, 0.5, 0.3), 4) == []


def test_a_weak_tendency_raises_no_alarm():
    assert find_shortcuts(CLASSES, traits_of(CLASSES, 0.4, 0.2), 4) == []


def test_a_label_with_few_images_raises_no_alarm():
    classes = np.array([0] * 9 + [1] * 60)
    assert find_shortcuts(classes, [{"format": "PNG" if c == 0 else "JPEG"} for c in classes], 2) == []


def test_each_label_with_its_own_size_is_found():
    traits = [{"size in pixels": f"{200 + 10 * min(c, 2)} x 200"} for c in CLASSES]
    assert {found.class_index for found in find_shortcuts(CLASSES, traits, 4)} == {0, 1}
