import pytest

from imgpipe.components.images.checking import ImageError, check_image_header
from imgpipe.components.images.preparation import prepare_image
from tests.components.images.image_files import picture
from tests.components.records import encoded


def with_frame_header(marker, bits):
    """Returns a JPEG whose frame header names another process and number of bits."""
    data = bytearray(encoded(picture(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 1], data[start + 4] = marker, bits
    return bytes(data)


@pytest.mark.parametrize(
    ("marker", "bits", "problem"),
    [
        (0xC1, 12, "a JPEG with 12 bits per sample, which TensorFlow cannot decode: save it as PNG"),
        (0xC3, 8, "a lossless JPEG with 8 bits per sample"),
        (0xC3, 16, "a lossless JPEG with 16 bits per sample"),
    ],
)
def test_jpegs_that_tensorflow_cannot_decode_are_named(marker, bits, problem):
    data = with_frame_header(marker, bits)
    for check in (prepare_image, check_image_header):
        with pytest.raises(ImageError, match=problem):
            check(data)
