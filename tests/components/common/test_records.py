import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.records import (
    CLASS_LABEL,
    CLASS_TEXT,
    FILENAME,
    IMAGE_ENCODED,
    ImageRecord,
    _Example,
    class_to_label,
    decode_example,
    encode_example,
    label_to_class,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)


@given(
    st.builds(
        ImageRecord,
        encoded=st.binary(max_size=50),
        label=int64,
        text=texts,
        filename=texts,
        format=texts,
        height=int64,
        width=int64,
    )
)
def test_a_record_round_trips_and_is_serialized_deterministically(record):
    encoded = encode_example(record)
    assert decode_example(encoded, where="here") == record
    assert encode_example(record) == encoded


def test_the_bytes_of_a_record_do_not_change_with_versions():
    # A data set's hash depends on them.
    encoded = encode_example(ImageRecord(b"x", 1, "rose", "a/b.jpg", "JPEG", 3, 4))
    digest = "e36fcf5442624d3a2bdd4ee71c2a1260789e87dc9f3b03b503c3de8604dac5e0"
    assert hashlib.sha256(encoded).hexdigest() == digest
    names = [b"channels", b"class/label", b"class/synset", b"colorspace", b"encoded", b"filename", b"format"]
    positions = [encoded.index(b"image/" + name) for name in names]
    assert positions == sorted(positions)


@pytest.mark.parametrize("size", [0, 1, 2**7 - 1, 2**7, 2**14 - 12, 2**14, 300_000, 2**21])
def test_records_of_every_size_equal_the_library_s_serialization(size):
    record = ImageRecord(b"x" * size, 1, "rose", "a/b.jpg", "JPEG", 3, 4)
    assert_equals_library_serialization(record)


@pytest.mark.parametrize(
    "filename", ["", "a.jpg", "gr\u00fcn.jpg", "odd \udce9.jpg", "f" * 200, "long/" * 5000]
)
@pytest.mark.parametrize(
    "labels",
    [
        {"label": 3, "text": ""},
        {"label": 3, "text": "r" * 300},
        {"labels": ()},
        {"labels": (2,), "texts": ("rose",)},
        {"labels": (1, 2, 300), "texts": ("", "rose", "\u30d0\u30e9")},
        {"labels": tuple(range(1, 1001)), "texts": tuple(f"label {n}" for n in range(1, 1001))},
    ],
    ids=["no name", "long name", "no label", "one in a list", "three", "a thousand"],
)
def test_names_and_lists_of_labels_equal_the_library_s_serialization(labels, filename):
    assert_equals_library_serialization(ImageRecord(b"jpeg", filename=filename, **labels))


def assert_equals_library_serialization(record):
    """Compares with the deterministic serialization of a message by the protocol buffers library."""
    texts = (record.text,) if record.labels is None else record.texts
    message = _Example()
    for name, kind, values in (
        (IMAGE_ENCODED, "bytes_list", [record.encoded]),
        (CLASS_LABEL, "int64_list", record.all_labels),
        (CLASS_TEXT, "bytes_list", [text.encode() for text in texts]),
        (FILENAME, "bytes_list", [record.filename.encode("utf-8", "surrogateescape")]),
        ("image/channels", "int64_list", [3]),
        ("image/colorspace", "bytes_list", [b"RGB"]),
        ("image/format", "bytes_list", [record.format.encode()]),
        ("image/height", "int64_list", [record.height]),
        ("image/width", "int64_list", [record.width]),
    ):
        values_of = getattr(message.features.feature[name], kind)
        # Sets the kind of an empty list.
        values_of.SetInParent()
        values_of.value.extend(values)
    assert encode_example(record) == message.SerializeToString(deterministic=True)


def test_labels_on_disk_start_at_one():
    assert label_to_class(1) == 0
    assert [class_to_label(label_to_class(label)) for label in range(1, 5)] == [1, 2, 3, 4]


def example(**features):
    message = _Example()
    for name, (kind, values) in features.items():
        getattr(message.features.feature[name.replace("__", "/")], kind).value.extend(values)
    return message.SerializeToString(deterministic=True)


IMAGE = ("bytes_list", [b"jpeg"])
LABEL = ("int64_list", [3])


def test_only_image_and_label_are_required():
    record = decode_example(example(image__encoded=IMAGE, image__class__label=LABEL), where="here")
    assert record == ImageRecord(b"jpeg", 3)


def test_malformed_optional_features_are_ignored():
    record = decode_example(
        example(
            image__encoded=IMAGE,
            image__class__label=LABEL,
            image__class__synset=("int64_list", [5]),
            image__height=("bytes_list", [b"5"]),
            image__filename=("bytes_list", [b"a", b"b"]),
        ),
        where="here",
    )
    assert record == ImageRecord(b"jpeg", 3)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"\xff\xff\xff", ["not a tf.Example"]),
        (b"", ["image/encoded", "missing", "no features"]),
        (example(image__encoded=IMAGE), ["image/class/label", "missing", "image/encoded"]),
        (example(image=IMAGE, label=LABEL), ["image/encoded", "missing", "image, label"]),
        (
            example(image__encoded=IMAGE, image__class__label=("float_list", [1.0])),
            ["image/class/label", "1 value of type float_list", "int64_list"],
        ),
        (
            example(image__encoded=IMAGE, image__class__label=("int64_list", [1, 2])),
            ["image/class/label", "2 values"],
        ),
        (
            example(image__encoded=("bytes_list", []), image__class__label=LABEL),
            ["image/encoded", "0 values"],
        ),
    ],
)
def test_a_record_without_a_labeled_image_is_rejected_with_its_location(data, parts):
    with pytest.raises(InvalidDataError) as caught:
        decode_example(data, where="file x, record 5")
    for part in (*parts, "file x, record 5", "a record needs image/encoded"):
        assert part in str(caught.value)


@given(st.sets(int64, max_size=5), st.lists(texts, max_size=5), st.binary(max_size=20))
def test_a_multi_label_record_round_trips(labels, names, encoded):
    record = ImageRecord(encoded, labels=tuple(sorted(labels)), texts=tuple(names))
    data = encode_example(record)
    assert decode_example(data, where="here", multi_label=True) == record
    assert encode_example(record) == data


def test_a_single_label_record_can_be_decoded_as_multi_label():
    data = encode_example(ImageRecord(b"x", 3, "rose"))
    record = decode_example(data, where="", multi_label=True)
    assert (record.labels, record.texts, record.all_labels) == ((3,), ("rose",), (3,))


@pytest.mark.parametrize("labels", [(2, 1), (1, 1)])
def test_labels_that_are_not_ascending_are_rejected(labels):
    data = encode_example(ImageRecord(b"x", labels=labels))
    with pytest.raises(InvalidDataError, match=r"not ascending and distinct[\s\S]*where: there"):
        decode_example(data, where="there", multi_label=True)


def test_a_missing_label_is_not_an_empty_list():
    data = example(image__encoded=("bytes_list", [b"x"]))
    with pytest.raises(InvalidDataError, match=r"is missing[\s\S]*multi-label"):
        decode_example(data, where="there", multi_label=True)


@pytest.mark.parametrize("labels", [(), (1, 2)])
def test_several_labels_in_a_single_label_data_set_are_rejected_with_a_remedy(labels):
    data = encode_example(ImageRecord(b"x", labels=labels))
    with pytest.raises(InvalidDataError, match=rf"{len(labels)} values [\s\S]*set multi_label to true"):
        decode_example(data, where="there")
