"""Copies of images, and what is suggested about them."""

import numpy as np
from PIL import Image

from imgpipe.components.audit import copies as copies_module
from imgpipe.components.audit.copies import _similar_pairs, copy_findings, find_copies
from imgpipe.components.audit.inspection import inspect_images
from imgpipe.components.common.dataset import read_manifest
from tests.components.audit.pictures import data_set, encoded, picture


def found_copies(folder, files, alike):
    """Returns the groups of copies by their paths, and the findings: path, kind, suggestion, other path.

    Args:
        folder: A temporary folder.
        files: By path.
        alike: The paths of images with similar features, in groups.
    """
    data = data_set(folder, files)
    inspection = inspect_images(read_manifest(data), data, 10**9)
    paths = [image.path for image in inspection.images]
    draw = np.random.default_rng(0)
    features = draw.normal(size=(len(paths), 64)).astype(np.float32)
    for group in alike:
        for path in group[1:]:
            features[paths.index(path)] = features[paths.index(group[0])] + draw.normal(0, 0.2, 64)
    copies = find_copies(inspection, features)
    groups = {frozenset(paths[number] for number in group) for group in copies.groups}
    findings = [
        (paths[finding.number], finding.kind, finding.suggestion, paths[finding.other])
        for finding in copy_findings(inspection, copies, set())
    ]
    return groups, findings


def photos(split, label, seeds):
    return {f"{split}/{label}/{seed}.jpg": encoded(picture(seed)) for seed in seeds}


def test_parts_and_mirrored_copies_are_found_across_splits(tmp_path):
    files = {**photos("train", "a", range(6)), **photos("train", "b", range(6, 12))}
    files |= {**photos("val", "a", [20]), **photos("val", "b", [21])}
    files["val/a/part.jpg"] = encoded(picture(0).crop((20, 10, 150, 140)), quality=80)
    files["val/b/mirrored.jpg"] = encoded(picture(6).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    files["val/b/other.jpg"] = encoded(picture(30))
    alike = [("train/a/0.jpg", "val/a/part.jpg"), ("train/b/6.jpg", "val/b/mirrored.jpg")]
    alike.append(("train/b/7.jpg", "val/b/other.jpg"))
    groups, findings = found_copies(tmp_path, files, alike)
    assert groups == {frozenset(group) for group in alike[:2]}
    assert findings == [
        ("train/a/0.jpg", "copy in another split", "drop", "val/a/part.jpg"),
        ("train/b/6.jpg", "copy in another split", "drop", "val/b/mirrored.jpg"),
    ]


def test_the_larger_copy_of_a_split_stays(tmp_path):
    files = {**photos("train", "a", range(4)), **photos("train", "b", range(4, 8))}
    files |= {**photos("val", "a", [20]), **photos("val", "b", [21])}
    files["train/a/0-small.jpg"] = encoded(picture(0).resize((90, 90)))
    _, findings = found_copies(tmp_path, files, [])
    assert findings == [("train/a/0-small.jpg", "copy", "drop", "train/a/0.jpg")]


def test_a_copy_with_another_label_is_for_a_person(tmp_path):
    files = {**photos("train", "a", range(4)), **photos("train", "b", range(4, 8))}
    files |= {**photos("val", "a", [20]), **photos("val", "b", [21])}
    files["train/b/0-again.jpg"] = files["train/a/0.jpg"]
    _, [(_, kind, suggestion, _)] = found_copies(tmp_path, files, [])
    assert (kind, suggestion) == ("copy with another label", "")


def test_of_many_images_those_with_similar_features_are_compared_too(monkeypatch):
    draw = np.random.default_rng(0)
    classes = draw.normal(size=(5, 64))
    features = classes[np.arange(2000) % 5] + draw.normal(size=(2000, 64))
    features[1000:1300] = features[:300] + draw.normal(0, 0.4, (300, 64))
    features = features.astype(np.float32)
    copied = {(number, number + 1000) for number in range(300)}

    def found():
        left, right, _ = _similar_pairs(features)
        return len(copied & set(zip(left.tolist(), right.tolist(), strict=True)))

    assert found() == 300
    monkeypatch.setattr(copies_module, "_MAX_COMPARED_WITH_ALL", 0)
    monkeypatch.setattr(copies_module, "_CELL_IMAGES", 50)
    assert found() > 0.97 * 300
    left, _, similarity = _similar_pairs(features)
    assert (np.diff(left) >= 0).all()
    assert (similarity >= 0.65).all()
