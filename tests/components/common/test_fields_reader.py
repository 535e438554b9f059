import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from tests.command_line import run_python


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


def bomb(levels):
    """A document of which each level has ten aliases of the one before."""
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"trainingInput: {{region: *x{levels - 1}}}"])


@pytest.mark.parametrize("text", [bomb(9), bomb(40), "a: &a [*a]", "a: &a {b: {c: *a}}"])
def test_a_document_of_aliases_is_refused_in_a_second_and_200_megabytes(text):
    code = (
        "import resource, sys\n"
        "from imgpipe.components.common.errors import InvalidArgumentError\n"
        "from imgpipe.pipelines.training_input import read_training_input\n"
        "before = resource.getrusage(resource.RUSAGE_SELF)\n"
        "try: read_training_input(sys.stdin.read(), where='config.yaml')\n"
        "except InvalidArgumentError as error: print(error)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert after.ru_utime - before.ru_utime < 1, after\n"
        "assert after.ru_maxrss - before.ru_maxrss < 200_000, after\n"
    )
    result = run_python(code, input=text)
    assert result.returncode == 0, result.stderr
    assert "with its aliases, the document has more than 200,000 values" in result.stdout


def test_what_is_shown_of_a_value_is_short():
    with pytest.raises(InvalidArgumentError) as caught:
        reader(field=["x" * 50] * 2000).text("field")
    assert len(str(caught.value)) < 500
