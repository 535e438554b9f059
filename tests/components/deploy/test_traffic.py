from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.deploy.traffic import shares_with


def test_the_first_model_gets_all_traffic():
    assert shares_with({}, "new", 10) == {"new": 100}
    assert shares_with({"new": 100}, "new", 10) == {"new": 100}


def test_the_others_keep_their_proportions():
    assert shares_with({"a": 60, "b": 40}, "new", 50) == {"a": 30, "b": 20, "new": 50}
    assert shares_with({"a": 100}, "new", 100) == {"a": 0, "new": 100}
    assert shares_with({"a": 90, "new": 10}, "new", 25) == {"a": 75, "new": 25}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(1, 100))
def test_shares_are_whole_percent_and_their_sum_is_100(weights, percent):
    total = sum(weights)
    current = {f"m{number}": weight * 100 // total if total else 0 for number, weight in enumerate(weights)}
    shares = shares_with(current, "new", percent)
    assert sum(shares.values()) == 100
    assert min(shares.values()) >= 0
    assert set(shares) == {*current, "new"}
    assert shares["new"] == (percent if sum(current.values()) else 100)
    for model, share in current.items():
        if sum(current.values()):
            assert abs(shares[model] - share * (100 - percent) / sum(current.values())) < 1
