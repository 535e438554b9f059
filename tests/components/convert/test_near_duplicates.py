import json
import re

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.log import parse_event
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.convert.near_duplicates import MAX_DIFFERENT_BITS, merge_groups
from imgpipe.components.images.perceptual_hash import perceptual_hash
from tests.components.records import encoded, records_of

SPLITS = (TRAIN, VALIDATION, TEST)


def picture(seed, size=(300, 200)):
    """A picture with structure at all scales, like a photo."""
    draw = np.random.default_rng(seed)
    layers = np.zeros((size[1], size[0], 3))
    for side, weight in ((3, 1.0), (6, 0.7), (12, 0.5), (40, 0.3)):
        small = Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8))
        layers += weight * np.asarray(small.resize(size, Image.Resampling.BICUBIC), float)
    return Image.fromarray(np.clip(layers / 2.5, 0, 255).astype(np.uint8))


def different_bits(one, other):
    return int(np.bitwise_count(perceptual_hash(one)[0] ^ perceptual_hash(other)[0]).sum())


COPIES = {
    "recompressed": lambda image: encoded(image, quality=35),
    "scaled down": lambda image: encoded(image.resize((150, 100)), quality=80),
    "scaled up, other shape": lambda image: encoded(image.resize((400, 333)), quality=80),
    "as PNG": lambda image: encoded(image, "PNG"),
    "as WebP": lambda image: encoded(image, "WEBP", quality=70),
    "with transparency": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "slightly cropped": lambda image: encoded(image.crop((2, 2, 298, 198)), quality=85),
    "softened": lambda image: encoded(image.filter(ImageFilter.GaussianBlur(1)), quality=85),
}


@pytest.mark.parametrize("copy", COPIES)
def test_the_hash_of_a_copy_is_near(copy):
    for seed in range(10):
        original = picture(seed)
        copied = COPIES[copy](original)
        assert different_bits(encoded(original, quality=90), copied) <= MAX_DIFFERENT_BITS


def test_the_hashes_of_different_pictures_are_far_apart():
    hashes = np.array([perceptual_hash(encoded(picture(seed)))[0] for seed in range(60)])
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    assert bits[np.triu_indices(60, 1)].min() > 1.5 * MAX_DIFFERENT_BITS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        encoded(picture(0))[:200],
        encoded(picture(0).resize((63, 100))),
        encoded(Image.new("RGB", (100, 100), "gray")),
    ],
)
def test_an_image_without_content_has_no_hash(data):
    assert perceptual_hash(data) is None


def test_an_image_with_too_many_pixels_is_not_decoded():
    data = encoded(picture(0))
    assert perceptual_hash(data, 300 * 200) is not None
    assert perceptual_hash(data, 300 * 200 - 1) is None


