"""Folders are read for what they are, or rejected with every reading: never a wrong label in silence."""

from collections import Counter

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.convert.folder_structure import find_split
from imgpipe.components.convert.image_folders import read_images
from imgpipe.components.convert.rows import Rows

AB = ("a", "b")


def make(folder, *parents, names=AB):
    """Creates two images in each of the folders ``names`` in each parent."""
    for parent in parents:
        for name in names:
            for number in range(2):
                path = folder / parent / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")


def read(folder, label_from="auto", pattern=""):
    rows = Rows()
    read_images(rows, f"{folder}{pattern}", label_from)
    return dict(Counter((row.use, row.label) for row in rows.accepted))


def error(folder, label_from="auto", pattern=""):
    with pytest.raises(InvalidDataError) as caught:
        read(folder, label_from, pattern)
    return str(caught.value)


def labels_in(*splits, labels=AB, count=2):
    return {(split, label): count for split in splits for label in labels}


@pytest.mark.parametrize(
    ("parents", "splits"),
    [
        (("training_set", "test_set"), ("", "test")),
        (("Training", "Testing"), ("", "test")),
        (("Train", "Val"), ("train", "validation")),
        (("TRAIN", "valid", "Test"), ("train", "validation", "test")),
        (("train_images", "dev_images"), ("train", "validation")),
        (("TrainSet", "ValidationSet"), ("train", "validation")),
        (("train2017", "val2017"), ("train", "validation")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("", "test")),
        (("archive/data/train", "archive/data/val"), ("train", "validation")),
        (("train/pictures", "val/pictures"), ("train", "validation")),
    ],
)
def test_split_folders_of_any_clear_name_are_splits(tmp_path, parents, splits):
    make(tmp_path, *parents)
    assert read(tmp_path) == labels_in(*splits)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training Set", "train"),
        ("valid", "validation"),
        ("dev", "validation"),
        ("test-images", "test"),
        ("trainval", ""),
        ("train_test", ""),
        ("trainer", ""),
        ("contest", ""),
        ("holdout", ""),
    ],
)
def test_split_of_a_name(name, split):
    assert find_split(name)[0] == split


def test_wrapper_folders_are_not_labels(tmp_path):
    make(tmp_path, "x/flower_photos", names=("daisy", "rose"))
    assert read(tmp_path) == labels_in("", labels=("daisy", "rose"))


def test_single_label_may_have_folders(tmp_path):
    make(tmp_path, "rose", names=("far",))
    assert read(tmp_path) == {("", "rose"): 2}


def test_nested_labels_are_a_question_with_both_readings(tmp_path):
    make(tmp_path, "Fruit", names=("Apple", "Banana"))
    make(tmp_path, "Vegetable", names=("Carrot",))
    text = error(tmp_path)
    assert "set label_from=leaf" in text
    assert "3 labels, Apple (2 images), Banana (2 images), Carrot (2 images)" in text
    assert "set label_from=top" in text
    assert "2 labels, Fruit (4 images), Vegetable (2 images)" in text
    assert read(tmp_path, "leaf") == labels_in("", labels=("Apple", "Banana", "Carrot"))
    assert read(tmp_path, "top") == {("", "Fruit"): 4, ("", "Vegetable"): 2}


def test_nested_labels_in_splits_are_a_question_too(tmp_path):
    make(tmp_path, "train/Fruit", "val/Fruit")
    make(tmp_path, "train/Other", "val/Other", names=("c",))
    assert "label_from=leaf" in error(tmp_path)
    assert read(tmp_path, "leaf") == labels_in("train", "validation", labels=("a", "b", "c"))
    assert read(tmp_path, "top") == {
        (split, label): count
        for split in ("train", "validation")
        for label, count in (("Fruit", 4), ("Other", 2))
    }


def test_folders_in_a_label_folder_with_images_are_part_of_the_label(tmp_path):
    make(tmp_path, ".")
    (tmp_path / "a" / "far").mkdir()
    (tmp_path / "a" / "far" / "3.jpg").write_bytes(b"x")
    assert read(tmp_path) == {("", "a"): 3, ("", "b"): 2}


def test_labels_with_one_folder_each_keep_their_names(tmp_path):
    make(tmp_path, "daisy", "rose", names=("images",))
    assert read(tmp_path) == labels_in("", labels=("daisy", "rose"))


@pytest.mark.parametrize("parents", [("fold1", "fold2"), ("train_station", "test_tube")])
def test_same_folders_in_folders_of_unclear_names_are_a_question(tmp_path, parents):
    make(tmp_path, *parents)
    text = error(tmp_path)
    assert "they may be splits, but their names do not say which is for training" in text
    assert "2 labels, a (4 images), b (4 images)" in text
    assert read(tmp_path, "leaf") == labels_in("", count=4)
    assert read(tmp_path, "top") == labels_in("", labels=parents, count=4)


def test_splits_below_labels_are_an_error_with_the_order(tmp_path):
    make(tmp_path, "daisy", "rose", names=("train", "val"))
    assert "put the splits above the labels, e.g. train/daisy" in error(tmp_path)
    assert read(tmp_path, "top") == labels_in("", labels=("daisy", "rose"), count=4)


