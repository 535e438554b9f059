from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.convert.split import shuffle_rows, split_rows
from imgpipe.components.storage import FileStatus, parse_location


def rows_of(counts, order=None):
    rows = [
        (f"{label}/{number}.jpg", label, number) for label, count in counts.items() for number in range(count)
    ]
    if order is not None:
        order.shuffle(rows)
    table = RowTable()
    source = table.add_source("list.csv", parse_location(""))
    for path, label, number in rows:
        table.append(source, number, path, label, "", status=FileStatus(1, 0))
    return table


def split(table, fraction, seed, groups=None, test=0.0):
    numbers = np.arange(len(table))
    fractions = {"validation": fraction, **({"test": test} if test else {})}
    drawn = split_rows(table, numbers, numbers if groups is None else groups, fractions, seed)
    return {name: [table[int(number)] for number in split_numbers] for name, split_numbers in drawn.items()}


@given(
    counts=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), st.integers(1, 12), max_size=4),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_row_is_in_one_split_and_every_label_gets_its_fraction(counts, fraction, seed):
    table = rows_of(counts)
    drawn = split(table, fraction, seed)
    assert Counter(drawn["train"] + drawn["validation"]) == Counter(table)
    in_train, in_validation = (Counter(row.label for row in drawn[name]) for name in ("train", "validation"))
    for label, count in counts.items():
        assert in_train[label] >= 1
        assert in_validation[label] >= (count > 1)
        assert abs(in_validation[label] - count * fraction) <= max(0.5, 1 - count * fraction, fraction + 1e-9)


@given(
    groups=st.lists(st.integers(0, 5), min_size=24, max_size=24),
    fraction=st.floats(0.05, 0.6),
    test=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 20),
)
def test_equal_images_stay_together_and_no_label_loses_its_last_training_image(groups, fraction, test, seed):
    table = rows_of({"a": 12, "b": 8, "c": 4})
    drawn = split(table, fraction, seed, np.array(groups), test)
    split_of = {row.path: name for name, rows in drawn.items() for row in rows}
    assert len(split_of) == 24
    for group in set(groups):
        members = [row for row, row_group in zip(table, groups, strict=True) if row_group == group]
        assert len({split_of[row.path] for row in members}) == 1
    if len(set(groups[:12])) > 1:
        # The first label is drawn from all groups.
        assert {split_of[row.path] for row in list(table)[:12]} >= {"train", "validation"}


def test_splits_are_exact_if_groups_fit():
    table = rows_of({"a": 20})
    groups = np.arange(20) // 2
    assert [len(rows) for rows in split(table, 0.2, 0, groups, 0.1).values()] == [14, 4, 2]


@given(seed=st.integers(0, 100), generator=st.randoms(use_true_random=False))
def test_split_and_order_do_not_depend_on_the_order_of_the_rows(seed, generator):
    table, mixed = rows_of({"a": 9, "b": 4}), rows_of({"a": 9, "b": 4}, generator)

    def drawn(rows):
        numbers = split_rows(rows, np.arange(13), np.arange(13), {"validation": 0.3}, seed)
        return [
            [rows.path(int(number)) for number in shuffle_rows(rows, split_numbers, seed, "train")]
            for split_numbers in numbers.values()
        ]

    assert drawn(mixed) == drawn(table)


def test_split_of_a_label_does_not_depend_on_other_labels():
    alone = split(rows_of({"b": 10}), 0.3, 5)["validation"]
    among = split(rows_of({"a": 7, "b": 10, "c": 3}), 0.3, 5)["validation"]
    assert {row.path for row in among if row.label == "b"} == {row.path for row in alone}


def test_another_seed_draws_other_images_and_another_order():
    table = rows_of({"a": 50})
    numbers = np.arange(50)
    assert split(table, 0.2, 0) != split(table, 0.2, 1)
    orders = {
        tuple(shuffle_rows(table, numbers, seed, name)) for seed in (0, 1) for name in ("train", "validation")
    }
    assert len(orders) == 4


def test_draws_never_change():
    # Converting the same data next year must give the same data set: this fails if the draw changes.
    table = rows_of({"a": 6, "b": 4})
    assert [row.path for row in split(table, 0.3, 0)["validation"]] == ["a/0.jpg", "a/5.jpg", "b/0.jpg"]
    assert shuffle_rows(rows_of({"a": 6}), np.arange(6), 0, "train").tolist() == [1, 2, 0, 3, 4, 5]
