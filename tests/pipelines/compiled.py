"""Reads the compiled pipelines."""

import json
from pathlib import Path

import yaml
from kfp.dsl.executor import Executor

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


def file_of(target, name="image_classification"):
    """Returns the compiled file of a pipeline that has all arguments as inputs."""
    file = COMPILED / target / f"{name}_all_arguments.yaml"
    return file if file.exists() else COMPILED / target / f"{name}.yaml"


def spec_of(target, name="image_classification"):
    """Returns the spec of the pipeline with all arguments, the first document of a compiled file."""
    return next(yaml.safe_load_all(file_of(target, name).read_text()))


def form_of(name="image_classification"):
    """Returns the spec of a pipeline with a form."""
    return next(yaml.safe_load_all((COMPILED / "kubeflow" / f"{name}.yaml").read_text()))


def inputs_of(spec, name, given):
    """Returns the parameters of a first step: given ones, constants, and the pipeline's defaults."""
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert given.keys() <= declared.keys()
    inputs = {}
    for key, source in spec["root"]["dag"]["tasks"][name]["inputs"]["parameters"].items():
        pipeline_input = source.get("componentInputParameter")
        default = declared[pipeline_input].get("defaultValue") if pipeline_input else None
        constant = source.get("runtimeValue", {}).get("constant")
        inputs[key] = given.get(pipeline_input, default) if pipeline_input else constant
    return inputs


def execute(spec, name, inputs, folder):
    """Runs a step as KFP does in its pod; its outputs are in ``outputs`` and ``artifacts`` of the folder."""
    outputs = spec["components"][f"comp-{name}"].get("outputDefinitions", {})
    files = {key: {"outputFile": str(folder / "outputs" / key)} for key in outputs.get("parameters", {})}
    artifacts = {
        key: {"name": key, "type": output["artifactType"], "uri": str(folder / "artifacts" / key)}
        for key, output in outputs.get("artifacts", {}).items()
    }
    request = {
        "inputs": {"parameterValues": inputs},
        "outputs": {
            "outputFile": str(folder / "output.json"),
            "parameters": files,
            "artifacts": {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()},
        },
    }
    [*_, source] = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]["command"]
    scope = {}
    exec(source, scope)  # noqa: S102 - as in the pod
    Executor(json.loads(json.dumps(request)), scope[name.replace("-", "_")]).execute()
