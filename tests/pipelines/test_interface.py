"""Inputs of components and pipelines are generated from the declarations of arguments."""

import dataclasses
from dataclasses import dataclass

import pytest
import yaml
from kfp import compiler
from kfp.dsl import Dataset, Input, Model, Output

from imgpipe.components.common.arguments import argument, flat_fields
from imgpipe.pipelines.interface import make_component


@dataclass(frozen=True)
class Colours:
    hue: float = argument(0.5, "The hue.", minimum=0, maximum=1)
    name: str = argument("red", "The name.", choices=("red", "blue"))
    count: int = argument(3, "How many.")
    bright: bool = argument(False, "Whether it is bright.")


@dataclass(frozen=True)
class MoreColours:
    count: int = argument(3, "How many.")
    depth: int = argument(8, "Bits.")


def paint(canvas: Input[Dataset], painting: Output[Model], arguments: Colours) -> None:
    """Paints a canvas.

    Args:
        canvas: The surface, described in two
            lines.
        painting: The result.
        arguments: The colours.
    """


def compiled(component, path):
    compiler.Compiler().compile(component, str(path))
    return yaml.safe_load(path.read_text())


def test_a_component_has_an_input_for_every_field_with_type_default_and_description(tmp_path):
    spec = compiled(make_component(paint, base_image="painter:1"), tmp_path / "paint.yaml")
    inputs = spec["components"]["comp-paint"]["inputDefinitions"]
    assert {
        name: (parameter["parameterType"], parameter["defaultValue"], parameter["description"])
        for name, parameter in inputs["parameters"].items()
    } == {
        "hue": ("NUMBER_DOUBLE", 0.5, "The hue. Allowed: at least 0 and at most 1."),
        "name": ("STRING", "red", "The name. Allowed: red, blue."),
        "count": ("NUMBER_INTEGER", 3.0, "How many."),
        "bright": ("BOOLEAN", False, "Whether it is bright."),
    }
    assert inputs["artifacts"]["canvas"]["description"] == "The surface, described in two lines."


def test_outputs_have_their_descriptions(tmp_path):
    spec = compiled(make_component(paint, base_image="painter:1"), tmp_path / "paint.yaml")
    outputs = spec["components"]["comp-paint"]["outputDefinitions"]["artifacts"]
    assert outputs["painting"]["description"] == "The result."


def test_a_components_code_only_calls_the_installed_function(tmp_path):
    spec = compiled(make_component(paint, base_image="painter:1"), tmp_path / "paint.yaml")
    container = spec["deploymentSpec"]["executors"]["exec-paint"]["container"]
    assert container["image"] == "painter:1"
    assert "pip install" not in " ".join(container["command"])
    assert f"run_component('{paint.__module__}', 'paint', locals())" in container["command"][-1]


def varnish(painting: Input[Model], varnished: Output[Model], arguments: MoreColours) -> None:
    """Varnishes a painting.

    Args:
        painting: What is painted.
        varnished: The result.
        arguments: The layers.
    """


def test_functions_in_one_step_pass_on_an_output_by_its_name(tmp_path):
    component = make_component(paint, varnish, name="both", base_image="painter:1")
    spec = compiled(component, tmp_path / "both.yaml")
    declared = spec["components"]["comp-both"]
    assert set(declared["inputDefinitions"]["artifacts"]) == {"canvas"}
    assert set(declared["outputDefinitions"]["artifacts"]) == {"painting", "varnished"}
    assert set(declared["inputDefinitions"]["parameters"]) == {"hue", "name", "count", "bright", "depth"}
    source = spec["deploymentSpec"]["executors"]["exec-both"]["container"]["command"][-1]
    names = [(paint.__module__, "paint"), (paint.__module__, "varnish")]
    assert f"return run_components('both', {names}, locals())" in source


def test_functions_in_one_step_cannot_write_to_the_same_output():
    with pytest.raises(ValueError, match="both: two components have an output painting; rename one"):
        make_component(paint, paint, name="both", base_image="painter:1")


def test_a_field_that_two_steps_share_is_one_input():
    assert list(flat_fields([Colours, MoreColours])) == ["hue", "name", "count", "bright", "depth"]


def test_different_fields_cannot_share_one_input():
    other = dataclasses.make_dataclass("Other", [("count", int, argument(4, "How many."))])
    with pytest.raises(ValueError, match="count is declared in two ways"):
        flat_fields([Colours, other])
