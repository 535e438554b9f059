"""Fields of mappings that users wrote: taken with their whole path, refused when left over."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml


def reader(**fields):
    return FieldsReader({"block": fields}, "", where="a.yaml").block("block")


@pytest.mark.parametrize(
    ("take", "value", "taken"),
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
def test_a_value_is_taken_in_every_way_it_can_be_written(take, value, taken):
    block = reader(field=value)
    assert getattr(block, take)("field") == taken
    block.finish()


@pytest.mark.parametrize(
    ("take", "value", "must"),
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
def test_a_wrong_value_is_refused_with_its_whole_path_and_what_it_must_be(take, value, must):
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(reader(field=value), take)("field")
    assert caught.value.problem.startswith("block.field=")
    assert must in caught.value.problem
    assert caught.value.where == "a.yaml"


def test_a_field_without_a_value_was_not_given():
    block = reader(field=None)
    assert not block.has("field")
    assert block.integer("field", 7) == 7
    block.finish()


def test_a_field_that_nobody_takes_is_refused_and_the_nearest_is_named():
    block = reader(scaleTeir="BASIC")
    block.text("scaleTier")
    with pytest.raises(InvalidArgumentError, match=r"no field block\.scaleTeir") as caught:
        block.finish()
    assert caught.value.remedy == "did you mean scaleTier?"


def test_blocks_in_a_list_are_counted_in_the_path():
    block = reader(params=[{"type": "A"}, {"type": 1, "other": 2}])
    second = block.blocks("params")[1]
    second.text("type")
    with pytest.raises(InvalidArgumentError, match=r"block\.params\[1\]\.other"):
        second.finish()


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, b: 2}", '{"a": 1, "a": 2}'])
def test_a_key_that_stands_twice_is_refused_with_its_line(text):
    with pytest.raises(InvalidArgumentError, match="stands here twice") as caught:
        parse_yaml(text, where="a.yaml")
    assert "line" in caught.value.where


def test_anchors_and_merge_keys_are_read():
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", where="")["b"] == {"x": 1, "y": 2}
