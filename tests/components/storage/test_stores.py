"""A new store needs only a subclass of ``ObjectLocation`` and an entry in the registry."""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
from PIL import Image

from imgpipe.components import storage
from imgpipe.components.common.dataset import (
    Manifest,
    Shard,
    Split,
    read_manifest,
    shard_paths,
    write_manifest,
)
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.model_folder import local_model
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.common.published_model import fetch_model, publish_model, publish_model_at
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.storage import FileStatus, ObjectLocation, parse_location
from imgpipe.components.storage.location import ignore_content

OBJECTS: dict[str, bytes] = {}


@dataclass(frozen=True, repr=False)
class MemoryLocation(ObjectLocation):
    scheme: ClassVar[str] = "memory"
    service: ClassVar[str] = "memory"

    def status(self):
        return FileStatus(len(OBJECTS[self.key]), 1) if self.key in OBJECTS else None

    def read(self):
        if self.key not in OBJECTS:
            raise MissingInputError(f"there is no object {self!r}", remedy="check the path")
        return OBJECTS[self.key]

    def read_range(self, begin, length):
        return self.read()[begin : begin + length]

    def download(self, path, observe=ignore_content):
        path.write_bytes(self.read())
        observe(self.read())

    def list_keys(self, prefix, *, first="", last="", recursive=True):
        for key in sorted(OBJECTS):
            in_range = first <= key and (not last or key <= last)
            if key.startswith(prefix) and in_range and (recursive or "/" not in key.removeprefix(prefix)):
                yield key, FileStatus(len(OBJECTS[key]), 1)

    def children(self, limit=None):
        names = (key.removeprefix(self.prefix).partition("/")[:2] for key, _ in self.list_keys(self.prefix))
        return sorted({"".join(name) for name in names})[:limit]

    def write(self, content):
        OBJECTS[self.key] = content

    def upload(self, path):
        self.write(path.read_bytes())

    def copy_to(self, target):
        target.write(OBJECTS[self.key])

    def remove(self):
        OBJECTS.pop(self.key, None)


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    OBJECTS.clear()
    monkeypatch.setitem(storage._STORES, "memory", MemoryLocation)


def test_a_conversion_from_and_to_a_new_store_gives_the_same_bytes(tmp_path):
    local, remote = parse_location(tmp_path / "photos"), parse_location("memory://bucket/photos")
    for number in range(8):
        content = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
        for folder in (local, remote):
            (folder / "ab"[number % 2] / f"{number}.png").write(content.getvalue())
    rows = "".join(f"{'ab'[number % 2]}/{number}.png,{'ab'[number % 2]}\n" for number in range(8))
    for argument, name in (("images", ""), ("train_csv", "list.csv")):
        (local / "list.csv").write(rows.encode())
        (remote / "list.csv").write(rows.encode())
        expected, written = parse_location(tmp_path / argument), parse_location(f"memory://bucket/{argument}")
        convert(ConvertArguments(**{argument: str(local / name)}), str(expected))
        convert(ConvertArguments(**{argument: str(remote / name)}), str(written))
        assert {file: (written / file).read() for file in written.contents()} == {
            file: (expected / file).read() for file in expected.contents()
        }
    arguments = ConvertArguments(train_csv=str(remote / "list.csv"), output_dir="memory://bucket/train_csv")
    convert(arguments, tmp_path / "manifest")
    with local_dataset(tmp_path / "manifest", "train") as dataset:
        assert (dataset / "00000" / "train-00000-of-00001").is_file()


