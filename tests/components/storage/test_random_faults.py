"""Random faults of a store: the same bytes or an error of ours, and never a part of an object."""

import random
import time

import pytest

from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, OutputError
from imgpipe.components.storage import parse_location, remote_requests

NAMES = ("a", "b", "c/d")


def slow(handler):
    """Answers late, without the content."""
    time.sleep(0.05)
    handler.send(504)


def page(handler):
    """Answers with the page of a proxy."""
    handler.send(200, b"<html>log in</html>", Content_Type="text/html")


def expired(handler):
    """Refuses credentials that have expired."""
    error = b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"
    handler.send(401 if handler.path.startswith("/storage/") else 400, error, Content_Type="application/xml")


FAULTS = ("503", "reset", "short", slow, page, expired)


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.proof)])
def test_any_fault_gives_the_same_bytes_or_an_error(bucket, count, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.3)
    # Most contents have several parts.
    monkeypatch.setattr("imgpipe.components.storage.object_store.PART_BYTES", 1 << 15)
    generator = random.Random(count)  # noqa: S311
    folder = parse_location(bucket.uri)
    objects = {}
    for number in range(count):
        name, content = generator.choice(NAMES), generator.randbytes(generator.randrange(100_000))
        source, other = tmp_path / "source", generator.choice([key for key in NAMES if key != name])
        source.write_bytes(content)
        target = folder / name
        # What may be there afterwards, by name: before, and after the action.
        before, after = dict(objects), dict(objects)
        action = generator.choice(("write", "upload", "read", "download", "rename", "remove", "contents"))
        fault, times = generator.choice(FAULTS), [generator.randrange(1, 6)]

        def inject(_method, _path, fault=fault, times=times):
            times[0] -= 1
            return fault if times[0] >= 0 else ""

        bucket.fault = inject
        failed = False
        try:
            if action in ("write", "upload"):
                after[name] = content
                target.write(content) if action == "write" else target.upload(source)
            elif action == "read":
                assert target.read() == objects[name]
            elif action == "download":
                target.download(tmp_path / "copy")
                assert (tmp_path / "copy").read_bytes() == objects[name]
            elif action == "rename" and name in objects:
                after[other] = after.pop(name)
                target.rename(folder / other)
            elif action == "remove":
                after.pop(name, None)
                target.remove()
            else:
                assert folder.contents() == {key: len(value) for key, value in sorted(objects.items())}
        except (MissingInputError, OutputError, InterruptedRunError):
            failed = True
        found = bucket.contents()
        for key in NAMES:
            allowed = [state.get(key) for state in ((before, after) if failed else (after,))]
            assert found.get(key) in allowed, (number, action, fault)
        objects = found
