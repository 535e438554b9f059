"""The compiled pipelines in the repository are up to date, complete and reproducible."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp.compiler import Compiler

from imgpipe.components.common.arguments import description_of, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.platforms.kubeflow.workflow import ordered_tasks
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.components.storage.volumes import VOLUMES_VARIABLE
from imgpipe.pipelines.builders import builders_of
from imgpipe.pipelines.images import ROLES, Images
from imgpipe.pipelines.kubeflow_options import KubeflowOptions
from imgpipe.pipelines.targets.kubeflow import KUBEFLOW, kubeflow_target
from imgpipe.pipelines.targets.local import LOCAL
from imgpipe.pipelines.targets.vertex import VERTEX
from tests.pipelines.compiled import COMPILED, file_of, spec_of

ROOT = Path(__file__).parents[2]
BUILDERS = builders_of(KUBEFLOW)
TARGETS = {"local": LOCAL, "kubeflow": KUBEFLOW, "vertex": VERTEX}
KFP_TYPES = {
    str: "STRING",
    int: "NUMBER_INTEGER",
    float: "NUMBER_DOUBLE",
    bool: "BOOLEAN",
    dict: "STRUCT",
    list: "LIST",
}
# The only additions of a target to the graph.
ADDED_STEP = "prepare"
POD_SETTINGS = {
    *("accelerator_type", "accelerator_count", "base_image"),
    *("cpu_request", "cpu_limit", "memory_request", "memory_limit"),
}


def tasks_of(spec):
    return spec["root"]["dag"]["tasks"]


def compile_py(root, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "compile.py", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        check=False,
    )


@pytest.fixture
def copy_of_project(tmp_path):
    root = tmp_path / "elsewhere"
    root.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copy(ROOT / "compile.py", root)
    for name in ("imgpipe", "components", "pipelines", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored, symlinks=True)
    return root


def test_compiling_elsewhere_in_another_environment_gives_the_committed_bytes(copy_of_project):
    committed = {file.relative_to(COMPILED): file.read_bytes() for file in COMPILED.rglob("*.yaml")}
    compiled = copy_of_project / "pipelines" / "compiled"
    shutil.rmtree(compiled)
    result = compile_py(
        copy_of_project,
        PYTHONHASHSEED="7",
        TZ="Asia/Tokyo",
        HOME="/nonexistent",
        LANG="de_DE.UTF-8",
        USER="user",
        KFP_PACKAGE_PATH="",
    )
    assert result.returncode == 0, result.stderr
    assert {file.relative_to(compiled): file.read_bytes() for file in compiled.rglob("*.yaml")} == committed


@pytest.mark.parametrize("change", ["edited", "missing", "left over", "page"])
def test_check_fails_on_drift_and_names_the_file(copy_of_project, change):
    file = copy_of_project / "pipelines" / "compiled" / "kubeflow" / "image_classification.yaml"
    if change == "edited":
        file.write_text(
            file.read_text().replace("mobilenet-v3-small is the smallest", "mobilenet-v3-small is small")
        )
    elif change == "missing":
        file.unlink()
    elif change == "page":
        file = copy_of_project / "docs" / "arguments.md"
        file.write_text(file.read_text() + "by hand\n")
    else:
        file = file.with_name("forgotten.yaml")
        file.write_text("a: 1\n")
    result = compile_py(copy_of_project, "--check")
    assert result.returncode == 1
    assert str(file.relative_to(copy_of_project)) in result.stderr
    assert "make compile" in result.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_every_pipeline_input_has_the_type_default_and_description_of_its_argument(target):
    inputs = spec_of(target)["root"]["inputDefinitions"]["parameters"]
    fields = {**flat_fields(PIPELINE_ARGUMENTS), **TARGETS[target].inputs(Images())}
    assert {
        name: (parameter["parameterType"], parameter["defaultValue"], parameter["description"])
        for name, parameter in inputs.items()
    } == {
        name: (KFP_TYPES[type(field.default)], field.default, description_of(field))
        for name, field in fields.items()
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_description_is_a_sentence(target):
    for name, field in {**flat_fields(PIPELINE_ARGUMENTS), **TARGETS[target].inputs(Images())}.items():
        description = field.metadata["description"]
        assert len(description) >= 14, name
        assert description[0].isupper() or description[0].isdigit(), name
        assert description.endswith("."), name


@pytest.mark.parametrize("target", TARGETS)
def test_no_compiled_file_has_a_local_path_a_date_a_project_or_a_moving_tag(target):
    text = (COMPILED / target / "image_classification.yaml").read_text()
    # gs://bucket is an example in descriptions.
    moving = r":latest\b|\b20\d\d-\d\d-\d\d|gs://(?!bucket/)\w|projects/[a-z0-9]|/home/|/tmp/|"
    assert not re.search(moving + re.escape(str(ROOT)), text)


def is_own(task, name):
    """Whether an input is used by the task: convert, the first task on this machine, has all of them."""
    return task != "convert" or name in flat_fields([ConvertArguments])


def graph_of(target):
    """Returns the tasks of a target, with only those inputs and outputs that the local tasks have too."""
    spec, local = spec_of(target), spec_of("local")
    graph = {}
    for name, task in tasks_of(spec).items():
        if name == ADDED_STEP:
            continue
        executor = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        component, local_component = (pipeline["components"][f"comp-{name}"] for pipeline in (spec, local))
        local_inputs = tasks_of(local)[name]["inputs"]
        graph[name] = {
            "after": sorted(set(task.get("dependentTasks", [])) - {ADDED_STEP}),
            "inputs": {
                kind: {key: task["inputs"][kind][key] for key in of_kind if is_own(name, key)}
                for kind, of_kind in local_inputs.items()
            },
            "declared inputs": {
                kind: {key: component["inputDefinitions"][kind][key] for key in of_kind if is_own(name, key)}
                for kind, of_kind in local_component["inputDefinitions"].items()
            },
            "declared outputs": {
                kind: {key: component["outputDefinitions"][kind][key] for key in of_kind}
                for kind, of_kind in local_component.get("outputDefinitions", {}).items()
            },
            "command": executor["command"][:-1],
        }
    return graph


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_the_targets_graphs_agree(target):
    assert graph_of(target) == graph_of("local")
    inputs, local_inputs = (
        spec_of(name)["root"]["inputDefinitions"]["parameters"] for name in (target, "local")
    )
    assert {name: inputs[name] for name in local_inputs} == local_inputs


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_a_target_adds_only_its_own_step_and_inputs(target):
    spec, local = spec_of(target), spec_of("local")
    assert set(tasks_of(spec)) - set(tasks_of(local)) == {ADDED_STEP}
    for name in tasks_of(local):
        added = set(tasks_of(spec)[name]["inputs"].get("parameters", {})) - set(
            tasks_of(local)[name]["inputs"].get("parameters", {})
        )
        # KFP adds the inputs of pod settings to a task, with a prefix.
        added = {added_name.removeprefix("pipelinechannel--") for added_name in added} - POD_SETTINGS
        own = {*TARGETS[target].inputs(Images()), "project", "region", "pipeline_run", "images"}
        assert added <= own, name
        if name not in ("convert", "train"):
            assert added <= {"storage_secret", "webhook_secret"}, name


@pytest.mark.parametrize(
    "file", sorted(COMPILED.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_from_images_to_the_served_model_there_are_at_most_six_steps_and_no_condition(file):
    """Each step costs 20 seconds of Kubeflow's and Vertex AI's own."""
    spec = next(yaml.safe_load_all(file.read_text()))
    assert len(spec["root"]["dag"]["tasks"]) <= 6
    assert not [name for name, component in spec["components"].items() if "dag" in component]


def test_training_starts_only_after_validation():
    tasks = tasks_of(spec_of("kubeflow"))
    assert "validate" in tasks["train"]["dependentTasks"]


def test_the_kubeflow_interface_gets_metrics_confusion_matrix_and_reports():
    components = spec_of("kubeflow")["components"]
    kinds = {
        name: artifact["artifactType"]["schemaTitle"]
        for component in ("comp-evaluate", "comp-validate")
        for name, artifact in components[component]["outputDefinitions"]["artifacts"].items()
    }
    assert kinds["metrics"] == "system.Metrics"
    assert kinds["classification_metrics"] == "system.ClassificationMetrics"
    assert kinds["report"] == "system.HTML"


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_only_the_data_steps_are_cached_and_by_data_version(target):
    """With the paths alone as the key, corrected images would get the old data set."""
    tasks = tasks_of(spec_of(target))
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"convert", "validate"}
    version = tasks["convert"]["inputs"]["parameters"]["data_version"]
    assert version["taskOutputParameter"] == {"producerTask": "prepare", "outputParameterKey": "version"}


def test_nothing_is_cached_locally():
    tasks = tasks_of(spec_of("local"))
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks.values())


def test_one_kubeflow_yaml_serves_cpu_gpu_and_tpu():
    spec = spec_of("kubeflow")
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    for field in ("image", "resources"):
        assert "{{$.inputs.parameters" in str(container[field])
    [_, platform] = yaml.safe_load_all(file_of("kubeflow").read_text())
    train = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert train["nodeSelector"] == {"nodeSelectorJson": {"componentInputParameter": "train_node_selector"}}
    assert train["tolerations"] == [{"tolerationJson": {"componentInputParameter": "train_tolerations"}}]
    assert train["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108
    assert train["emptyDirMounts"][0]["medium"] == "Memory"


@pytest.mark.parametrize("name", [file.stem for file in (COMPILED / "kubeflow").glob("*.yaml")])
def test_every_kubeflow_pod_runs_in_a_restricted_namespace_with_a_quota_on_limits(name):
    """Kubernetes refuses other pods: podsecurity checks runAsNonRoot, and a quota the limits."""
    spec, platform = yaml.safe_load_all((COMPILED / "kubeflow" / f"{name}.yaml").read_text())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor, content in spec["deploymentSpec"]["executors"].items():
        assert pods[executor]["securityContext"] == {"runAsNonRoot": True}, executor
        assert content["container"]["resources"].keys() >= {
            "resourceCpuRequest",
            "resourceMemoryRequest",
            "resourceCpuLimit",
            "resourceMemoryLimit",
        }, executor


def test_the_storage_secret_is_not_the_credentials_of_kfps_launcher():
    """The launcher runs in the step's container: Google's variable would apply to its pipeline root."""
    _, platform = yaml.safe_load_all(file_of("kubeflow").read_text())
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        variables = [entry["envVar"] for secret in executor["secretAsEnv"] for entry in secret["keyToEnv"]]
        assert variables == ["IMGPIPE_STORAGE_KEY", "IMGPIPE_WEBHOOK_URL"]


def test_no_step_has_a_retry_policy():
    """Kubeflow and Vertex AI would retry a step with wrong arguments as well as an evicted one."""
    for target in TARGETS:
        tasks = tasks_of(spec_of(target))
        assert not any("retryPolicy" in task for task in tasks.values())


def test_the_vertex_file_is_one_document_and_gets_project_and_region_when_it_runs():
    text = (COMPILED / "vertex" / "image_classification.yaml").read_text()
    assert len(list(yaml.safe_load_all(text))) == 1
    parameters = tasks_of(spec_of("vertex"))["train"]["inputs"]["parameters"]
    assert parameters["project"]["runtimeValue"]["constant"] == "{{$.pipeline_google_cloud_project_id}}"
    assert parameters["region"]["runtimeValue"]["constant"] == "{{$.pipeline_google_cloud_location}}"


def test_the_vertex_train_step_starts_a_job_from_an_image_without_tensorflow():
    container = spec_of("vertex")["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert container["image"].startswith("imgpipe-launcher:")
    assert "imgpipe.components.custom_job.component" in container["command"][-1]


def images_in(root, target):
    text = (root / "pipelines" / "compiled" / target / "image_classification.yaml").read_text()
    return set(re.findall(r"[\w./-]*imgpipe-[\w-]+(?:@sha256)?:[\w.]+", text))


def test_every_image_gets_the_registry(copy_of_project):
    result = compile_py(copy_of_project, "--image-registry", "registry.example/team/")
    assert result.returncode == 0, result.stderr
    for target in TARGETS:
        images = images_in(copy_of_project, target)
        assert images
        assert all(image.startswith("registry.example/team/imgpipe-") for image in images)


def test_a_lock_sets_the_digest_of_every_image(copy_of_project):
    lock = copy_of_project / "images.lock"
    names = {f"imgpipe-{role}": f"registry.example/imgpipe-{role}@sha256:{'0' * 64}" for role in ROLES}
    lock.write_text(yaml.safe_dump(names))
    assert compile_py(copy_of_project, "--images-lock", str(lock)).returncode == 0
    for target in TARGETS:
        assert images_in(copy_of_project, target) <= set(names.values())
        assert images_in(copy_of_project, target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imgpipe-data: registry.example/imgpipe-data:1", "must be an image with its digest"),
        ("imgpipe-data: registry.example/imgpipe-data@sha256:0", "the images lock has no entry imgpipe-"),
        ("- imgpipe-data", "must be a mapping"),
    ],
)
def test_an_incomplete_lock_is_rejected(copy_of_project, text, message):
    (copy_of_project / "images.lock").write_text(text)
    result = compile_py(copy_of_project, "--images-lock", "images.lock")
    assert result.returncode == 64
    assert message in result.stderr


def test_compiling_does_not_import_tensorflow():
    code = (
        "import sys; import compile as c; c.drifted_files(c.Images()); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def parameters_used(value):
    """Yields the names of the inputs that a part of a specification refers to."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "componentInputParameter":
                yield part
            else:
                yield from parameters_used(part)
    elif isinstance(value, list):
        for part in value:
            yield from parameters_used(part)


