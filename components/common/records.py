"""The tf.Example contract: which features a record has, and the one place that knows labels start at 1.

On disk a label is 1..N (Google's built-in algorithm wanted it so), in the model a class is 0..N-1.
``label_to_class`` and ``class_to_label`` are the only code that shifts.

In a multi-label data set ``image/class/label`` holds as many labels as the image has, none included, and
``image/class/synset`` their names in the same order.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from imgpipe.components.common.errors import InvalidDataError

IMAGE_ENCODED = "image/encoded"
CLASS_LABEL = "image/class/label"
CLASS_TEXT = "image/class/synset"
FILENAME = "image/filename"
# The value that Google's converter wrote for every image.
COLORSPACE = b"RGB"
CHANNELS = 3

_REQUIRED_REMEDY = (
    f"a record needs {IMAGE_ENCODED} (one bytes value: the image file) and {CLASS_LABEL} (one int64, 1..N)"
)
_SEVERAL_REMEDY = f"{_REQUIRED_REMEDY}; where images have several labels or none, give multi_label=true"
_LABELS_REMEDY = (
    f"with multi_label=true a record needs {CLASS_LABEL}: int64 values of 1..N, ascending, none twice; an "
    "image without a label has the feature without a value"
)


@dataclass(frozen=True)
class ImageRecord:
    """One labelled image as it is stored.

    Attributes:
        encoded: The image file's bytes: JPEG, PNG, GIF, BMP or WebP.
        label: 1..N, as on disk.
        text: The label's name; empty when the record does not say.
        filename: Where the image came from; empty when the record does not say.
        format: ``JPEG``, ``PNG``, ...; empty when the record does not say.
        height: In pixels; 0 when the record does not say.
        width: In pixels; 0 when the record does not say.
        labels: Of a record of a multi-label data set: 1..N, ascending and distinct, or none at all; then
            ``label`` is 0. None for a record with the one label ``label``.
        texts: Names of ``labels``, in their order; empty when the record does not say.
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
        """The labels, whichever kind of record it is."""
        return (self.label,) if self.labels is None else self.labels


def label_to_class(label: int) -> int:
    """Returns the model's class, 0..N-1, of a label on disk, 1..N."""
    return label - 1


def class_to_label(class_index: int) -> int:
    """Returns the label on disk, 1..N, of the model's class, 0..N-1."""
    return class_index + 1


def encode_example(record: ImageRecord) -> bytes:
    """Serializes a record as a tf.Example with the features of Google's converter.

    Equal records give equal bytes: map entries are written in the order of their keys.
    """
    return b"".join(encode_example_parts(record))


def encode_example_parts(record: ImageRecord) -> tuple[bytes, bytes, bytes]:
    """Returns what ``encode_example`` joins: what precedes the image, the image itself, what follows.

    For those who write records: the protocol buffers library would copy the image three times, which takes
    a sixth of the time that checking it does.
    """
    texts = (record.text,) if record.labels is None else record.texts
    head = _labels_before_image(record.all_labels, texts)
    image = record.encoded
    tail = b"".join(
        (
            _feature(FILENAME, "bytes_list", record.filename.encode("utf-8", "surrogateescape")),
            _known_feature("image/format", "bytes_list", record.format.encode()),
            _known_feature("image/height", "int64_list", record.height),
            _known_feature("image/width", "int64_list", record.width),
        )
    )
    # From the inside out, as the messages nest: the value, its list, the feature, the entry of the map.
    start = _field_start(1, len(image))
    start = _field_start(1, len(start) + len(image)) + start
    start = _IMAGE_KEY + _field_start(2, len(start) + len(image)) + start
    head += _field_start(1, len(start) + len(image)) + start
    return _field_start(1, len(head) + len(image) + len(tail)) + head, image, tail


def _feature(name: str, kind: str, *values: bytes | int) -> bytes:
    """Returns one entry of the map of features. Entries one after the other are the map."""
    features = _Features()
    # Named even where it holds no value: what is missing was forgotten.
    getattr(features.feature[name], kind).SetInParent()
    getattr(features.feature[name], kind).value.extend(values)
    return bytes(features.SerializeToString())


# Most records have a size, and all a format and labels, that others had before.
_known_feature = lru_cache(maxsize=10_000)(_feature)


@lru_cache(maxsize=10_000)
def _labels_before_image(labels: tuple[int, ...], texts: tuple[str, ...]) -> bytes:
    return b"".join(
        (
            _feature("image/channels", "int64_list", CHANNELS),
            _feature(CLASS_LABEL, "int64_list", *labels),
            _feature(CLASS_TEXT, "bytes_list", *(text.encode() for text in texts)),
            _feature("image/colorspace", "bytes_list", COLORSPACE),
        )
    )


