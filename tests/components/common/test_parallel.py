import threading
import time

import pytest

from imgpipe.components.common.parallel import map_in_order


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_results_come_in_the_order_of_the_items(threads):
    def slow_first(item):
        time.sleep(0.02 if item % 5 == 0 else 0)
        return item * 2

    assert list(map_in_order(slow_first, range(30), threads)) == [item * 2 for item in range(30)]


def test_only_a_window_of_items_is_taken_however_many_there_are():
    taken = []

    def items():
        for item in range(10_000):
            taken.append(item)
            yield item

    results = map_in_order(lambda item: item, items(), 2)
    assert next(results) == 0
    assert len(taken) <= 8
    results.close()
    assert len(taken) <= 8


def test_the_first_failure_is_raised_and_the_rest_is_left():
    begun = []

    def fails_at_three(item):
        begun.append(item)
        if item >= 3:
            raise ValueError(item)
        return item

    results = map_in_order(fails_at_three, range(1_000), 2)
    with pytest.raises(ValueError, match="3"):
        list(results)
    assert len(begun) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("imgpipe")]
