"""The tf.Example format: the features of a record, and the conversion between labels and classes.

On disk a label is 1..N (as in Google's built-in algorithm), in the model a class is 0..N-1.
Only ``label_to_class`` and ``class_to_label`` convert them.

In a multi-label data set ``image/class/label`` has all labels of the image, or none, and
``image/class/synset`` has their names in the same order.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.plural import plural

IMAGE_ENCODED = "image/encoded"
CLASS_LABEL = "image/class/label"
CLASS_TEXT = "image/class/synset"
# The name in the records of other tools.
OTHER_CLASS_TEXT = "image/class/text"
FILENAME = "image/filename"
# Google's converter writes this value for every image.
COLORSPACE = b"RGB"
CHANNELS = 3

_REQUIRED_REMEDY = (
    f"a record needs {IMAGE_ENCODED} (one bytes value: the image file) and {CLASS_LABEL} (one int64, 1..N)"
)
_SEVERAL_REMEDY = f"{_REQUIRED_REMEDY}; if images have several labels or none, set multi_label to true"
_LABELS_REMEDY = (
    f"in a multi-label data set a record needs {CLASS_LABEL}: int64 values of 1..N, ascending and distinct; "
    "an image without a label needs the feature with an empty list"
)


@dataclass(frozen=True)
class ImageRecord:
    """One labeled image as stored in a data set.

    Attributes:
        encoded: The image file's bytes: JPEG, PNG, GIF, BMP or WebP.
        label: 1..N, as on disk; 0 in a record of a multi-label data set.
        text: The label's name, ``image/class/synset`` or else ``image/class/text``; empty if the record has
            none.
        filename: The source of the image; empty if the record has none.
        format: ``JPEG``, ``PNG``, ...; empty if the record has none.
        height: In pixels; 0 if the record has none.
        width: In pixels; 0 if the record has none.
        labels: In a record of a multi-label data set: 1..N, ascending and distinct; may be empty. None in a
            record of a single-label data set.
        texts: The names of ``labels``, in the same order; empty if the record has none.
    """

    encoded: bytes
    label: int = 0
    text: str = ""
    filename: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    labels: tuple[int, ...] | None = None
    texts: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[int, ...]:
        """The labels of a record of either kind."""
        return (self.label,) if self.labels is None else self.labels


def label_to_class(label: int) -> int:
    """Returns the model's class, 0..N-1, of a label on disk, 1..N."""
    return label - 1


def class_to_label(class_index: int) -> int:
    """Returns the label on disk, 1..N, of the model's class, 0..N-1."""
    return class_index + 1


def encode_example(record: ImageRecord) -> bytes:
    """Serializes a record as a tf.Example with the features of Google's converter.

    Equal records give equal bytes: map entries are sorted by key.
    """
    return b"".join(encode_example_parts(record))


def encode_example_parts(record: ImageRecord) -> tuple[bytes, bytes, bytes]:
    """Returns the parts that ``encode_example`` joins: the bytes before the image, the image, the rest.

    For writing records without copying images: the protocol buffers library would copy each image three
    times, which takes a sixth as long as checking it.
    """
    texts = (record.text,) if record.labels is None else record.texts
    head = _features_before_image(record.all_labels, texts)
    image = record.encoded
    tail = b"".join(
        (
            _feature(FILENAME, "bytes_list", record.filename.encode("utf-8", "surrogateescape")),
            _cached_feature("image/format", "bytes_list", record.format.encode()),
            _cached_feature("image/height", "int64_list", record.height),
            _cached_feature("image/width", "int64_list", record.width),
        )
    )
    # From the innermost message outwards: the value, its list, the feature, the map entry.
    start = _field_start(1, len(image))
    start = _field_start(1, len(start) + len(image)) + start
    start = _IMAGE_KEY + _field_start(2, len(start) + len(image)) + start
    head += _field_start(1, len(start) + len(image)) + start
    return _field_start(1, len(head) + len(image) + len(tail)) + head, image, tail


def _feature(name: str, kind: str, *values: bytes | int) -> bytes:
    """Returns one serialized entry of the map of features; the map is the concatenation of its entries."""
    features = _Features()
    # Sets the kind even of an empty list, which is not the same as a missing feature.
    getattr(features.feature[name], kind).SetInParent()
    getattr(features.feature[name], kind).value.extend(values)
    return bytes(features.SerializeToString())


# The values of these features recur in many records.
_cached_feature = lru_cache(maxsize=10_000)(_feature)


@lru_cache(maxsize=10_000)
def _features_before_image(labels: tuple[int, ...], texts: tuple[str, ...]) -> bytes:
    return b"".join(
        (
            _feature("image/channels", "int64_list", CHANNELS),
            _feature(CLASS_LABEL, "int64_list", *labels),
            _feature(CLASS_TEXT, "bytes_list", *(text.encode() for text in texts)),
            _feature("image/colorspace", "bytes_list", COLORSPACE),
        )
    )


def _field_start(number: int, length: int) -> bytes:
    """Returns the tag and length before a field of ``length`` bytes, for field numbers below 16.

    Source: protocol buffers' encoding, "Length-Delimited Records" and "Base 128 Varints".
    """
    start = bytearray((number << 3 | 2,))
    while length > 0x7F:
        start.append(length & 0x7F | 0x80)
        length >>= 7
    start.append(length)
    return bytes(start)


