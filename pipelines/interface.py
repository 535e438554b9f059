"""Turns arguments dataclasses into the flat inputs of components and pipelines.

A step's function takes its arguments as a dataclass, but KFP knows only flat inputs. From one declaration of
an argument, this module makes the inputs of component and pipeline, with type, default and description.
"""

import ast
import dataclasses
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docstring_parser
from kfp import dsl

from imgpipe.components.common.arguments import RunValues, description_of, flat_fields


@dataclass(frozen=True)
class CheckedRun:
    """The run that a pipeline's first step checks.

    Attributes:
        pipeline: The pipeline's name in ``PIPELINES``.
        target: The target's name.
        fields: All inputs of the pipeline.
    """

    pipeline: str
    target: str
    fields: Mapping[str, "dataclasses.Field[Any]"]


def make_component(
    *functions: Callable[..., Any],
    base_image: str,
    name: str = "",
    extra_inputs: Iterable[type[Any]] = (),
    settings: "dataclasses.Field[Any] | None" = None,
    checked_run: CheckedRun | None = None,
) -> Any:
    """Makes a KFP component from a step's function in a ``component.py``, or from several functions.

    Several run one after another in one container. An input artifact that has the name of an output of an
    earlier function is that output.

    The component's source is a stub that calls the function in the installed package: no code in a compiled
    pipeline can differ from the package, and the same function runs locally, on Kubeflow and on Vertex AI.

    Args:
        *functions: Their parameters are annotated with KFP artifact types or arguments dataclasses; their
            docstrings describe the artifacts.
        base_image: The image that contains imgpipe.
        name: The component's name; that of a single function by default.
        extra_inputs: Arguments dataclasses whose fields are inputs of the component, but not of the function:
            they distinguish runs in KFP's cache.
        settings: The input with the arguments that have no input of their own in this pipeline.
        checked_run: Makes it the first step of this run, which gets all of its inputs and checks them.

    Raises:
        ValueError: if two functions declare an output of the same name, or an argument differently.
    """
    name = name or functions[0].__name__
    artifacts, arguments = dict[str, str](), list[type[Any]]()
    for function in functions:
        own, classes = _parameters(function)
        twice = [output for output in own if output in artifacts and _is_output(own[output])]
        if twice:
            raise ValueError(f"{name}: two components have an output {', '.join(twice)}; rename one of them")
        artifacts = {**own, **artifacts}
        arguments += classes
    fields = flat_fields([*arguments, *extra_inputs])
    if settings is not None:
        fields[settings.name] = settings
    source = _stub_source(name, functions, artifacts, fields, checked_run)
    # KFP reads the component's code with inspect.getsource, which looks here.
    file_name = f"<component {functions[0].__module__}.{name}>"
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
    scope: dict[str, Any] = {}
    for function in functions:
        scope.update(vars(inspect.getmodule(function)))
    exec(compile(source, file_name, "exec", dont_inherit=True), scope)  # noqa: S102 - the stub from above
    stub = scope[name]
    stub.__module__ = functions[0].__module__
    return dsl.component(stub, base_image=base_image, install_kfp_package=False)


def make_pipeline(
    graph: Callable[[Mapping[str, Any]], Any],
    *,
    name: str,
    description: str,
    fields: Mapping[str, "dataclasses.Field[Any]"],
    deadline_seconds: int | None = None,
    drop_downs: bool = False,
) -> Any:
    """Makes a KFP pipeline with the given fields as inputs.

    Args:
        graph: Adds the tasks; gets the pipeline's inputs by name.
        name: The pipeline's name.
        description: What the pipeline does.
        fields: The inputs, in the order of a form.
        deadline_seconds: Time after which a run is ended; None = never.
        drop_downs: Whether Kubeflow's form shows a field with choices as a drop-down list. Kubeflow Pipelines
            has this since 2.17; its SDK does not write it yet.
    """

    def pipeline(*inputs: Any) -> Any:
        return graph(dict(zip(fields, inputs, strict=True)))

    pipeline.__name__ = name.replace("-", "_")
    pipeline.__doc__ = _docstring(
        description, {field.name: description_of(field) for field in fields.values()}
    )
    # KFP reads the inputs from the signature and calls the function with one channel for each, in order.
    pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                field.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=field.default,
                annotation=type(field.default),
            )
            for field in fields.values()
        ]
    )
    config = dsl.PipelineConfig(active_deadline_seconds=deadline_seconds) if deadline_seconds else None
    made = dsl.pipeline(name=name, description=description, pipeline_config=config)(pipeline)
    if drop_downs:
        inputs = made.pipeline_spec.root.input_definitions.parameters
        for field in fields.values():
            for choice in field.metadata["choices"] or ():
                inputs[field.name].literals.add(string_value=choice)
    return made


