"""How the candidates for serving are measured."""

from itertools import groupby

import numpy as np

from imgpipe.components.export.candidates import measure_seconds


def test_each_network_is_measured_in_series_of_its_own_calls():
    # The threads of the engine before would still wait for work, on the cores of the next one.
    calls = []
    networks = {name: lambda images, name=name: calls.append((name, len(images))) for name in "ab"}
    measured = measure_seconds(networks, np.zeros((1, 8, 8, 3), np.uint8), {1: (6, 60.0), 8: (3, 60.0)})
    series = [(key, len(list(group))) for key, group in groupby(calls)]
    # Two calls of each series are not timed.
    assert series == 3 * [(("a", 1), 4), (("b", 1), 4)] + 3 * [(("a", 8), 3), (("b", 8), 3)]
    assert {name: set(by_size) for name, by_size in measured.items()} == {"a": {1, 8}, "b": {1, 8}}
