import numpy as np

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.evaluate.slices import SliceReader, measure_slices


def test_a_record_tells_its_format_its_size_and_whether_it_was_encoded_anew():
    reader = SliceReader(Manifest(("a",), {}, {"reencoded": [{"path": "b.png", "reason": "transparency"}]}))
    assert reader.slices_of(ImageRecord(b"", 1, "a", "b.png", "PNG", 300, 127)) == (
        ("format", "PNG"),
        ("shorter side", "under 128 pixels"),
        ("encoded anew", "yes"),
    )
    assert reader.slices_of(ImageRecord(b"", 1, "a", "c.jpg", "JPEG", 128, 4000))[1:] == (
        ("shorter side", "128 to 255 pixels"),
        ("encoded anew", "no"),
    )
    assert reader.slices_of(ImageRecord(b"", 1, "a", "c.jpg", "JPEG", 1024, 1024))[1] == (
        "shorter side",
        "1024 pixels and more",
    )


def test_a_record_that_says_nothing_is_in_no_slice():
    assert SliceReader(Manifest(("a",), {}, {})).slices_of(ImageRecord(b"", 1)) == ()


def test_slices_are_measured_where_they_divide_the_images_the_largest_first():
    jpeg, png = ("format", "JPEG"), ("format", "PNG")
    small = ("shorter side", "under 128 pixels")
    found = measure_slices([(png, small), (jpeg, small), (jpeg, small)], np.array([True, True, False]))
    assert [(one.name, one.value, one.examples, one.top_1_accuracy) for one in found] == [
        ("format", "JPEG", 2, 0.5),
        ("format", "PNG", 1, 1.0),
    ]
