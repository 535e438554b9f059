from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.convert.label_set import format_label_set, parse_label_set

NAMES = st.text(st.characters(exclude_characters="\r\n"), min_size=1, max_size=6)


@given(st.lists(NAMES, max_size=5))
def test_the_names_come_back_in_order_each_once(names):
    assert parse_label_set(format_label_set(names)) == tuple(sorted(set(names)))


@given(st.sets(NAMES, max_size=4), st.sets(NAMES, max_size=4))
def test_equal_sets_and_they_alone_have_equal_texts(one, other):
    assert (format_label_set(one) == format_label_set(other)) == (one == other)
