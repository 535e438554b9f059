import numpy as np

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.evaluate.slices import SliceReader, compute_slices


def test_a_record_has_slices_for_format_size_and_reencoding():
    reader = SliceReader(Manifest(("a",), {}, {"reencoded": [{"path": "b.png", "reason": "transparency"}]}))
    assert reader.slices_of(ImageRecord(b"", 1, "a", "b.png", "PNG", 300, 127)) == (
        ("format", "PNG"),
        ("shorter side", "under 128 pixels"),
        ("re-encoded", "yes"),
    )
    assert reader.slices_of(ImageRecord(b"", 1, "a", "c.jpg", "JPEG", 128, 4000))[1:] == (
        ("shorter side", "128 to 255 pixels"),
        ("re-encoded", "no"),
    )
    assert reader.slices_of(ImageRecord(b"", 1, "a", "c.jpg", "JPEG", 1024, 1024))[1] == (
        "shorter side",
        "1024 pixels and more",
    )


def test_a_record_without_properties_has_no_slices():
    assert SliceReader(Manifest(("a",), {}, {})).slices_of(ImageRecord(b"", 1)) == ()


def test_only_properties_with_several_values_give_slices_the_largest_first():
    jpeg, png = ("format", "JPEG"), ("format", "PNG")
    small = ("shorter side", "under 128 pixels")
    found = compute_slices([(png, small), (jpeg, small), (jpeg, small)], np.array([True, True, False]))
    assert [(part.name, part.value, part.examples, part.top_1_accuracy) for part in found] == [
        ("format", "JPEG", 2, 0.5),
        ("format", "PNG", 1, 1.0),
    ]
