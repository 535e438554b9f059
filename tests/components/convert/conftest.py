import numpy as np
import pytest
from PIL import Image

from tests.components.records import encoded


@pytest.fixture
def photo():
    """Writes a small image; equal numbers give equal images."""

    def write(path, number=0, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path.write_bytes(encoded(Image.fromarray(pixels), options.pop("format", "JPEG"), **options))
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