def _field_start(number: int, length: int) -> bytes:
    """Returns what precedes ``length`` bytes of a field, for numbers below 16.

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
    """Parses a tf.Example that anybody wrote; only the image and the label are required.

    Args:
        data: The serialized tf.Example.
        where: File and record, for the error message.
        label_required: Whether there must be a label; without one it is 0.
        multi_label: Whether the record is of a multi-label data set: the labels are in ``labels``.

    Raises:
        InvalidDataError: if it is no tf.Example, or a required feature is missing, of another type,
            or has not exactly one value (with ``multi_label``: labels that do not ascend).
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
        # A value of another kind reads as an empty list of this one.
        values = getattr(found, kind).value
        if len(values) == 1:
            return values[0]
        kind_found = found.WhichOneof("kind")
        count = len(getattr(found, kind_found).value) if kind_found else 0
        several = name == CLASS_LABEL and kind_found == "int64_list"
        raise InvalidDataError(
            f"feature {name!r} has {count} value(s) of type {kind_found or 'none'}, not one of type {kind}",
            where=where,
            remedy=_SEVERAL_REMEDY if several else _REQUIRED_REMEDY,
        )

    def optional(name: str, kind: str, default: Any) -> Any:
        found = feature.get(name)
        values = None if found is None else getattr(found, kind).value
        return values[0] if values is not None and len(values) == 1 else default

    def text_of(name: str) -> str:
        return str(optional(name, "bytes_list", b"").decode("utf-8", "replace"))

    def number_of(name: str) -> int:
        return int(optional(name, "int64_list", 0))

    encoded = single(IMAGE_ENCODED, "bytes_list")
    labels: tuple[int, ...] | None = None
    if multi_label and CLASS_LABEL in feature:
        labels = _ascending(feature[CLASS_LABEL], where)
        label: int | None = 0
    else:
        label = single(CLASS_LABEL, "int64_list") if label_required else number_of(CLASS_LABEL)
    for name, value in ((IMAGE_ENCODED, encoded), (CLASS_LABEL, label)):
        if value is None:
            present = ", ".join(sorted(feature)) or "none at all"
            raise InvalidDataError(
                f"feature {name!r} is missing; the record has: {present}",
                where=where,
                remedy=_LABELS_REMEDY if multi_label and name == CLASS_LABEL else _REQUIRED_REMEDY,
            )
    return ImageRecord(
        encoded=encoded,
        label=label or 0,
        text="" if multi_label else text_of(CLASS_TEXT),
        filename=text_of(FILENAME),
        format=text_of("image/format"),
        height=number_of("image/height"),
        width=number_of("image/width"),
        labels=labels,
        texts=tuple(text.decode("utf-8", "replace") for text in feature[CLASS_TEXT].bytes_list.value)
        if multi_label and CLASS_TEXT in feature
        else (),
    )


def _ascending(feature: Any, where: str) -> tuple[int, ...]:
    """Returns the labels of a record of a multi-label data set.

    Raises:
        InvalidDataError: if they are no int64 values, or not ascending and distinct.
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

    In a descriptor pool of its own, because TensorFlow registers the same names in the default one
    when it is imported into the same process.
    """
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    scalar = descriptor_pb2.FieldDescriptorProto

    def add_list(name: str, kind: int) -> None:
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, type=kind, label=scalar.LABEL_REPEATED)

    add_list("BytesList", scalar.TYPE_BYTES)
    add_list("FloatList", scalar.TYPE_FLOAT)
    add_list("Int64List", scalar.TYPE_INT64)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".tensorflow." + name.title().replace("_", "")
        feature.field.add(
            name=name,
            number=number,
            type=scalar.TYPE_MESSAGE,
            type_name=type_name,
            label=scalar.LABEL_OPTIONAL,
            oneof_index=0,
        )

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=scalar.TYPE_STRING, label=scalar.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=scalar.TYPE_MESSAGE,
        type_name=".tensorflow.Feature",
        label=scalar.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=scalar.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=scalar.LABEL_REPEATED,
    )

    example = file.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        type=scalar.TYPE_MESSAGE,
        type_name=".tensorflow.Features",
        label=scalar.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_class: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
    return message_class


_Example = _example_class()
_Features = type(_Example().features)
_IMAGE_KEY = _field_start(1, len(IMAGE_ENCODED)) + IMAGE_ENCODED.encode()
