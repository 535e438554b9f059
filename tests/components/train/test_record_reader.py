import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.tfrecord import frame_record
from imgpipe.components.train.record_reader import RecordReader

COUNTS = [3, 0, 5, 1] + [2] * 100


@pytest.fixture(scope="module")
def contents():
    draw = np.random.default_rng(0)
    return [draw.bytes(int(draw.integers(0, 3000))) for _ in range(sum(COUNTS))]


@pytest.fixture
def paths(contents, tmp_path):
    made, rest = [], iter(contents)
    for number, count in enumerate(COUNTS):
        made.append(tmp_path / f"shard-{number}")
        made[-1].write_bytes(b"".join(frame_record(next(rest)) for _ in range(count)))
    return made


def test_records_come_by_their_number_in_any_order_on_any_number_of_threads(paths, contents):
    reader = RecordReader(paths, COUNTS)
    numbers = np.random.default_rng(1).integers(0, len(contents), 2000)
    with ThreadPoolExecutor(8) as pool:
        for some, records in zip(
            numbers.reshape(200, 10), pool.map(reader.read, numbers.reshape(200, 10)), strict=True
        ):
            assert records == [contents[number] for number in some]


def test_only_some_files_stay_open_and_all_are_closed_in_the_end(paths, contents):
    before = len(os.listdir("/proc/self/fd"))
    reader = RecordReader(paths, COUNTS)
    numbers = np.arange(len(contents))
    reader.announce(numbers)
    reader.read(numbers)
    assert before + 10 < len(os.listdir("/proc/self/fd")) <= before + 64
    del reader
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_shard_that_no_record_is_asked_of_is_not_touched(paths, contents):
    for path in paths[4:]:
        path.unlink()
    reader = RecordReader(paths, COUNTS)
    assert reader.read(np.array([8, 0])) == [contents[8], contents[0]]
    with pytest.raises(MissingInputError, match="shard-4"):
        reader.read(np.array([9]))


def test_damaged_data_is_named_by_file_and_record(paths):
    content = bytearray(paths[2].read_bytes())
    content[-10] ^= 1
    paths[2].write_bytes(content)
    reader = RecordReader(paths, COUNTS)
    reader.read(np.array([3, 6]))
    with pytest.raises(InvalidDataError, match=r"shard-2, record 4") as caught:
        reader.read(np.array([7]))
    assert "checksum" in caught.value.problem


def test_another_number_of_records_than_the_manifest_says_is_refused(paths):
    reader = RecordReader(paths, [3, 0, 6, *COUNTS[3:]])
    with pytest.raises(InvalidDataError, match="holds 5 records, the manifest says 6"):
        reader.read(np.array([3]))
