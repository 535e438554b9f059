import gzip
import re
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.tfrecord import frame_record, read_record_blocks, read_records, write_record


def written(path, records):
    with path.open("wb") as file:
        for record in records:
            write_record(file, record)
    return path


in_tmp_path = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@in_tmp_path
@given(records=st.lists(st.binary(max_size=200), max_size=6))
def test_records_round_trip_in_order_with_their_offsets(tmp_path, records):
    path = written(tmp_path / "file", records)
    offsets, found = [], []
    for offset, data in read_records(path):
        offsets.append(offset)
        found.append(data)
    assert found == records
    assert offsets == [sum(16 + len(record) for record in records[:n]) for n in range(len(records))]


def test_a_flipped_bit_anywhere_is_detected_with_record_and_offset(tmp_path):
    records = [b"first", b"", b"a third record"]
    whole = written(tmp_path / "whole", records).read_bytes()
    starts = [0, 21, 37]
    path = tmp_path / "flipped"
    for position in range(len(whole)):
        number = sum(start <= position for start in starts) - 1
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            found = []
            with pytest.raises(InvalidDataError) as caught:
                found.extend(data for _, data in read_records(path))
            assert f"{path}, record {number}, byte offset {starts[number]}" in str(caught.value)


@in_tmp_path
@given(content=st.binary(min_size=1, max_size=100))
def test_a_file_that_is_not_tfrecord_is_rejected(tmp_path, content):
    path = tmp_path / "noise"
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match="record 0"):
        list(read_records(path))


def test_a_missing_file_is_missing_input(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere"):
        list(read_records(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError):
        list(read_records(tmp_path))


def damaged_content(data, records):
    """Draws the content of a damaged file."""
    content = bytearray(b"".join(map(frame_record, records)))
    for kind in data.draw(
        st.lists(st.sampled_from(["change", "cut", "insert", "remove", "append"]), max_size=3)
    ):
        position = data.draw(st.integers(0, len(content)))
        if kind == "change" and position < len(content):
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[position:]
        elif kind == "remove":
            del content[position : position + data.draw(st.integers(1, 30))]
        elif kind == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=30))
        else:
            # A valid header that declares more data than the file has.
            length = struct.pack("<Q", data.draw(st.sampled_from([1, 2**20, 2**31, 2**40, 2**63])))
            content += frame_record(length)[12:-4] + frame_record(length)[-4:]
    return content


damaged_files = settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_locations(path, block_bytes):
    locations = []
    try:
        for block in read_record_blocks(path, block_bytes=block_bytes):
            assert len(block.locations) == 1 or len(block.framed) <= block_bytes
            begin, end = block.locations[0].offset, block.locations[-1].end
            assert block.framed == path.read_bytes()[begin:end]
            locations += block.locations
    except InvalidDataError as error:
        return locations, str(error)
    return locations, ""


@damaged_files
@given(data=st.data())
def test_blocks_of_any_size_have_the_same_records_and_the_same_error(tmp_path, data):
    path = tmp_path / "shard"
    path.write_bytes(damaged_content(data, data.draw(st.lists(st.binary(max_size=60), max_size=6))))
    block_bytes = data.draw(st.integers(12, 300))
    assert read_locations(path, block_bytes) == read_locations(path, 10_000)


@damaged_files
@given(data=st.data())
def test_damage_is_reported_with_record_and_offset(tmp_path, data):
    path = tmp_path / "shard"
    content = damaged_content(data, data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=4)))
    path.write_bytes(content)
    read = []
    try:
        for offset, record in read_records(path):
            assert content[offset + 12 : offset + 12 + len(record)] == record
            read.append(record)
    except InvalidDataError as error:
        assert re.search(rf"record {len(read)}, byte offset \d+", str(error))  # noqa: PT017
    else:
        assert b"".join(map(frame_record, read)) == content


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_file_is_detected(tmp_path, compress):
    path = tmp_path / "file"
    path.write_bytes(compress(frame_record(b"one")))
    with pytest.raises(InvalidDataError, match=r"the file is compressed[^$]*record 0[^$]*decompress"):
        list(read_records(path))
