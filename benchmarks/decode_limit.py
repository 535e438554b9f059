"""The reference limit: libjpeg-turbo decodes images in memory at 1/8 of their size, with one thread per core.

``python -m benchmarks.decode_limit FOLDER ROWS`` prints images per second.
"""

import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import simplejpeg

from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.resources import usable_threads


def decode(data: bytes) -> None:
    """Decodes a JPEG as in the convert step's check."""
    simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8)


def images_per_second(folder: Path, rows: int) -> float:
    """Returns the number of images decoded per second from files in memory."""
    contents = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    images: Iterator[bytes] = islice(cycle(contents), rows)
    started = time.monotonic()
    for _ in map_in_order(decode, images, usable_threads()):
        pass
    return rows / (time.monotonic() - started)


if __name__ == "__main__":
    print(images_per_second(Path(sys.argv[1]), int(sys.argv[2])))