def select_fields(inputs: Mapping[str, Any], *arguments_classes: type[Any]) -> dict[str, Any]:
    """Returns the pipeline inputs that are fields of a step's arguments dataclasses.

    A form has only some of them; its steps get the others as settings.
    """
    return {name: inputs[name] for name in flat_fields(arguments_classes) if name in inputs}


def _parameters(function: Callable[..., Any]) -> tuple[dict[str, str], list[type[Any]]]:
    """Returns the annotations of a function's artifacts by name, and its arguments dataclasses."""
    artifacts, classes = dict[str, str](), list[type[Any]]()
    for parameter, argument in zip(
        inspect.signature(function).parameters.values(), _definition(function).args.args, strict=True
    ):
        if parameter.annotation is RunValues:
            continue
        if dataclasses.is_dataclass(parameter.annotation):
            classes.append(parameter.annotation)  # type: ignore[arg-type]
        else:
            assert argument.annotation is not None  # noqa: S101 - KFP requires annotations
            artifacts[parameter.name] = ast.unparse(argument.annotation)
    return artifacts, classes


def _is_output(annotation: str) -> bool:
    return annotation.startswith("Output")


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    body = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    return next(node for node in body if isinstance(node, ast.FunctionDef))


def _stub_source(
    name: str,
    functions: Sequence[Callable[..., Any]],
    artifacts: Mapping[str, str],
    fields: Mapping[str, "dataclasses.Field[Any]"],
    checked_run: CheckedRun | None,
) -> str:
    parsed = [docstring_parser.parse(inspect.getdoc(function) or "") for function in functions]
    descriptions = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for docstring in parsed
        for parameter in docstring.params
    }
    # KFP reads descriptions of inputs from Args and descriptions of outputs from Returns.
    inputs = {
        artifact: descriptions[artifact] for artifact in artifacts if not _is_output(artifacts[artifact])
    }
    inputs.update({field.name: description_of(field) for field in fields.values()})
    outputs = {artifact: descriptions[artifact] for artifact in artifacts if _is_output(artifacts[artifact])}
    summaries = [
        text for docstring in parsed for text in (docstring.short_description, docstring.long_description)
    ]
    summary = " ".join(filter(None, summaries)).replace("\n", " ")
    parameters = [f"{artifact}: {annotation}" for artifact, annotation in artifacts.items()]
    # An input that is only checked has its description and its default in the pipeline's own list.
    checked = (checked_run.fields if checked_run else {}).items()
    parameters += [
        f"{argument}: {type(field.default).__name__}" for argument, field in checked if argument not in fields
    ]
    parameters += [
        f"{field.name}: {type(field.default).__name__} = {field.default!r}" for field in fields.values()
    ]
    options = [f"pipeline={checked_run.pipeline!r}", f"target={checked_run.target!r}"] if checked_run else []
    names = [(function.__module__, function.__name__) for function in functions]
    if name == functions[0].__name__:
        call = f"run_component({', '.join([*map(repr, names[0]), 'locals()', *options])})"
    else:
        call = f"run_components({', '.join([repr(name), repr(names), 'locals()', *options])})"
    lines = [
        f"def {name}(",
        *(f"    {parameter}," for parameter in parameters),
        "):",
        textwrap.indent(repr(_docstring(summary, inputs, outputs)), "    "),
        f"    from imgpipe.components.common.step import {call.partition('(')[0]}",
        f"    return {call}",
    ]
    return "\n".join(lines) + "\n"


def _docstring(summary: str, inputs: Mapping[str, str], outputs: Mapping[str, str] | None = None) -> str:
    sections = [summary]
    for title, descriptions in (("Args", inputs), ("Returns", outputs)):
        if descriptions:
            lines = [f"    {name}: {description}" for name, description in descriptions.items()]
            sections.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(sections)
