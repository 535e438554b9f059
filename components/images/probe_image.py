"""A small image made here, with which a model can be checked without the user's data."""

import io

import numpy as np
from PIL import Image

_SIDE = 64


def probe_image() -> bytes:
    """Returns a JPEG file of 64 x 64 pixels with a gradient of colors."""
    across, down = np.meshgrid(np.linspace(0, 255, _SIDE), np.linspace(0, 255, _SIDE))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
