"""The baseline of benchmarks.convert: Beam's DirectRunner, with TensorFlow decoding each image.

``python -m benchmarks.beam_converter LIST.csv OUTPUT_FOLDER``. Modelled on tensorflow/tpu's
jpeg_to_tf_record.py: one tf.Example per CSV row, WriteToTFRecord.
"""

import csv
import os
import sys
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf


class _Convert(beam.DoFn):
    def __init__(self, folder: str, labels: list[str]) -> None:
        self._folder = folder
        self._labels = {label: number for number, label in enumerate(labels, start=1)}

    def process(self, line: str) -> Iterator[bytes]:
        path, label = next(csv.reader([line]))
        with open(os.path.join(self._folder, path), "rb") as file:
            encoded = file.read()
        height, width, _ = tf.io.decode_jpeg(encoded, channels=3).shape
        yield _example(encoded, path, height, width, label, self._labels[label]).SerializeToString()


def _example(encoded: bytes, path: str, height: int, width: int, label: str, number: int) -> Any:
    def bytes_feature(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def int64_feature(value: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {
        "image/height": int64_feature(height),
        "image/width": int64_feature(width),
        "image/colorspace": bytes_feature(b"RGB"),
        "image/channels": int64_feature(3),
        "image/class/label": int64_feature(number),
        "image/class/synset": bytes_feature(label.encode()),
        "image/format": bytes_feature(b"JPEG"),
        "image/filename": bytes_feature(path.encode()),
        "image/encoded": bytes_feature(encoded),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def main() -> None:
    """Converts the rows of a CSV file to a training split."""
    from benchmarks.corpus import LABELS

    rows, output = sys.argv[1:]
    with beam.Pipeline("DirectRunner") as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromText(rows)
            | beam.ParDo(_Convert(os.path.dirname(rows), list(LABELS)))
            | beam.io.WriteToTFRecord(os.path.join(output, "train"))
        )


if __name__ == "__main__":
    main()
