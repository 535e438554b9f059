import threading
import time

import pytest

from imgpipe.components.common.parallel import map_in_order


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_results_are_in_the_order_of_the_items(threads):
    def double_slowly(item):
        time.sleep(0.02 if item % 5 == 0 else 0)
        return item * 2

    assert list(map_in_order(double_slowly, range(30), threads)) == [item * 2 for item in range(30)]


def test_only_a_window_of_items_is_consumed():
    consumed = []

    def items():
        for item in range(10_000):
            consumed.append(item)
            yield item

    results = map_in_order(lambda item: item, items(), 2)
    assert next(results) == 0
    assert len(consumed) <= 8
    results.close()
    assert len(consumed) <= 8


def test_the_first_failure_is_raised_and_the_rest_is_skipped():
    started = []

    def fails_at_three(item):
        started.append(item)
        if item >= 3:
            raise ValueError(item)
        return item

    results = map_in_order(fails_at_three, range(1_000), 2)
    with pytest.raises(ValueError, match="3"):
        list(results)
    assert len(started) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("imgpipe")]
