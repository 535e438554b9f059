"""Model.predict takes images in every form and answers for each of them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imgpipe
from imgpipe.errors import InvalidArgumentError, InvalidDataError, MissingInputError

LABELS = ("bird", "cat", "dog")


@pytest.fixture(scope="module")
def model(linear_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    linear_model(folder, LABELS)
    return imgpipe.load(folder)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(0, 255, (12, 9, 3), dtype=np.uint8)


@pytest.fixture
def closed(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "closed.png")
    with Image.open(tmp_path / "closed.png") as picture:
        pass
    return picture


@pytest.fixture
def truncated(pixels):
    return Image.open(io.BytesIO(png(Image.fromarray(pixels))[:-60]))


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("form", ["path", "str", "bytes", "picture", "array"])
def test_every_form_of_an_image_gives_the_same_prediction(model, pixels, tmp_path, form):
    picture = Image.fromarray(pixels)
    path = tmp_path / "photo.png"
    picture.save(path)
    forms = {"path": path, "str": str(path), "bytes": png(picture), "picture": picture, "array": pixels}
    prediction = model.predict(forms[form])
    expected = model.predict(png(picture))
    np.testing.assert_array_equal(prediction.probabilities, expected.probabilities)
    assert prediction.label == expected.label in LABELS


def test_an_image_may_be_in_a_bucket(model, pixels, bucket):
    encoded = png(Image.fromarray(pixels))
    prediction = model.predict(bucket.put("photo.png", encoded))
    assert prediction.key == f"{bucket.uri}/photo.png"
    np.testing.assert_array_equal(prediction.probabilities, model.predict(encoded).probabilities)
    with pytest.raises(MissingInputError, match=r"other\.png"):
        model.predict(f"{bucket.uri}/other.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_a_picture_of_any_8_bit_mode_is_taken(model, pixels, mode):
    assert model.predict(Image.fromarray(pixels).convert(mode)).label in LABELS


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_an_array_has_any_usual_number_of_channels(model, channels):
    shape = (10, 11) if channels is None else (10, 11, channels)
    assert model.predict(np.full(shape, 200, np.uint8)).label in LABELS


def test_a_picture_is_turned_as_its_exif_says_like_the_file(model, pixels, tmp_path):
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    upright = model.predict(np.rot90(pixels, -1))
    np.testing.assert_array_equal(model.predict(turned).probabilities, upright.probabilities)


def test_a_list_gives_a_list_in_its_order(model, pixels):
    images = [np.roll(pixels, number, axis=0) for number in range(70)]
    predictions = model.predict(images)
    assert [prediction.key for prediction in predictions] == [str(number) for number in range(70)]
    for image, prediction in zip(images[::23], predictions[::23], strict=True):
        np.testing.assert_allclose(model.predict(image).probabilities, prediction.probabilities, atol=1e-6)


def test_nothing_gives_nothing(model):
    assert model.predict([]) == []


def test_top_is_sorted_and_limited(model, pixels):
    top = model.predict(pixels).top(2)
    assert len(top) == 2
    assert top[0][1] >= top[1][1]
    assert len(model.predict(pixels).top(9)) == len(LABELS)


def test_a_prediction_without_true_labels_is_neither_correct_nor_wrong(model, pixels):
    assert model.predict(pixels).correct is None


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (3, InvalidArgumentError, "int is not an image"),
        ([None], InvalidArgumentError, "NoneType is not an image"),
        (np.zeros((4, 4, 3), np.float32), InvalidArgumentError, "multiply pixels of 0..1 by 255"),
        (np.zeros((2, 4, 4, 3), np.uint8), InvalidArgumentError, r"list\(batch\)"),
        (np.zeros((4, 4, 2), np.uint8), InvalidArgumentError, r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), InvalidArgumentError, r"shape \(0, 4, 3\)"),
        (Image.new("I;16", (4, 4)), InvalidArgumentError, "'I;16'"),
        (Image.new("F", (4, 4)), InvalidArgumentError, "'F'"),
        (bytearray(b"x"), InvalidArgumentError, "bytearray is not an image"),
        (io.BytesIO(b"x"), InvalidArgumentError, "BytesIO is not an image"),
        ({"photo.png": 1}, InvalidArgumentError, "dict is not an image"),
        (Image.new("RGB", (0, 0)), InvalidDataError, "cannot write empty image"),
        ("missing.png", MissingInputError, "missing.png"),
        ("a\0b", MissingInputError, "null byte"),
        ("tests", MissingInputError, "Is a directory"),
        (Path("missing"), MissingInputError, "missing"),
        (b"", InvalidDataError, "cannot decode"),
        (b"not an image", InvalidDataError, "cannot decode"),
    ],
)
def test_what_is_not_an_image_is_refused_with_a_remedy(model, image, error, words):
    with pytest.raises(error, match=words) as raised:
        model.predict(image)
    assert raised.value.remedy


@pytest.mark.parametrize("name", ["closed", "truncated"])
def test_a_picture_whose_file_cannot_be_read_any_more_is_named(model, pixels, name, request):
    with pytest.raises(InvalidDataError, match="image 1") as raised:
        model.predict([pixels, request.getfixturevalue(name)])
    assert "path" in raised.value.remedy


def test_the_image_of_a_list_that_cannot_be_decoded_is_named(model, pixels):
    with pytest.raises(InvalidDataError, match="image 41"):
        model.predict([pixels] * 41 + [b"damaged"] + [pixels])


def test_loading_a_folder_of_versions_takes_the_highest(linear_model, tmp_path):
    for version in ("1", "12", "3"):
        linear_model(tmp_path / version, LABELS)
    assert imgpipe.load(tmp_path).path == tmp_path / "12"


def test_loading_what_is_not_a_model_says_so(tmp_path):
    with pytest.raises(MissingInputError, match=r"saved_model\.pb"):
        imgpipe.load(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(MissingInputError, match="there is no folder"):
        imgpipe.load(tmp_path / "saved_model.pb")


@pytest.mark.parametrize("model", [None, 3, b"folder", ""])
def test_loading_what_is_not_a_path_says_so(model):
    with pytest.raises(InvalidArgumentError, match="is not a path"):
        imgpipe.load(model)


@pytest.mark.parametrize("folder", ["", "/model"])
def test_a_model_in_a_bucket_is_loaded(model, pixels, bucket, folder):
    for path in model.path.rglob("*"):
        if path.is_file():
            bucket.put(f"job/model/{path.relative_to(model.path)}", path.read_bytes())
    loaded = imgpipe.load(f"{bucket.uri}/job{folder}")
    assert loaded.path == f"{bucket.uri}/job{folder}"
    np.testing.assert_array_equal(loaded.predict(pixels).probabilities, model.predict(pixels).probabilities)
