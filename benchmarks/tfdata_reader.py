"""The baseline of benchmarks.validate: a ``tf.data`` pipeline that parses and decodes every record.

``python -m benchmarks.tfdata_reader FOLDER``.
"""

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf


def main() -> None:
    """Reads every shard in the folder."""
    shards = sorted(str(path) for path in Path(sys.argv[1]).glob("*-of-*"))

    def decode(record: Any) -> Any:
        features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        }
        parsed = tf.io.parse_single_example(record, features)
        pixels = tf.io.decode_jpeg(parsed["image/encoded"], channels=3)
        return tf.shape(pixels), parsed["image/class/label"]

    data = tf.data.TFRecordDataset(shards, num_parallel_reads=tf.data.AUTOTUNE)
    data = data.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(256).prefetch(tf.data.AUTOTUNE)
    images = sum(int(labels.shape[0]) for _, labels in data)
    print(images)


if __name__ == "__main__":
    main()
