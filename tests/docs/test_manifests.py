"""The Kubernetes manifests in docs/deploy.md: KServe's schema accepts them, and they fit our code."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from imgpipe.components.common.arguments import parse_command_line
from imgpipe.components.serve.arguments import ServeArguments

ROOT = Path(__file__).parents[2]
# KServe's own schemas are not part of this project.
SCHEMAS = ROOT.parent / "shared" / "upstream" / "kserve"


def manifest(kind):
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (found,) = (content for block in blocks if (content := yaml.safe_load(block))["kind"] == kind)
    return found


def close(schema):
    """Rejects unknown fields, which the API server of Kubernetes drops."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)
    return schema


def test_kserve_accepts_the_serving_runtime():
    path = SCHEMAS / "servingruntimes.yaml"
    if not path.is_file():
        pytest.skip(f"no schemas of KServe in {SCHEMAS}")
    definition = next(iter(yaml.safe_load_all(path.read_text())))
    runtime = manifest("ServingRuntime")
    group, _, version = runtime["apiVersion"].partition("/")
    assert group == definition["spec"]["group"]
    (served,) = (entry for entry in definition["spec"]["versions"] if entry["name"] == version)
    spec = served["schema"]["openAPIV3Schema"]["properties"]["spec"]
    jsonschema.validate(runtime["spec"], close(spec))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**runtime["spec"], "container": []}, spec)


def test_the_serving_runtime_starts_our_server_with_flags_that_it_has():
    (container,) = manifest("ServingRuntime")["spec"]["containers"]
    assert container["command"] == ["python3", "-m", "imgpipe.components.serve"]
    # KServe replaces {{.Name}} by the name of the InferenceService.
    flags = [flag.replace("{{.Name}}", "flowers") for flag in container["args"]]
    arguments = ServeArguments(**parse_command_line(flags, [ServeArguments]))
    assert arguments.model_name() == "flowers"
    assert arguments.port == container["ports"][0]["containerPort"]
    assert arguments.port == container["readinessProbe"]["httpGet"]["port"]
