import io
import shutil

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.errors import CheckFailedError, InvalidDataError, MissingInputError
from imgpipe.components.common.served_model import check_labels, load_served_model
from imgpipe.components.common.tf_import import tf


@pytest.fixture(scope="module")
def folder(linear_model, tmp_path_factory):
    return linear_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def test_predictions_are_in_the_order_of_the_images(folder, encode):
    model = load_served_model(folder)
    images = [encode(np.full((8, 8, 3), 20 * number)) for number in range(10)]
    together = model.predict(images)
    assert together.classes.dtype == np.int64
    assert together.probabilities.dtype == np.float32
    for number, image in enumerate(images):
        alone = model.predict([image])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[number], atol=1e-6)


def test_an_undecodable_image_is_reported_in_one_line_with_the_reason(folder, encode):
    model = load_served_model(folder)
    photo = encode(np.zeros((64, 64, 3)), "JPEG")
    for image, reason in [
        (b"no image", ": not a JPEG, PNG, GIF, BMP or WebP file; its size in bytes: 8"),
        (b"", "its size in bytes: 0"),
        (b"\xff\xd8\xff", "Invalid JPEG data"),
        (photo[:100], "Invalid JPEG data"),
    ]:
        # As a single image, and when several images of a batch fail.
        for images in ([image], [photo, *[image] * 5]):
            with pytest.raises(InvalidDataError) as caught:
                model.predict(images)
            assert caught.value.problem.startswith("the model cannot decode an image: ")
            assert reason in caught.value.problem
            for detail in ("\n", "[[", "{{", "Graph execution", "INVALID_ARGUMENT"):
                assert detail not in caught.value.problem


def test_webp_and_tiff_files_are_predicted_although_the_model_does_not_decode_them(folder):
    model = load_served_model(folder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8))
    files = {}
    for name, options in {
        "PNG": {},
        "TIFF": {},
        "WEBP": {"lossless": True},
        "animated": {"lossless": True, "save_all": True, "append_images": [picture.rotate(180)]},
    }.items():
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP" if name == "animated" else name, **options)
        files[name] = buffer.getvalue()
    probabilities = model.predict(list(files.values())).probabilities
    assert (probabilities == probabilities[0]).all()
    with pytest.raises(InvalidDataError, match="undecodable WebP"):
        model.predict([files["WEBP"][:-20]])


def test_a_folder_without_a_compatible_model_is_missing_input(tmp_path):
    with pytest.raises(MissingInputError, match="no SavedModel"):
        load_served_model(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(MissingInputError, match="no signature serving_default"):
        load_served_model(tmp_path)


def test_a_model_of_another_program_without_labels_is_missing_input(tmp_path):
    module = tf.Module()
    double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([], name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=double)
    with pytest.raises(MissingInputError, match=r"no assets/labels\.txt: another program wrote it"):
        load_served_model(tmp_path)


def test_a_model_of_another_program_answers_but_has_no_functions_of_pixels(folder, encode, tmp_path):
    ours, other = tf.saved_model.load(str(folder)), tf.Module()
    other.kept = ours
    tf.saved_model.save(other, str(tmp_path), signatures=dict(ours.signatures))
    shutil.copy(folder / "assets" / "labels.txt", tmp_path / "assets")
    model, image = load_served_model(tmp_path), encode(np.zeros((8, 8, 3)))
    assert model.predict([image]).probabilities.shape == (1, 2)
    for use in (lambda: model.network, lambda: model.image_size, lambda: model.decode([image])):
        with pytest.raises(MissingInputError, match="another program, or another version of imgpipe"):
            use()


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_truncated_model_fails_its_check(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckFailedError, match="cannot be loaded"):
        load_served_model(copied)


def test_a_model_with_another_number_of_labels_fails_its_check(copied):
    (copied / "assets" / "labels.txt").write_text("dark\nbright\nmore\n")
    with pytest.raises(CheckFailedError, match=r"returns 2 probabilities.* has 3"):
        load_served_model(copied)


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (("bright", "dark"), ["2: bright, dark", "label 1"]),
        (("dark", "light"), ["2: dark, light", "label 2"]),
        (("dark", "bright", "more"), ["3: dark, bright, more", "label 3"]),
        (("dark",), ["1: dark", "label 2"]),
    ],
)
def test_different_labels_are_rejected_with_the_first_difference(folder, labels, parts):
    model = load_served_model(folder)
    check_labels(model, ("dark", "bright"), where="here")
    with pytest.raises(InvalidDataError) as caught:
        check_labels(model, labels, where="here")
    for part in ["2: dark, bright", *parts]:
        assert part in caught.value.problem
    assert caught.value.where == "here"
