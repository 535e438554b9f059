"""A thousand hostile requests, in an order fixed by a seed."""

import base64
import io
import json
import random
import socket
import struct
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

REQUESTS = 1_000
SLOW = 12
# TensorFlow keeps buffers of the sizes it has seen.
MAX_MEMORY_GROWTH = 100_000_000


def b64(data):
    return base64.b64encode(data).decode()


def photo():
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png_bomb(side=60_000):
    """A PNG of some kilobytes that claims gigapixels."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99_999)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*name_and_content) for name_and_content in chunks)


def gif_bomb():
    return b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0) + b"\x2c" + b"\0" * 20


def webp_bomb():
    body = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\xff\x0f" * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


PHOTO = photo()


def instance(data, key="k"):
    return {"image_bytes": {"b64": b64(data)}, "key": key}


def body(*rows, **fields):
    return json.dumps({"instances": list(rows), **fields}).encode()


def flipped(draw):
    """A truncated photo with changed bytes."""
    data = bytearray(PHOTO[: draw.randrange(20, len(PHOTO) - 40)])
    for _ in range(5):
        data[draw.randrange(3, len(data))] = draw.randrange(256)
    return bytes(data)


# Each makes (path, body) from a random source; None as a path is that of predict.
HOSTILE = {
    "no body": lambda _: (None, b""),
    "no JSON": lambda draw: (None, draw.randbytes(draw.randrange(1, 300))),
    "half of the JSON": lambda draw: (None, body(instance(PHOTO))[: draw.randrange(1, 200)]),
    "a JSON list": lambda _: (None, b"[1, 2]"),
    "nested JSON": lambda _: (None, b'{"instances":' + b"[" * 100_000),
    "a number of a million digits": lambda _: (None, b'{"instances": ' + b"9" * 1_000_000 + b"}"),
    "no instances": lambda _: (None, b"{}"),
    "empty instances": lambda _: (None, body()),
    "instances and inputs": lambda _: (None, body(instance(PHOTO), inputs={})),
    "no image in a row": lambda _: (None, body({"key": "k"})),
    "a key too few": lambda _: (
        None,
        json.dumps({"inputs": {"image_bytes": [{"b64": b64(PHOTO)}] * 2, "key": ["a"]}}).encode(),
    ),
    "a key that is a number": lambda draw: (None, body({**instance(PHOTO), "key": draw.randrange(9)})),
    "a key with half a surrogate pair": lambda _: (None, body(instance(PHOTO, "\ud800"))),
    "an image that is a number": lambda _: (None, body({"image_bytes": 7, "key": "k"})),
    "an image that is a list of numbers": lambda _: (None, body({"image_bytes": [[1.0]], "key": "k"})),
    "an image that is plain text": lambda _: (None, body({"image_bytes": b64(PHOTO), "key": "k"})),
    "wrong base64": lambda _: (
        None,
        body({"image_bytes": {"b64": b64(PHOTO)[:-7] + "!?"}, "key": "k"}),
    ),
    "an empty image": lambda _: (None, body(instance(b""))),
    "text as an image": lambda draw: (None, body(instance(b"GIF, really" + draw.randbytes(20)))),
    "a truncated photo": lambda draw: (None, body(instance(flipped(draw)))),
    "a good photo and a bad one": lambda draw: (None, body(instance(PHOTO), instance(flipped(draw)))),
    "a PNG bomb": lambda _: (None, body(instance(png_bomb()))),
    "a GIF bomb": lambda _: (None, body(instance(gif_bomb()))),
    "a WebP bomb": lambda _: (None, body(instance(webp_bomb()))),
    "too many images": lambda _: (None, body(*[instance(PHOTO)] * 41)),
    "a huge body": lambda _: (None, b'{"instances": "' + b"A" * 2_100_000),
    "an unknown signature": lambda _: (None, body(instance(PHOTO), signature_name="../../x")),
    "a signature that is not text": lambda _: (None, body(instance(PHOTO), signature_name=[1])),
    "an unknown field": lambda draw: (None, body(instance(PHOTO), **{"x" * draw.randrange(1, 9): 1})),
    "another model": lambda _: ("/v1/models/other:predict", body(instance(PHOTO))),
    "another version": lambda _: ("/v1/models/colours/versions/7:predict", body(instance(PHOTO))),
    "a version of many digits": lambda _: ("/v1/models/colours/versions/" + "9" * 5000, b"{}"),
    "a path upwards": lambda _: ("/v1/models/../../etc/passwd", b"{}"),
    "an encoded path upwards": lambda _: ("/v1/models/..%2f..%2fetc%2fpasswd:predict", b"{}"),
    "a path with a zero byte": lambda _: ("/v1/models/colours%00:predict", b"{}"),
    "an unknown action": lambda _: ("/v1/models/colours:destroy", b"{}"),
}


@pytest.fixture(scope="module")
def outcome(server):
    """The responses to all requests as (kind, status, reason), the memory before them, and the peak."""
    draw = random.Random(0)  # noqa: S311 - the same every time
    kinds = [list(HOSTILE)[number % len(HOSTILE)] for number in range(REQUESTS - SLOW)]
    draw.shuffle(kinds)
    responses = []
    with httpx.Client(timeout=30) as client:
        # The first request of each kind makes the server allocate memory that it keeps.
        for kind in HOSTILE:
            path, content = HOSTILE[kind](draw)
            client.post(server.address + (path or f"/v1/models/{server.name}:predict"), content=content)
        before = server.memory()
        peak = before
        for kind in kinds:
            path, content = HOSTILE[kind](draw)
            response = client.post(
                server.address + (path or f"/v1/models/{server.name}:predict"), content=content
            )
            responses.append((kind, response.status_code, response.json().get("error", "")))
            peak = max(peak, server.memory())
    # Incomplete bodies, all at the same time.
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(SLOW)]
    for slow in sockets:
        slow.sendall(b"POST /v1/models/colours:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
    for slow in sockets:
        slow.settimeout(10)
        received = b""
        while part := slow.recv(65_536):
            received += part
        head, _, content = received.partition(b"\r\n\r\n")
        responses.append(("a slow body", int(head.split()[1]), json.loads(content)["error"]))
        slow.close()
    return responses, before, peak


def test_each_hostile_request_is_rejected_with_a_reason(outcome):
    responses, _, _ = outcome
    assert len(responses) == REQUESTS
    assert [response for response in responses if not 400 <= response[1] < 500] == []
    for kind, _, reason in responses:
        assert len(reason) > 10, kind
        assert len(reason) < 500, kind
        assert "Traceback" not in reason
    status = {kind: found for kind, found, _ in responses}
    assert status["a huge body"] == status["too many images"] == 413
    assert status["a slow body"] == 408
    assert status["another model"] == status["a path upwards"] == 404
    reasons = {kind: reason for kind, _, reason in responses}
    assert reasons["a key with half a surrogate pair"].startswith(
        "instances[0].key contains half of a surrogate"
    )
    assert "too many digits" in reasons["a number of a million digits"]
    assert status["a PNG bomb"] == status["wrong base64"] == 400


def test_the_server_still_predicts_afterwards(outcome, server):
    response = server.predict({"instances": [instance(PHOTO, "still there")]})
    assert response.status_code == 200
    assert response.json()["predictions"][0]["key"] == "still there"
    assert server.process.poll() is None


def test_memory_is_released(outcome, server):
    _, before, peak = outcome
    assert server.memory() - before < MAX_MEMORY_GROWTH
    # Decoding a bomb would have taken gigabytes.
    assert peak - before < 3 * MAX_MEMORY_GROWTH


def test_an_incomplete_head_is_cut_off(server):
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"POST /v1/mod")
        silent.settimeout(10)
        started = time.monotonic()
        assert silent.recv(100) == b""
        assert time.monotonic() - started < 5


def test_clients_may_disconnect_in_the_middle_of_a_request(server):
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(
                b"POST /v1/models/colours:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"
            )
    assert httpx.get(f"{server.address}/healthz", timeout=10).status_code == 200