def decode_example(
    data: bytes, *, where: str, label_required: bool = True, multi_label: bool = False
) -> ImageRecord:
    """Parses a tf.Example from any writer; only the image and the label are required.

    Args:
        data: The serialized tf.Example.
        where: File and record, for the error message.
        label_required: Whether a record without a label is invalid; otherwise its label is 0.
        multi_label: Whether the data set is multi-label: the labels are returned in ``labels``.

    Raises:
        InvalidDataError: if it is not a tf.Example, or a required feature is missing, has another type, or
            does not have exactly one value (with ``multi_label``: if the labels are not ascending).
    """
    example = _Example()
    try:
        example.ParseFromString(data)
    except DecodeError:
        raise InvalidDataError(
            "the record is not a tf.Example", where=where, remedy=_REQUIRED_REMEDY
        ) from None
    feature = example.features.feature

    def single(name: str, kind: str) -> Any:
        found = feature.get(name)
        if found is None:
            return None
        # Of a feature with another kind, this is an empty list.
        values = getattr(found, kind).value
        if len(values) == 1:
            return values[0]
        kind_found = found.WhichOneof("kind")
        count = len(getattr(found, kind_found).value) if kind_found else 0
        is_label_list = name == CLASS_LABEL and kind_found == "int64_list"
        found_values = f"{plural(count, 'value')} of type {kind_found or 'none'}"
        raise InvalidDataError(
            f"feature {name!r} has {found_values}, not 1 of type {kind}",
            where=where,
            remedy=_SEVERAL_REMEDY if is_label_list else _REQUIRED_REMEDY,
        )

    def optional(name: str, kind: str, default: Any) -> Any:
        found = feature.get(name)
        values = None if found is None else getattr(found, kind).value
        return values[0] if values is not None and len(values) == 1 else default

    def text_of(name: str) -> str:
        return str(optional(name, "bytes_list", b"").decode("utf-8", "replace"))

    def number_of(name: str) -> int:
        return int(optional(name, "int64_list", 0))

    text_feature = CLASS_TEXT if CLASS_TEXT in feature else OTHER_CLASS_TEXT
    encoded = single(IMAGE_ENCODED, "bytes_list")
    labels: tuple[int, ...] | None = None
    if multi_label and CLASS_LABEL in feature:
        labels = _parse_labels(feature[CLASS_LABEL], where)
        label: int | None = 0
    else:
        label = single(CLASS_LABEL, "int64_list") if label_required else number_of(CLASS_LABEL)
    for name, value in ((IMAGE_ENCODED, encoded), (CLASS_LABEL, label)):
        if value is None:
            present = ", ".join(sorted(feature)) or "no features"
            raise InvalidDataError(
                f"feature {name!r} is missing; the record has: {present}",
                where=where,
                remedy=_LABELS_REMEDY if multi_label and name == CLASS_LABEL else _REQUIRED_REMEDY,
            )
    return ImageRecord(
        encoded=encoded,
        label=label or 0,
        text="" if multi_label else text_of(text_feature),
        filename=text_of(FILENAME),
        format=text_of("image/format"),
        height=number_of("image/height"),
        width=number_of("image/width"),
        labels=labels,
        texts=tuple(text.decode("utf-8", "replace") for text in feature[text_feature].bytes_list.value)
        if multi_label and text_feature in feature
        else (),
    )


def _parse_labels(feature: Any, where: str) -> tuple[int, ...]:
    """Returns the labels in a feature of a multi-label data set.

    Raises:
        InvalidDataError: if they are not int64 values, or not ascending and distinct.
    """
    kind = feature.WhichOneof("kind")
    if kind not in (None, "int64_list"):
        problem = f"feature {CLASS_LABEL!r} is of type {kind}, not int64_list"
        raise InvalidDataError(problem, where=where, remedy=_LABELS_REMEDY)
    labels = tuple(feature.int64_list.value)
    if any(after <= before for before, after in pairwise(labels)):
        problem = f"the labels {list(labels)} are not ascending and distinct"
        raise InvalidDataError(problem, where=where, remedy=_LABELS_REMEDY)
    return labels


def _example_class() -> type:
    """Builds the message class of tensorflow/core/example/{example,feature}.proto.

    In a separate descriptor pool, because TensorFlow registers the same names in the default one
    when it is imported into the same process.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def add_message(
        name: str, *fields: tuple[str, int | str], repeated: bool = False, parent: Any = None
    ) -> Any:
        """Adds a message whose fields, numbered from 1, have a scalar type or the name of a message."""
        message = file.message_type.add(name=name) if parent is None else parent.nested_type.add(name=name)
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        for number, (field_name, kind) in enumerate(fields, start=1):
            added = message.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, int):
                added.type = kind
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".tensorflow.{kind}"
        return message

    add_message("BytesList", ("value", field.TYPE_BYTES), repeated=True)
    add_message("FloatList", ("value", field.TYPE_FLOAT), repeated=True)
    add_message("Int64List", ("value", field.TYPE_INT64), repeated=True)
    feature = add_message(
        "Feature", ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    )
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    features = add_message("Features", ("feature", "Features.FeatureEntry"), repeated=True)
    entry = add_message("FeatureEntry", ("key", field.TYPE_STRING), ("value", "Feature"), parent=features)
    entry.options.map_entry = True
    add_message("Example", ("features", "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_class: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
    return message_class


_Example = _example_class()
_Features = type(_Example().features)
_IMAGE_KEY = _field_start(1, len(IMAGE_ENCODED)) + IMAGE_ENCODED.encode()
