import os
import signal
import threading

import pytest

from imgpipe.components.common.termination import defer_termination


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_has_its_old_effect(number):
    class OldEffect(BaseException):
        pass

    def raise_old_effect(*_):
        raise OldEffect

    before = signal.signal(number, raise_old_effect)
    try:
        with defer_termination() as stopped:
            assert not stopped()
            os.kill(os.getpid(), number)
            assert stopped()
            with pytest.raises(OldEffect):
                os.kill(os.getpid(), number)
        with pytest.raises(OldEffect):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_in_another_thread_nothing_is_noted_and_nothing_fails():
    answers = []

    def work():
        with defer_termination() as stopped:
            answers.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
