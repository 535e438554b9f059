"""A corpus of photo-like JPEG files, generated from a seed without any download."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 3_000
LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
_WIDTH, _HEIGHT = 500, 375
# At this quality, images of this size and detail have about 50 KB, as web photos do.
_QUALITY = 79
_SCENES = 40


def write_corpus(folder: Path, images: int = IMAGES) -> list[str]:
    """Writes the JPEG files and returns their names, relative to ``folder``.

    Args:
        folder: The output folder; created if missing.
        images: The number of images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, encoded in enumerate(_photos(images)):
        names.append(f"{number:05d}.jpg")
        (folder / names[-1]).write_bytes(encoded)
    return names


def write_rows(path: Path, names: list[str], rows: int) -> None:
    """Writes a CSV file of ``rows`` rows that repeats the files evenly.

    Args:
        path: The CSV file, in the folder of the images.
        names: The images' names.
        rows: The number of rows.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number in range(rows):
            image = number % len(names)
            writer.writerow((names[image], LABELS[image % len(LABELS)]))


def _photos(images: int) -> Iterator[bytes]:
    random = np.random.default_rng(0)
    scenes = [_scene(random) for _ in range(_SCENES)]
    for _ in range(images):
        first, second = (scenes[random.integers(_SCENES)] for _ in range(2))
        mixture = np.roll(first, random.integers(_HEIGHT), axis=0) * 0.6 + second * 0.4
        buffer = io.BytesIO()
        Image.fromarray(mixture.astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
        yield buffer.getvalue()


def _scene(random: np.random.Generator) -> np.ndarray:
    """Returns float32 [height, width, 3]: noise with less fine than coarse detail, as in photos."""
    scene = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
    for cells, strength in ((4, 90.0), (12, 50.0), (40, 30.0), (120, 22.0), (500, 17.0)):
        coarse = random.normal(0, strength, (cells * 3 // 4, cells, 3)).astype(np.float32)
        scene += np.stack(
            [
                np.asarray(
                    Image.fromarray(coarse[..., channel]).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
                )
                for channel in range(3)
            ],
            axis=-1,
        )
    return np.clip(scene + 128, 0, 255)
