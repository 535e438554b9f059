"""Requests are predicted in batches, of which two are computed at the same time."""

import asyncio
import threading

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.serve.batcher import Batcher
from imgpipe.components.serve.predict_request import PredictRequest, RequestError


def request(*images):
    return PredictRequest("sizes", images, tuple(map(str, range(len(images)))), by_row=True)


def sizes(_, images, keys):
    assert len(images) == len(keys)
    if b"" in images:
        raise InvalidDataError("it is empty", remedy="send another")
    return {"size": np.array([len(image) for image in images])}


def predict(predict, *requests, max_images=4, max_waiting=100):
    """Sends all requests; returns what each gets, and the sizes of the batches."""
    batches = []

    async def send():
        batcher = Batcher(predict, max_images=max_images, max_waiting=max_waiting, on_batch=batches.append)
        answers = await asyncio.gather(*map(batcher.predict, requests), return_exceptions=True)
        await batcher.close()
        with pytest.raises(RequestError):
            await batcher.predict(requests[0])
        return [answer if isinstance(answer, Exception) else answer["size"].tolist() for answer in answers]

    return asyncio.run(send()), batches


def test_two_batches_are_computed_at_the_same_time():
    together = threading.Barrier(2, timeout=10)

    def wait_for_another(*arguments):
        together.wait()
        return sizes(*arguments)

    assert predict(wait_for_another, request(b"1"), request(b"22"), max_images=1)[0] == [[1], [2]]


def test_what_waits_is_predicted_in_one_batch_and_each_request_gets_its_own_outputs():
    requests = [request(b"1" * number, b"1" * number) for number in range(1, 9)]
    are_sent = threading.Event()

    def predict_when_all_wait(*arguments):
        are_sent.wait(10)
        return sizes(*arguments)

    threading.Timer(0.2, are_sent.set).start()
    answers, batches = predict(predict_when_all_wait, *requests)
    assert answers == [[number, number] for number in range(1, 9)]
    assert sum(batches) == 16
    assert max(batches) == 4
    assert len(batches) < len(requests)


def test_a_request_with_more_images_than_a_batch_gets_all_outputs():
    assert predict(sizes, request(*[b"12"] * 9))[0] == [[2] * 9]


def test_an_image_that_cannot_be_decoded_fails_its_own_request_only():
    answers, _ = predict(sizes, request(b"1"), request(b"1", b""), request(b"22"), request(b"333"))
    assert [answers[0], *answers[2:]] == [[1], [2], [3]]
    assert (answers[1].status, answers[1].reason) == (400, "image 1: it is empty")


def test_too_many_waiting_images_are_refused_with_a_status_that_allows_a_retry():
    answers, _ = predict(sizes, request(*[b"1"] * 3), request(*[b"1"] * 5), max_waiting=4)
    assert answers[0] == [1] * 3
    assert answers[1].status == 503
