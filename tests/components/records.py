"""Writes and reads the TFRecord files of tests, and encodes their images."""

import io
from itertools import pairwise

from imgpipe.components.common.dataset import Manifest, Shard, Split, file_sha256, write_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.records import ImageRecord, encode_example
from imgpipe.components.common.tfrecord import write_record


def encoded(image, image_format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_records(path, records):
    """Writes records, or the bytes of examples, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            write_record(file, record if isinstance(record, bytes) else encode_example(record))
    return path


def records_of(folder, manifest, split):
    return list(read_split(folder, manifest.splits[split], multi_label=manifest.multi_label))


def write_dataset(folder, splits, labels, *, shards=1, multi_label=False):
    """Writes shards and a manifest; a split is a list of records, or of shards of its own."""
    written = {}
    for name, records in splits.items():
        bounds = [number * len(records) // shards for number in range(shards + 1)]
        parts = [records[begin:end] for begin, end in pairwise(bounds)]
        if records and isinstance(records[0], list):
            parts = records
        entries = []
        for number, part in enumerate(parts):
            path = write_records(folder / f"{name}-{number:05d}-of-{len(parts):05d}", part)
            entries.append(Shard(path.name, len(part), path.stat().st_size, file_sha256(path)))
        found = [record for part in parts for record in part if isinstance(record, ImageRecord)]
        counts = [sum(label in record.all_labels for record in found) for label in range(1, len(labels) + 1)]
        written[name] = Split(tuple(entries), tuple(counts))
    write_manifest(folder, Manifest(tuple(labels), written, {}, multi_label))
    return folder
