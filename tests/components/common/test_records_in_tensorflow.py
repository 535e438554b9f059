"""Checks that TensorFlow reads our records and vice versa."""

from imgpipe.components.common.records import ImageRecord, decode_example, encode_example
from imgpipe.components.common.tfrecord import read_records, write_record


def test_tensorflow_reads_our_records_and_we_read_its(tmp_path):
    from imgpipe.components.common.tf_import import tf

    records = [
        ImageRecord(b"\xff\xd8 first", 1, "Größe, 日本", "a/é.jpg", "JPEG", 3, 4),
        ImageRecord(b"", 2),
    ]
    path = tmp_path / "train-00000-of-00001"
    with path.open("wb") as file:
        for record in records:
            write_record(file, encode_example(record))
    serialized = [data.numpy() for data in tf.data.TFRecordDataset([str(path)])]
    assert len(serialized) == 2
    features = {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in tf.train.Example.FromString(serialized[0]).features.feature.items()
    }
    assert features == {
        "image/encoded": [b"\xff\xd8 first"],
        "image/class/label": [1],
        "image/class/synset": ["Größe, 日本".encode()],
        "image/filename": ["a/é.jpg".encode()],
        "image/format": [b"JPEG"],
        "image/height": [3],
        "image/width": [4],
        "image/channels": [3],
        "image/colorspace": [b"RGB"],
    }
    theirs = tmp_path / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for data in serialized:
            writer.write(tf.train.Example.FromString(data).SerializeToString())
    assert [decode_example(data, where="") for _, data in read_records(theirs)] == records


def test_tensorflow_reads_the_labels_of_a_multi_label_record():
    from imgpipe.components.common.tf_import import tf

    for labels, texts in (((2, 5), ("rose", "Größe")), ((), ())):
        example = tf.train.Example.FromString(encode_example(ImageRecord(b"x", labels=labels, texts=texts)))
        features = example.features.feature
        assert list(features["image/class/label"].int64_list.value) == list(labels)
        assert features["image/class/label"].WhichOneof("kind") == "int64_list"
        names = [name.decode() for name in features["image/class/synset"].bytes_list.value]
        assert names == list(texts)
        theirs = example.SerializeToString()
        assert decode_example(theirs, where="", multi_label=True).labels == labels
