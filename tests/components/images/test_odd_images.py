"""Unusual files from other projects' test suites; skipped if they are not available."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.preparation import prepare_image

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "odd_images"
FILES = sorted(path for path in FOLDER.glob("*/*.*") if path.is_file())
REJECTED = {
    "empty.jpg": "an empty file",
    "text_named_jpg.jpg": "a text file",
    "truncated_daisy.jpg": "undecodable",
    "truncated_jpeg.jpg": "undecodable",
    "ultrahdr.jpg": "undecodable",
    "corrupt.jpg": "undecodable",
    "corrupt34_3.jpg": "undecodable",
    "hopper_bad_exif.jpg": "damaged but decodable",
    "junk_jpeg_header.jpg": "damaged but decodable",
    "bad_huffman.jpg": "damaged but decodable",
}

pytestmark = [
    pytest.mark.skipif(
        not FILES, reason=f"the unusual images are not at {FOLDER}: only generated images are tested"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_kept_reencoded_or_rejected(path):
    data = path.read_bytes()
    try:
        prepared = prepare_image(data)
    except ImageError as error:
        assert REJECTED[path.name] in str(error)  # noqa: PT017
        return
    assert path.name not in REJECTED
    assert (prepared.encoded == data) == (prepared.reencoded == "")
    stored = Image.open(io.BytesIO(prepared.encoded))
    assert stored.getexif().get(0x0112, 1) == 1
    difference = np.asarray(stored.convert("RGB")).astype(int) - shown_by_a_viewer(data)
    assert np.abs(difference).mean() < 2


def test_all_kinds_occur():
    kinds = Counter()
    for path in FILES:
        try:
            kinds[bool(prepare_image(path.read_bytes()).reencoded)] += 1
        except ImageError:
            kinds["rejected"] += 1
    assert kinds["rejected"] == len(REJECTED)
    assert min(kinds[True], kinds[False]) >= 15


def shown_by_a_viewer(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    layered = np.asarray(image.convert("RGBA")).astype(float)
    share = layered[..., 3:] / 255
    opaque = np.asarray(image.convert("RGB")) if not image.has_transparency_data else layered[..., :3]
    return opaque * share + 255 * (1 - share)