def test_a_model_is_published_to_and_read_from_a_new_store(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("model")
    write_provenance(tmp_path / "model", {})
    for _ in range(2):
        target = publish_model(tmp_path / "model", parse_location("memory://bucket/job"))
    assert str(target) == "memory://bucket/job/model"
    with local_model(target) as folder:
        assert (folder / "saved_model.pb").read_text() == "model"


@pytest.mark.parametrize(
    "name", ["model/a//b", "model//etc/x", "model/../x", "model/./x", f"model/{'x' * 256}"]
)
def test_an_object_whose_name_leads_elsewhere_is_not_downloaded(tmp_path, name):
    OBJECTS.update({"model/saved_model.pb": b"model", name: b"x"})
    location = parse_location("memory://bucket/model")
    with pytest.raises(InvalidDataError, match="cannot be the name of a local file"):
        location.download_folder(tmp_path / "copy")
    with pytest.raises(InvalidDataError, match=re.escape(name)), local_model(location):
        pass


def test_an_object_with_the_name_of_anothers_folder_is_an_error(tmp_path):
    OBJECTS.update({"model/a": b"x", "model/a/b": b"x"})
    with pytest.raises(InvalidDataError, match="'memory://bucket/model/a/b' has the name of another object"):
        parse_location("memory://bucket/model").download_folder(tmp_path / "copy")


def test_a_shard_whose_name_leads_elsewhere_is_copied_under_another(tmp_path):
    content = {"memory://bucket/data/..": b"one", "memory://bucket/data/.": b"two"}
    shards = []
    for path, data in content.items():
        OBJECTS[path.removeprefix("memory://bucket/")] = data
        shards.append(Shard(path, 1, len(data), hashlib.sha256(data).hexdigest()))
    write_manifest(tmp_path, Manifest(("a",), {"train": Split(tuple(shards), (2,))}, {}))
    with local_dataset(tmp_path, "train") as dataset:
        paths = shard_paths(dataset, read_manifest(dataset).splits["train"])
        assert [path.read_bytes() for path in paths] == list(content.values())
        assert {path.resolve().parent.parent for path in paths} == {dataset.resolve()}


def files_of(model):
    return {
        path.relative_to(model).as_posix(): path.read_text() for path in model.rglob("*") if path.is_file()
    }


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/data"):
        (folder / name).write_text("old")
    write_provenance(folder, {})
    return folder


class Killed(BaseException):
    """Simulates SIGKILL: nothing is cleaned up."""


@pytest.mark.parametrize("is_cleaned_up", [False, True], ids=["killed", "failed"])
def test_a_publication_that_ends_at_any_moment_leaves_the_old_or_the_new_model(
    model, monkeypatch, is_cleaned_up
):
    target = publish_model(model, parse_location("memory://bucket/job"))
    steps, allowed = 0, 0

    def counted(act):
        def counting(location, *arguments):
            nonlocal steps
            steps += 1
            if steps == allowed + 1 or (steps > allowed and not is_cleaned_up):
                raise Killed
            act(location, *arguments)

        return counting

    # The last published model; a failed publication may be complete.
    last = files_of(model)
    for moment in range(40):
        for name in ("saved_model.pb", "variables/data"):
            (model / name).write_text(f"new {moment}")
        steps, allowed = 0, moment
        try:
            with monkeypatch.context() as context:
                for name in ("upload", "write", "remove", "copy_to"):
                    context.setattr(MemoryLocation, name, counted(getattr(MemoryLocation, name)))
                publish_model(model, target.parent)
        except Killed:
            with local_model(target) as found:
                assert files_of(found) in (last, files_of(model))
                last = files_of(found)
        else:
            assert moment > 10
            break
    # The last one has removed what the others have left.
    names = {"job/.model.current", *(f"job/model/{name}" for name in files_of(model))}
    assert set(OBJECTS) == names


@pytest.mark.parametrize("name", ["../other", ".model.current", "model/trial_1", 7, None, [".."]])
def test_a_switch_never_leads_elsewhere(model, name):
    target = publish_model(model, parse_location("memory://bucket/job"))
    OBJECTS["job/.model.current"] = json.dumps({"read_from": name}).encode()
    with local_model(target) as found:
        assert files_of(found) == files_of(model)


def test_a_trial_whose_publication_was_killed_keeps_its_model_when_the_best_one_is_published(model, tmp_path):
    target = publish_model(model, parse_location("memory://bucket/job"))
    trial = target / "trial_1"
    publish_model_at(model, trial)
    hidden = f"model/.trial_1.{'0' * 32}.partial"
    for name, content in files_of(model).items():
        OBJECTS[f"job/{hidden}/{name}"] = content.encode()
    OBJECTS["job/model/.trial_1.current"] = json.dumps({"read_from": hidden.partition("/")[2]}).encode()
    del OBJECTS["job/model/trial_1/saved_model.pb"]
    publish_model(model, target.parent)
    for location in (target, trial):
        fetch_model(location, tmp_path / location.name)
        assert files_of(tmp_path / location.name) == files_of(model)