def test_images_directly_in_splits_are_a_question(tmp_path):
    make(tmp_path, ".", names=("training", "testing"))
    text = error(tmp_path)
    assert "'testing', 'training' look like splits, but contain images and no label folders" in text
    assert "use train_csv" in text
    assert "look like splits" in error(tmp_path, pattern="/*/*.jpg")
    assert read(tmp_path, "top") == labels_in("", labels=("training", "testing"))


def test_images_in_one_folder_of_each_split_are_a_question(tmp_path):
    make(tmp_path, "trainA", "trainB", "testA", "testB", names=("images",))
    assert "look like splits" in error(tmp_path)


def test_folders_beside_splits_are_ignored(tmp_path):
    make(tmp_path, "train", "val", "train_masks", "more")
    rows = Rows()
    assert read_images(rows, str(tmp_path)).folders == ["more", "train_masks"]
    assert {row.use for row in rows.accepted} == {"train", "validation"}


def test_unlabeled_test_images_are_an_error(tmp_path):
    make(tmp_path, "train", "val")
    make(tmp_path, ".", names=("test",))
    assert "'test' has no label folders, unlike 'train', 'val'" in error(tmp_path)


def test_wrapper_beside_a_folder_without_images_is_a_question(tmp_path):
    make(tmp_path, "Images")
    make(tmp_path, "Annotations")
    for path in tmp_path.glob("Annotations/*/*.jpg"):
        path.rename(path.with_suffix(".xml"))
    assert "label_from=leaf" in error(tmp_path)
    assert read(tmp_path, "leaf") == labels_in("")


def test_patterns_have_splits_and_labels_of_the_last_folder(tmp_path):
    make(tmp_path, "train/Fruit", "val/Fruit")
    make(tmp_path, "train/.hidden")
    for pattern in ("/**/*.jpg", "/*/*/*/*.jpg"):
        assert read(tmp_path, pattern=pattern) == labels_in("train", "validation")
    assert read(tmp_path, pattern="/train/**/*.jpg") == labels_in("")
    assert read(tmp_path, "top", pattern="/**/*.jpg") == labels_in("train", "validation")


def test_bucket_is_read_like_a_folder(tmp_path, cloud):
    make(tmp_path, "photos/training_set", "photos/test_set")
    for path in tmp_path.glob("**/*.jpg"):
        cloud.put(path.relative_to(tmp_path).as_posix(), b"x")
    for pattern in ("", "/**/*.jpg", "/*/*/*.jpg"):
        found = read("gs://photos/photos", pattern=pattern)
        assert found == read(tmp_path / "photos", pattern=pattern) == labels_in("", "test")


def test_label_from_needs_images(tmp_path):
    with pytest.raises(InvalidArgumentError, match="label_from=leaf is given without images"):
        ConvertArguments(train_csv=str(tmp_path / "a.csv"), label_from="leaf")


def test_labels_are_printed_and_label_from_is_recorded(tmp_path, photo, capsys):
    for number, name in enumerate(("x/a", "x/b", "y/c")):
        for copy in range(2):
            photo(tmp_path / "images" / name / f"{copy}.jpg", 10 * number + copy)
    arguments = ConvertArguments(images=str(tmp_path / "images"), label_from="leaf")
    manifest = convert(arguments, tmp_path / "out")
    assert manifest.labels == ("a", "b", "c")
    assert manifest.made_by["source"]["label_from"] == "leaf"
    assert "3 labels: a, b, c" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("system", ["@eaDir", "__MACOSX", "lost+found"])
def test_folders_that_a_system_made_are_not_labels(tmp_path, system):
    make(tmp_path, ".", system, f"a/{system}")
    assert read(tmp_path) == labels_in("")
    assert read(tmp_path, pattern="/**/*.jpg") == labels_in("")


def test_wrapper_around_splits_beside_other_folders_is_named(tmp_path):
    make(tmp_path, "data/images/Train", "data/images/Valid")
    (tmp_path / "data" / "annotations").mkdir()
    text = error(tmp_path)
    assert f"set images to '{tmp_path}/data/images'" in text
    assert read(tmp_path / "data" / "images") == labels_in("train", "validation")


def test_splits_without_labels_beside_other_folders_are_a_question(tmp_path):
    make(tmp_path, "images", names=("train", "val"))
    (tmp_path / "labels").mkdir()
    assert "images/train/LABEL/1.jpg" in error(tmp_path)


def test_images_and_masks_are_not_labels(tmp_path):
    make(tmp_path, ".", names=("images", "masks"))
    assert "'images', 'masks' look like the parts of a data set for another task" in error(tmp_path)
    assert read(tmp_path, "top") == labels_in("", labels=("images", "masks"))


def test_label_that_is_a_link_to_another_one_is_named(tmp_path):
    make(tmp_path, ".")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert "'c' and 'a' are the same folder" in error(tmp_path)
