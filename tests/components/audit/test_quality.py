"""Images that show nothing."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imgpipe.components.audit.inspection import inspect_images
from imgpipe.components.audit.quality import find_useless_images
from imgpipe.components.common.dataset import read_manifest
from tests.components.audit.pictures import data_set, encoded, picture


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The findings about a data set, by path."""
    files = {
        f"{label}/{n}.jpg": encoded(picture(10 * n + index, 224))
        for n in range(4)
        for index, label in enumerate("ab")
    }
    missing = picture(99)
    # Files of the same picture under many names, saved by different programs.
    files |= {f"a/missing-{n}.jpg": encoded(missing, quality=85 + n % 2) for n in range(6)}
    files["b/blank.png"] = encoded(Image.new("RGB", (200, 200), "gray"), "PNG")
    files["b/dark.jpg"] = encoded(Image.fromarray((np.asarray(picture(50, 224)) * 0.3).astype(np.uint8)))
    files["b/blurred.jpg"] = encoded(picture(51, 224).filter(ImageFilter.GaussianBlur(3)))
    data = data_set(tmp_path_factory.mktemp("images"), files)
    inspection = inspect_images(read_manifest(data), data, 10**9)
    return {inspection.images[f.number].path: (f.kind, f.suggestion) for f in find_useless_images(inspection)}


def test_blank_dark_and_blurred_images_are_found(found):
    assert found["b/blank.png"] == ("blank", "drop")
    assert found["b/dark.jpg"] == ("dark", "")
    assert found["b/blurred.jpg"] == ("blurred", "")


def test_a_picture_under_many_names_is_a_placeholder(found):
    assert {path for path, (kind, _) in found.items() if kind == "placeholder"} == {
        f"a/missing-{number}.jpg" for number in range(6)
    }


def test_good_pictures_are_not_named(found):
    assert len(found) == 9