def test_groups_are_merged_until_none_shares_a_member():
    groups = merge_groups(np.array([7, 7, 3, 4, 5, 9]), np.array([0, 1, 1, 2, 2, 3]))
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[4]
    assert len(set(groups.tolist())) == 3
    # A chain through both groupings.
    chain = np.arange(101)
    assert len(set(merge_groups(chain // 2, (chain + 1) // 2).tolist())) == 1
    assert merge_groups(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


# ---------------------------------------------------------------- the split


@pytest.fixture(scope="module")
def bursts(tmp_path_factory):
    """Two labels of 15 pictures, each with three copies beside it."""
    folder = tmp_path_factory.mktemp("bursts")
    makers = list(COPIES.values())[:3]
    for number in range(30):
        original = picture(number, (120, 80))
        label = folder / ("left" if number % 2 else "right")
        label.mkdir(exist_ok=True)
        (label / f"{number}.jpg").write_bytes(encoded(original, quality=92))
        for copy, make in enumerate(makers):
            (label / f"{number}_{copy}.jpg").write_bytes(make(original))
    return folder


def names_of(folder, manifest):
    return {
        name: {record.filename for record in records_of(folder, manifest, name)}
        for name in SPLITS
        if name in manifest.splits
    }


def divided_pictures(names):
    """The pictures that have copies in more than one split."""
    splits_of = {}
    for split, files in names.items():
        for file in files:
            splits_of.setdefault(file.split("/")[-1].split(".")[0].split("_")[0], set()).add(split)
    return [picture for picture, splits in splits_of.items() if len(splits) > 1]


def test_copies_are_kept_in_one_split_and_reported(bursts, tmp_path, capsys):
    arguments = ConvertArguments(images=str(bursts), validation_fraction=0.25, test_fraction=0.25)
    manifest = convert(arguments, tmp_path / "data")
    names = names_of(tmp_path / "data", manifest)
    assert divided_pictures(names) == []
    assert [len(names[split]) for split in SPLITS] == [72, 24, 24]
    assert manifest.made_by["near_duplicates"] == 120
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    (reported,) = (event for event in events if event["event"] == "near_duplicates")
    assert (reported["groups"], reported["images"]) == (30, 120)
    assert re.search(r"/(\d+)(_\d)?\.jpg' and '\w+/\1(_\d)?\.jpg'", reported["message"])


def test_without_grouping_copies_are_divided(bursts, tmp_path):
    arguments = ConvertArguments(images=str(bursts), group_near_duplicates=False)
    manifest = convert(arguments, tmp_path / "data")
    assert divided_pictures(names_of(tmp_path / "data", manifest))
    assert "near_duplicates" not in manifest.made_by


def test_the_split_of_different_pictures_does_not_change(tmp_path):
    for number in range(40):
        file = tmp_path / "photos" / str(number % 2) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number, (90, 90))))
    manifests = [
        convert(
            ConvertArguments(images=str(tmp_path / "photos"), group_near_duplicates=grouped),
            tmp_path / str(grouped),
        )
        for grouped in (True, False)
    ]
    assert manifests[0].splits == manifests[1].splits
    assert "near_duplicates" not in manifests[0].made_by


# ---------------------------------------------------------------- the group column


def convert_csv(tmp_path, lines, photo, **values):
    for number in range(24):
        photo(tmp_path / f"{number}.jpg", number)
    (tmp_path / "list.csv").write_text("".join(f"{line}\n" for line in lines))
    return convert(ConvertArguments(train_csv=str(tmp_path / "list.csv"), **values), tmp_path / "data")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path,label,group", "{path},{label},{group}"),
        ("Group, path, label", "{group},{path},{label}"),
        ("ml_use,path,group,label", "unassigned,{path},{group},{label}"),
    ],
)
def test_rows_of_a_group_are_in_one_split(header, row, photo, tmp_path):
    # Six patients with four pictures each; a patient may have both labels.
    rows = [
        row.format(path=f"{number}.jpg", label="ab"[number % 4 == 0], group=f"patient {number % 6}")
        for number in range(24)
    ]
    manifest = convert_csv(tmp_path, [header, *rows], photo, validation_fraction=0.3)
    assert manifest.made_by["rows"] == manifest.made_by["written"] == 24
    assert manifest.made_by["groups"] == 6
    held = {
        split: {int(file.split(".")[0]) % 6 for file in files}
        for split, files in names_of(tmp_path / "data", manifest).items()
    }
    assert held[TRAIN]
    assert held[VALIDATION]
    assert not held[TRAIN] & held[VALIDATION]


def test_rows_without_a_group_are_drawn_alone(photo, tmp_path):
    rows = [f"{number}.jpg,{'ab'[number % 2]},{'x' if number < 4 else ''}" for number in range(24)]
    manifest = convert_csv(tmp_path, ["path,label,group", *rows], photo)
    names = names_of(tmp_path / "data", manifest)
    together = {f"{number}.jpg" for number in range(4)}
    assert together <= names[TRAIN] or together <= names[VALIDATION]
    plain = convert(
        ConvertArguments(train_csv=str(tmp_path / "list.csv"), validation_fraction=0.2), tmp_path / "again"
    )
    assert plain == manifest


def test_other_groups_are_another_data_set(photo, tmp_path):
    rows = [f"{number}.jpg,{'ab'[number % 2]}" for number in range(24)]
    digests = [
        convert_csv(
            tmp_path / str(size),
            ["path,label,group", *(f"{row},{number // size}" for number, row in enumerate(rows))],
            photo,
        ).made_by["inputs_sha256"]
        for size in (2, 3)
    ]
    assert digests[0] != digests[1]


def test_groups_that_the_input_divides_are_a_warning(photo, tmp_path, capsys):
    uses = ["training", "validation", "test"]
    rows = [f"{uses[number % 3]},{number}.jpg,{'ab'[number % 2]},{number // 2}" for number in range(24)]
    convert_csv(tmp_path, ["ml_use,path,label,group", *rows], photo)
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    warnings = [event for event in events if event["event"] == "groups_divided"]
    assert [(event["severity"], event["groups"]) for event in warnings] == [("WARNING", 4), ("WARNING", 4)]
    assert "'0'" in warnings[0]["message"]


def test_a_group_of_a_json_line_is_kept_together(photo, tmp_path):
    for number in range(12):
        photo(tmp_path / f"{number}.jpg", number)
    lines = [
        {
            "imageGcsUri": f"{number}.jpg",
            "classificationAnnotation": {"displayName": "ab"[number % 2]},
            "dataItemResourceLabels": {"group": str(number % 4)},
        }
        for number in range(12)
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = convert(ConvertArguments(train_csv=str(tmp_path / "list.jsonl")), tmp_path / "data")
    names = names_of(tmp_path / "data", manifest)
    held = {split: {int(file.split(".")[0]) % 4 for file in files} for split, files in names.items()}
    assert held[VALIDATION]
    assert not held[TRAIN] & held[VALIDATION]
