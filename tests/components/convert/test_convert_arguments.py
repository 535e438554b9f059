import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.convert.arguments import ConvertArguments


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["no input", "train_csv", "images", "training_data_path"]),
        ({"train_csv": "a", "images": "b"}, ["train_csv='a'", "images='b'", "keep one"]),
        (
            {"images": "b", "training_data_path": "c", "validation_data_path": "d"},
            ["images='b'", "training_data_path='c'"],
        ),
        ({"validation_csv": "a"}, ["validation_csv='a'", "without train_csv"]),
        ({"images": "i", "validation_csv": "a"}, ["validation_csv='a'", "without train_csv"]),
        ({"training_data_path": "a"}, ["training_data_path='a'", "without validation_data_path"]),
        ({"validation_data_path": "a"}, ["validation_data_path='a'", "without training_data_path"]),
        ({"test_data_path": "a"}, ["test_data_path='a'", "without training_data_path"]),
        ({"images": "a", "validation_data_path": "b"}, ["without training_data_path"]),
        (
            {"images": "a", "validation_fraction": 0},
            ["validation_fraction=0", "greater than 0 and less than 1"],
        ),
        ({"images": "a", "validation_fraction": 1.0}, ["validation_fraction=1.0"]),
        ({"images": "a", "max_rejected_fraction": 1.5}, ["max_rejected_fraction=1.5", "at most 1"]),
        ({"images": "a", "shard_megabytes": 0}, ["shard_megabytes=0", "at least 1"]),
        ({"images": "a", "seed": -1}, ["seed=-1"]),
        ({"train_csv": "az://b/x.csv"}, ["train_csv='az://b/x.csv'", "not supported"]),
        ({"images": "az://b/x"}, ["images='az://b/x'", "not supported"]),
        (
            {"training_data_path": "az://b/x*", "validation_data_path": "y"},
            ["training_data_path='az://b/x*'", "not supported"],
        ),
    ],
)
def test_invalid_arguments_and_combinations_are_rejected_by_name(values, expected):
    with pytest.raises(InvalidArgumentError) as caught:
        ConvertArguments(**values)
    for part in expected:
        assert part in str(caught.value)
