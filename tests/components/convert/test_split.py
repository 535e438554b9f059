from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from components.convert.rows import Row
from components.convert.split import shuffled, split_rows


def rows_of(counts):
    return [
        Row("list.csv", number, f"{label}/{number}.jpg", label, "", 1)
        for label, count in counts.items()
        for number in range(count)
    ]


@given(
    counts=st.dictionaries(st.text(max_size=3), st.integers(1, 12), max_size=4),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_row_is_in_one_split_and_every_label_has_its_share(counts, fraction, seed):
    rows = rows_of(counts)
    train, validation = split_rows(rows, fraction, seed)
    assert Counter(train + validation) == Counter(rows)
    in_train, in_validation = (Counter(row.label for row in split) for split in (train, validation))
    for label, count in counts.items():
        assert in_train[label] >= 1
        assert in_validation[label] >= (count > 1)
        assert abs(in_validation[label] - count * fraction) <= max(0.5, 1 - count * fraction, fraction + 1e-9)


@given(seed=st.integers(0, 100), chance=st.randoms(use_true_random=False))
def test_split_and_order_do_not_depend_on_the_order_of_the_rows(seed, chance):
    rows = rows_of({"a": 9, "b": 4})
    mixed = list(rows)
    chance.shuffle(mixed)
    assert split_rows(mixed, 0.3, seed) == split_rows(rows, 0.3, seed)
    assert shuffled(mixed, seed, "train") == shuffled(rows, seed, "train")


def test_a_label_is_split_alike_whatever_other_labels_there_are():
    alone = split_rows(rows_of({"b": 10}), 0.3, 5)[1]
    among = split_rows(rows_of({"a": 7, "b": 10, "c": 3}), 0.3, 5)[1]
    assert [row for row in among if row.label == "b"] == alone


def test_another_seed_draws_other_images_and_another_order():
    rows = rows_of({"a": 50})
    assert split_rows(rows, 0.2, 0)[1] != split_rows(rows, 0.2, 1)[1]
    assert shuffled(rows, 0, "train") != shuffled(rows, 1, "train")
    assert shuffled(rows, 0, "train") != shuffled(rows, 0, "validation")


def test_what_is_drawn_is_the_same_for_ever():
    # A data set that is converted again next year is to be the same: this fails if the drawing changes.
    rows = rows_of({"a": 6, "b": 4})
    assert [row.path for row in split_rows(rows, 0.3, 0)[1]] == ["a/1.jpg", "a/4.jpg", "b/0.jpg"]
    assert [row.line for row in shuffled(rows_of({"a": 6}), 0, "train")] == [0, 1, 2, 3, 5, 4]
