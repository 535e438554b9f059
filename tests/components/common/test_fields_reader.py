import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml


def reader(**fields):
    return FieldsReader({"block": fields}, "", where="a.yaml").block("block")


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("text", "a", "a"),
        ("text", 1.14, "1.14"),
        ("integer", 8, 8),
        ("integer", "8", 8),
        ("integer", 8.0, 8),
        ("number", "1e-4", 1e-4),
        ("number", 2, 2.0),
        ("boolean", True, True),
        ("seconds", "1.5s", 1.5),
        ("texts", ["a", 1], ("a", "1")),
        ("numbers", [1, "2e0"], (1.0, 2.0)),
    ],
)
def test_all_notations_of_a_value_are_accepted(method, value, expected):
    block = reader(field=value)
    assert getattr(block, method)("field") == expected
    block.finish()


@pytest.mark.parametrize(
    ("method", "value", "must"),
    [
        ("text", True, "text"),
        ("text", [1], "text"),
        ("integer", True, "whole number"),
        ("integer", -1, "at least 0"),
        ("integer", 1.5, "whole number"),
        ("number", "many", "number"),
        ("number", float("nan"), "finite"),
        ("boolean", "true", "true or false"),
        ("boolean", 1, "true or false"),
        ("seconds", 60, "3600s"),
        ("seconds", "-1s", "3600s"),
        ("texts", "a", "list"),
        ("numbers", [True], "finite number"),
        ("sequence", {}, "a list"),
    ],
)
def test_an_invalid_value_is_rejected_with_its_path_and_the_allowed_values(method, value, must):
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(reader(field=value), method)("field")
    assert caught.value.problem.startswith("block.field=")
    assert must in caught.value.problem
    assert caught.value.where == "a.yaml"


def test_a_null_field_is_missing():
    block = reader(field=None)
    assert not block.has("field")
    assert block.integer("field", 7) == 7
    block.finish()


def test_an_unknown_field_is_rejected_with_the_most_similar_name():
    block = reader(scaleTeir="BASIC")
    block.text("scaleTier")
    with pytest.raises(InvalidArgumentError, match=r"no field block\.scaleTeir") as caught:
        block.finish()
    assert caught.value.remedy == "did you mean scaleTier?"


def test_the_path_has_the_index_of_a_block_in_a_list():
    block = reader(params=[{"type": "A"}, {"type": 1, "other": 2}])
    second = block.blocks("params")[1]
    second.text("type")
    with pytest.raises(InvalidArgumentError, match=r"block\.params\[1\]\.other"):
        second.finish()


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, b: 2}", '{"a": 1, "a": 2}'])
def test_a_duplicate_key_is_rejected_with_its_line(text):
    with pytest.raises(InvalidArgumentError, match="duplicate key") as caught:
        parse_yaml(text, where="a.yaml")
    assert "line" in caught.value.where


def test_anchors_and_merge_keys_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", where="")["b"] == {"x": 1, "y": 2}
