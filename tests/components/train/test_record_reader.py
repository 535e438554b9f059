import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.tfrecord import encode_record_sizes, frame_record, framed_size
from imgpipe.components.train import record_reader
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


def test_records_are_read_in_any_order_by_several_threads(paths, contents):
    reader = RecordReader(paths, COUNTS)
    batches = np.random.default_rng(1).integers(0, len(contents), (200, 10))
    with ThreadPoolExecutor(8) as pool:
        for indices, records in zip(batches, pool.map(reader.read, batches), strict=True):
            assert records == [contents[index] for index in indices]


def test_the_number_of_open_files_is_limited_and_all_are_closed_in_the_end(paths, contents):
    before = len(os.listdir("/proc/self/fd"))
    reader = RecordReader(paths, COUNTS)
    indices = np.arange(len(contents))
    reader.prefetch(indices)
    reader.read(indices)
    assert before + 10 < len(os.listdir("/proc/self/fd")) <= before + 64
    del reader
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="only on Linux")
def test_whole_blocks_are_prefetched_once_the_most_urgent_ones_first(tmp_path, monkeypatch):
    shards = [tmp_path / "a", tmp_path / "b"]
    record = frame_record(b"1234")
    counts = (10, 20)
    for path, count in zip(shards, counts, strict=True):
        path.write_bytes(record * count)
    sizes = [encode_record_sizes([len(record)] * count) for count in counts]
    requested = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _file, begin, length, _advice: requested.append((begin, length))
    )
    # Record 9 of the first shard, then 9, 1 and 8 of the second one.
    RecordReader(shards, counts, sizes).prefetch(np.array([9, 19, 11, 18]))
    assert requested == [
        (first * len(record), count * len(record)) for first, count in ((8, 2), (8, 8), (0, 8))
    ]


def test_only_the_required_shards_are_opened(paths, contents):
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


def test_a_number_of_records_that_differs_from_the_manifest_is_rejected(paths):
    reader = RecordReader(paths, [3, 0, 6, *COUNTS[3:]])
    with pytest.raises(InvalidDataError, match="has 5 records, but the manifest says 6"):
        reader.read(np.array([3]))


def test_no_shard_is_scanned_if_the_manifest_has_the_sizes_of_its_records(paths, contents, monkeypatch):
    monkeypatch.setattr(record_reader, "read_record_blocks", lambda path: pytest.fail(f"scanned {path}"))
    ends = np.cumsum(COUNTS)
    sizes = [
        encode_record_sizes([framed_size(len(data)) for data in contents[end - count : end]])
        for count, end in zip(COUNTS, ends, strict=True)
    ]
    # A shard without records has no sizes; none of its records is ever needed.
    reader = RecordReader(paths, COUNTS, sizes)
    indices = np.random.default_rng(2).permutation(len(contents))
    assert reader.read(indices) == [contents[index] for index in indices]
    paths[2].write_bytes(paths[2].read_bytes() + b"more")
    with pytest.raises(InvalidDataError, match="but the manifest says"):
        RecordReader(paths, COUNTS, sizes).read(np.array([3]))
    paths[2].unlink()
    with pytest.raises(MissingInputError, match="shard-2"):
        RecordReader(paths, COUNTS, sizes).read(np.array([3]))
