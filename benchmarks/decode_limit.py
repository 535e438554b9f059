"""The limit to compare with: libjpeg-turbo decoding of images in memory at 1/8, on as many threads as cores.

``python -m benchmarks.decode_limit FOLDER ROWS`` prints images a second.
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
    """Decodes a JPEG as the converter's check does."""
    simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8)


def images_per_second(folder: Path, rows: int) -> float:
    """Returns how many images a second can be decoded, the files being in memory."""
    contents = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    everything: Iterator[bytes] = islice(cycle(contents), rows)
    started = time.monotonic()
    for _ in map_in_order(decode, everything, usable_threads()):
        pass
    return rows / (time.monotonic() - started)


if __name__ == "__main__":
    print(images_per_second(Path(sys.argv[1]), int(sys.argv[2])))
