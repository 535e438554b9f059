from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.convert.label_set import format_label_set, parse_label_set

NAMES = st.text(st.characters(exclude_characters="\r\n"), min_size=1, max_size=6)


@given(st.lists(NAMES, max_size=5))
def test_label_sets_are_restored_sorted_and_without_duplicates(names):
    assert parse_label_set(format_label_set(names)) == tuple(sorted(set(names)))


@given(st.sets(NAMES, max_size=4), st.sets(NAMES, max_size=4))
def test_texts_are_equal_exactly_if_the_sets_are(one, other):
    assert (format_label_set(one) == format_label_set(other)) == (one == other)
