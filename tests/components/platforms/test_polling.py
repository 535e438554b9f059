"""The polling loop and the retries that all platforms share."""

import pytest

from imgpipe.components.common.errors import InterruptedRunError, InvalidResponseError, UnavailableError
from imgpipe.components.platforms import polling


@pytest.fixture
def pauses(monkeypatch):
    """Returns the pauses of a loop, which take no time."""
    taken = []
    monkeypatch.setattr(polling.time, "sleep", taken.append)
    monkeypatch.setattr(polling.time, "monotonic", lambda: sum(taken))
    return taken


def service(*responses):
    """Returns a request that gives these responses, or raises the exceptions among them, in turn."""
    remaining = list(responses)

    def request():
        response = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(response, Exception):
            raise response
        return response

    return request


def test_pauses_grow_to_their_limit_and_every_response_is_passed_on(pauses):
    seen = []
    request = service(1, 2, 3, 4)
    last = polling.poll(request, lambda r: r == 4, on_response=seen.append, first_pause=4, max_pause=8)
    assert (last, seen, pauses) == (4, [1, 2, 3, 4], [4, 6, 8])


def test_a_silent_service_is_tolerated_up_to_the_limit(pauses):
    silence = InterruptedRunError("no response")
    assert polling.poll(service(silence, silence, "done"), bool) == "done"
    del pauses[:]
    with pytest.raises(InterruptedRunError, match="no response"):
        polling.poll(service(silence), bool, silence_limit=100)
    assert 100 < sum(pauses) < 140


def test_other_errors_and_errors_of_the_caller_end_the_loop(pauses):
    with pytest.raises(UnavailableError):
        polling.poll(service(UnavailableError("forbidden")), bool)

    def on_response(_):
        raise InterruptedRunError("deleted")

    with pytest.raises(InterruptedRunError, match="deleted"):
        polling.poll(service(False), bool, on_response=on_response)
    assert pauses == []


def test_retries_double_their_pause_until_the_deadline(pauses):
    lost = InterruptedRunError("lost")
    assert polling.retry(service(lost, lost, "created")) == "created"
    assert pauses == [1, 2]
    del pauses[:]
    with pytest.raises(InterruptedRunError, match="lost"):
        polling.retry(service(lost), seconds=100)
    assert pauses == [1, 2, 4, 8, *[15] * 5]


def test_a_pause_is_as_long_as_the_service_says(pauses):
    busy = InterruptedRunError("busy", retry_after=40)
    assert polling.retry(service(busy, busy, "created")) == "created"
    assert polling.poll(service(busy, "done"), bool) == "done"
    assert pauses == [40, 40, 40]
    # A pause beyond the deadline is not begun.
    with pytest.raises(InterruptedRunError, match="busy"):
        polling.retry(service(InterruptedRunError("busy", retry_after=3600)))
    assert pauses == [40, 40, 40]


def test_while_a_job_is_followed_an_unreadable_response_is_a_silent_service(pauses):
    page = InvalidResponseError("an HTML page")
    assert polling.poll(service(page, page, "done"), bool) == "done"
    with pytest.raises(InvalidResponseError):
        polling.retry(service(page))
