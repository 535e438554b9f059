import os
import signal
import threading

import pytest

from imgpipe.components.common.termination import defer_termination


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_deferred_and_the_second_goes_to_the_previous_handler(number):
    class PreviousHandler(BaseException):
        pass

    def raise_from_handler(*_):
        raise PreviousHandler

    before = signal.signal(number, raise_from_handler)
    try:
        with defer_termination() as stopped:
            assert not stopped()
            os.kill(os.getpid(), number)
            assert stopped()
            with pytest.raises(PreviousHandler):
                os.kill(os.getpid(), number)
        with pytest.raises(PreviousHandler):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_signals_are_ignored_in_other_threads():
    stops = []

    def work():
        with defer_termination() as stopped:
            stops.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert stops == [False]