@pytest.fixture(scope="module", params=BUILDERS)
def with_additions(request, tmp_path_factory):
    """The name and the two documents of each pipeline with a notify step and a volume."""
    options = KubeflowOptions(has_notify=True, volumes=(("photos", "/data"),))
    file = tmp_path_factory.mktemp("additions") / "pipeline.yaml"
    pipeline = BUILDERS[request.param](kubeflow_target(options), Images())
    Compiler().compile(pipeline, package_path=str(file))
    return request.param, *yaml.safe_load_all(file.read_text())


def test_the_notify_step_runs_after_all_others_and_alone_calls_the_webhook(with_additions):
    pipeline, spec, platform = with_additions
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"exit-handler-1", "notify"}
    assert tasks["notify"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert tasks["notify"]["dependentTasks"] == ["exit-handler-1"]
    silent = {}

    def check(component):
        """Checks that the inputs around each task have what the task and its pod refer to."""
        given = set(component["inputDefinitions"]["parameters"])
        for name, task in component["dag"]["tasks"].items():
            inner = spec["components"][task["componentRef"]["name"]]
            used = set(parameters_used(task.get("inputs", {})))
            if "dag" in inner:
                check(inner)
            else:
                used |= set(parameters_used(settings[inner["executorLabel"]]))
                container = spec["deploymentSpec"]["executors"][inner["executorLabel"]]["container"]
                silent[name] = {"name": "IMGPIPE_HAS_NOTIFY", "value": "1"} in container.get("env", ())
            assert used <= given, name

    check(spec["root"])
    assert [name for name, is_silent in silent.items() if not is_silent] == ["notify"]
    assert ordered_tasks(spec)[-1] == "notify"
    # Without the option, a run has no pods for it.
    assert "notify" not in (COMPILED / "kubeflow" / f"{pipeline}.yaml").read_text()


def test_a_volume_is_mounted_into_every_step_but_notify(with_additions):
    executors = with_additions[2]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {
        name: [(mount["constant"], mount["mountPath"]) for mount in executor.get("pvcMount", ())]
        for name, executor in executors.items()
    }
    assert mounted.pop("exec-notify") == []
    assert mounted
    assert all(mounts == [("photos", "/data")] for mounts in mounted.values())
    specification = with_additions[1]["deploymentSpec"]["executors"]
    for name in mounted:
        environment = specification[name]["container"]["env"]
        assert {"name": VOLUMES_VARIABLE, "value": '{"photos": "/data"}'} in environment
