import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.records import decode_example
from imgpipe.components.common.tfrecord import read_records


@pytest.fixture
def photo():
    """Writes a small image; equal numbers give equal images."""

    def write(path, number=0, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=options.pop("format", "JPEG"), **options)
        path.write_bytes(buffer.getvalue())
        return path

    return write


@pytest.fixture
def flowers(tmp_path, photo):
    """A folder of label folders: 10 daisies, 5 roses, 1 tulip."""
    folder = tmp_path / "flowers"
    for index, (label, count) in enumerate((("daisy", 10), ("rose", 5), ("tulip", 1))):
        for number in range(count):
            photo(folder / label / f"{number}.jpg", 100 * index + number)
    return folder


@pytest.fixture
def csv_of():
    """Writes a CSV file; each row is a line of text or a pair of path and label."""

    def write(path, rows):
        lines = [row if isinstance(row, str) else f"{row[0]},{row[1]}" for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def records_of():
    """Reads the records of a manifest's split."""

    def read(folder, manifest, split):
        return [
            decode_example(data, where=shard.path)
            for shard in manifest.splits[split].shards
            for _, data in read_records(folder / shard.path)
        ]

    return read
