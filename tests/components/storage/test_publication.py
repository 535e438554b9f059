"""Publishing: readers find the old or the new model at any moment, also when the publisher is killed."""

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imgpipe.components.storage import parse_location, read_unchanged
from tests.components.storage.endless_publisher import FILES

PUBLISHER = Path(__file__).with_name("endless_publisher.py")
KILLS = 100


class Reader(threading.Thread):
    """Reads the model in a loop, until it is stopped; every reading is one number or an error."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target = target
        self.found = []
        self.is_stopped = False

    def run(self):
        while not self.is_stopped:
            try:
                self.found.append(read_unchanged(self.target, read_numbers))
            except Exception as error:
                self.found.append(error)


def read_numbers(folder):
    return sorted({number for name in FILES for number in (folder / name).read().decode().split()})


@pytest.mark.parametrize("store", ["local", "cloud", "s3"])
def test_the_next_publication_removes_what_killed_ones_have_left(store, tmp_path, request):
    folder = parse_location(tmp_path / "job" if store == "local" else request.getfixturevalue(store).uri)
    source = tmp_path / "model"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"1")
    number = "0123456789abcdef" * 2
    for name in (f".model.{number}.partial/a", f".model.{number[::-1]}.old/a", "other/a", ".other.partial/a"):
        (folder / name).write(b"")
    if store == "local":
        # Of the switch.
        (folder / f"..model.current.{number}.partial").write(b"")
    (folder / "model").publish_folder(source)
    assert folder.children() == [".other.partial/", "model/", "other/"]


@pytest.mark.proof
@pytest.mark.parametrize("store", ["local", "no-renames", "cloud", "s3"])
def test_a_reader_finds_one_model_while_publishers_are_killed(store, tmp_path, request):
    folder = (
        str(tmp_path / "job")
        if store in ("local", "no-renames")
        else f"{request.getfixturevalue(store).uri}/job"
    )
    target = parse_location(folder) / "model"
    generator = random.Random(7)  # noqa: S311
    reader, number = Reader(target), 1
    for kill in range(KILLS):
        command = [sys.executable, str(PUBLISHER), str(target), str(number), store]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as publisher:
            number = int(publisher.stdout.readline()) + 1
            if kill == 0:
                reader.start()
            threading.Event().wait(generator.random() * 0.3)
            publisher.kill()
            lines = publisher.stdout.read().split()
            number += len(lines) + 1
    reader.is_stopped = True
    reader.join()
    wrong = [found for found in reader.found if isinstance(found, Exception) or len(found) != 1]
    assert not wrong, wrong[:3]
    numbers = [int(found[0]) for found in reader.found]
    assert numbers == sorted(numbers)
    print(f"{store}: {KILLS} kills, {number} models, {len(numbers)} readings of {len(set(numbers))} models")
