"""Submissions to AI Platform, converted to requests to Vertex AI."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from google.cloud import aiplatform_v1 as vertex

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.components.platforms.vertex.jobs import CUSTOM_JOB, TUNING_JOB, start_job
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.pipelines.ai_platform import job_label, pipeline_parameters, plan_job, vertex_request
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.training_input import read_training_input
from tests.servers.configs import ARGUMENTS, JOB_ID, TPU_CONFIG, TUNING_CONFIG
from tests.servers.vertex import start_vertex_server

SOURCE = Path(__file__).parents[3] / "shared" / "reference" / "000_1412616bcab2b66b.txt"
IMAGES = Images(
    lock={f"imgpipe-train-{kind}": f"images/train-{kind}@sha256:0" for kind in ("cpu", "gpu", "tpu")}
)


def image_of(machine):
    return IMAGES.of_training(machine.kind)


def planned(text, args=ARGUMENTS, **settings):
    config = read_training_input(text, where="config.yaml")
    return plan_job(JOB_ID, args, replace(config, region=config.region or "us-central1"), **settings)


def config_of(fields):
    return yaml.safe_dump({"trainingInput": fields})


def request_of(fields, args=ARGUMENTS, **settings):
    _, body = vertex_request(planned(config_of(fields), args, **settings), image_of)
    return body


@pytest.fixture
def server(tmp_path):
    with start_vertex_server(tmp_path) as started:
        yield started


def round_trip(server, config):
    kind, body = vertex_request(planned(config), image_of)
    location = VertexLocation("flowers-project", "us-central1", server.address)
    kinds = {"CustomJob": CUSTOM_JOB, "HyperparameterTuningJob": TUNING_JOB}
    job, found = start_job(location, kinds[kind], body)
    assert not found
    # The server decoded what the client sent.
    assert server.resources[job.name] == job
    return job


def tpu_job_spec(args, module="imgpipe.components.train"):
    return vertex.CustomJobSpec(
        worker_pool_specs=[
            vertex.WorkerPoolSpec(
                machine_spec=vertex.MachineSpec(
                    machine_type="cloud-tpu",
                    accelerator_type=vertex.AcceleratorType.TPU_V2,
                    accelerator_count=8,
                ),
                replica_count=1,
                container_spec=vertex.ContainerSpec(
                    env=[
                        {"name": "IMGPIPE_LOG_FORMAT", "value": "json"},
                        {"name": "IMGPIPE_JOB_ID", "value": JOB_ID},
                    ],
                    image_uri="images/train-tpu@sha256:0",
                    command=["python", "-m", module],
                    # As the original algorithm.
                    args=[*args, "--weights=none"],
                ),
            )
        ],
        base_output_directory=vertex.GcsDestination(
            output_uri_prefix=f"gs://bucket/algorithm_training/{JOB_ID}"
        ),
    )


def server_fields(job):
    return {"name": job.name, "create_time": job.create_time, "state": job.state}


def test_the_documented_tpu_config_and_command_line_become_this_custom_job(server):
    job = round_trip(server, TPU_CONFIG)
    assert job == vertex.CustomJob(
        display_name=JOB_ID,
        job_spec=tpu_job_spec(ARGUMENTS),
        labels={"imgpipe-job": JOB_ID, "imgpipe-request": job.labels["imgpipe-request"]},
        **server_fields(job),
    )


def test_the_documented_tuning_config_and_command_line_become_this_tuning_job(server):
    job = round_trip(server, TUNING_CONFIG)
    spec = vertex.StudySpec
    parameter = spec.ParameterSpec
    assert job == vertex.HyperparameterTuningJob(
        display_name=JOB_ID,
        study_spec=spec(
            metrics=[spec.MetricSpec(metric_id="top_1_accuracy", goal=spec.MetricSpec.GoalType.MAXIMIZE)],
            parameters=[
                parameter(
                    parameter_id="initial_learning_rate",
                    double_value_spec=parameter.DoubleValueSpec(min_value=0.001, max_value=0.2),
                    scale_type=parameter.ScaleType.UNIT_LOG_SCALE,
                )
            ],
            measurement_selection_type=spec.MeasurementSelectionType.BEST_MEASUREMENT,
            median_automated_stopping_spec=spec.MedianAutomatedStoppingSpec(use_elapsed_duration=False),
        ),
        max_trial_count=6,
        parallel_trial_count=3,
        # The trial gets the tuned argument: a fixed value would be a duplicate.
        trial_job_spec=tpu_job_spec(
            [arg for arg in ARGUMENTS if "initial_learning_rate" not in arg],
            # Each trial has its own folder in job_dir.
            "imgpipe.components.tune.remote_trial",
        ),
        labels={"imgpipe-job": JOB_ID, "imgpipe-request": job.labels["imgpipe-request"]},
        **server_fields(job),
    )
    # A message without fields: comparing it does not show whether it is set.
    assert "median_automated_stopping_spec" in job.study_spec


@pytest.mark.skipif(
    not SOURCE.exists(), reason=f"LOUD: {SOURCE.name}, the original's documentation, is absent"
)
def test_the_original_documentation_has_the_same_configs_and_command_line():
    text = SOURCE.read_text(encoding="utf-8")
    configs = re.findall(r"cat << EOF > config\.yaml\n(.*?)EOF", text, re.DOTALL)
    requests = [vertex_request(planned(config), image_of) for config in (*configs, TPU_CONFIG, TUNING_CONFIG)]
    assert requests[:2] == requests[2:]
    [command] = re.findall(
        r"gcloud ai-platform jobs submit training .*?\n( +-- \\\n.*?)\n\n", text, re.DOTALL
    )
    flags = re.findall(r"--([\w-]+)=", textwrap.dedent(command))
    assert flags == [arg[2:].partition("=")[0] for arg in ARGUMENTS]


def test_notices_name_replaced_and_ignored_fields():
    notices = planned(TUNING_CONFIG).notices
    for text in (
        "masterConfig.imageUri: imgpipe's image replaces Google's built-in algorithm",
        "workerConfig.tpuTfVersion=1.14 is ignored",
        "masterType=n1-highmem-16 is not used",
        "--initial_learning_rate=0.128 is ignored: the tuning sets it",
    ):
        assert any(text in notice for notice in notices), text


NETWORKS = [f"resnet-{depth}" for depth in (18, 34, 50, 101, 152, 200)]
NETWORKS += [f"efficientnet-b{number}" for number in range(8)]


@pytest.mark.parametrize("model_type", NETWORKS)
@pytest.mark.parametrize("target", ["vertex", "kubeflow", "local"])
def test_a_line_of_the_original_works_for_all_its_networks_and_starts_from_random_weights(model_type, target):
    args = [*ARGUMENTS[:-1], f"--model_type={model_type}"]
    job = planned("", args)
    assert job.values["weights"] == "none"
    assert job.args == (*args, "--weights=none")
    assert any("--weights=imagenet" in notice for notice in job.notices)
    if target != "vertex":
        job = planned("", args, arguments_classes=PIPELINE_ARGUMENTS)
        parameters, _ = pipeline_parameters(job, target, image_of)
        assert parameters["weights"] == "none"


@pytest.mark.parametrize(
    "own", ["--weights=imagenet", "--freeze=backbone", "--pretrained_checkpoint_path=gs://b/model"]
)
def test_a_line_with_arguments_of_our_own_or_with_a_checkpoint_keeps_its_weights(own):
    job = planned("", [*ARGUMENTS, own])
    assert job.values.get("weights", "imagenet") == "imagenet"
    assert job.args == (*ARGUMENTS, own)


FIELDS = {
    "scaleTier: BASIC": (
        {"scaleTier": "BASIC"},
        ("jobSpec.workerPoolSpecs.0.machineSpec", {"machineType": "n1-standard-4"}),
    ),
    "region": ({"region": "europe-west4"}, None),
    "jobDir": ({"jobDir": "gs://b/elsewhere"}, "jobDir=gs://b/elsewhere is ignored"),
    "args": ({"args": ["--seed=5"]}, ("jobSpec.workerPoolSpecs.0.containerSpec.args.0", "--seed=5")),
    "args overridden": ({"args": ["--max_steps=5"]}, "args: --max_steps=5 is ignored"),
    "runtimeVersion": ({"runtimeVersion": "2.11"}, "runtimeVersion is ignored"),
    "pythonVersion": ({"pythonVersion": 3.7}, "pythonVersion is ignored"),
    "packageUris": ({"packageUris": ["gs://b/p.tar.gz"]}, "packageUris is ignored"),
    "pythonModule": ({"pythonModule": "trainer.task"}, "pythonModule is ignored"),
    "useChiefInTfConfig": ({"useChiefInTfConfig": True}, "useChiefInTfConfig is ignored"),
    "network": (
        {"network": "projects/1/global/networks/n"},
        ("jobSpec.network", "projects/1/global/networks/n"),
    ),
    "serviceAccount": (
        {"serviceAccount": "a@p.iam.gserviceaccount.com"},
        ("jobSpec.serviceAccount", "a@p.iam.gserviceaccount.com"),
    ),
    "enableWebAccess": ({"enableWebAccess": True}, ("jobSpec.enableWebAccess", True)),
    "encryptionConfig": (
        {"encryptionConfig": {"kmsKeyName": "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"}},
        ("encryptionSpec.kmsKeyName", "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"),
    ),
    "maxRunningTime": (
        {"scheduling": {"maxRunningTime": "604800s"}},
        ("jobSpec.scheduling.timeout", "604800s"),
    ),
    "maxWaitTime": ({"scheduling": {"maxWaitTime": "1800s"}}, "scheduling.maxWaitTime is ignored"),
    "priority": ({"scheduling": {"priority": 3}}, "scheduling.priority is ignored"),
    "masterConfig.diskConfig": (
        {"masterConfig": {"diskConfig": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 500}}},
        ("jobSpec.workerPoolSpecs.0.diskSpec", {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 500}),
    ),
    "masterConfig.imageUri": (
        {"masterConfig": {"imageUri": "mine/train@sha256:1"}},
        ("jobSpec.workerPoolSpecs.0.containerSpec.imageUri", "mine/train@sha256:1"),
    ),
    "masterConfig.containerCommand": (
        {"masterConfig": {"containerCommand": ["python", "-m", "mine"]}},
        ("jobSpec.workerPoolSpecs.0.containerSpec.command", ["python", "-m", "mine"]),
    ),
    "masterConfig.containerArgs": (
        {"masterConfig": {"containerArgs": ["--seed=1"]}},
        ("jobSpec.workerPoolSpecs.0.containerSpec.args.0", "--seed=1"),
    ),
    "masterConfig.tpuTfVersion": (
        {"masterConfig": {"tpuTfVersion": 2.1}},
        "masterConfig.tpuTfVersion=2.1 is ignored",
    ),
    "masterType with acceleratorConfig": (
        {
            "scaleTier": "CUSTOM",
            "masterType": "n1-standard-8",
            "masterConfig": {"acceleratorConfig": {"type": "NVIDIA_TESLA_T4", "count": 2}},
        },
        (
            "jobSpec.workerPoolSpecs.0.machineSpec",
            {"machineType": "n1-standard-8", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 2},
        ),
    ),
    "workerType and workerCount": (
        {
            "scaleTier": "CUSTOM",
            "masterType": "n1-standard-8",
            "workerType": "n1-standard-16",
            "workerCount": 3,
        },
        ("jobSpec.workerPoolSpecs.1.replicaCount", 3),
    ),
    "parameterServerType": (
        {
            "scaleTier": "CUSTOM",
            "masterType": "n1-standard-8",
            "parameterServerType": "standard",
            "parameterServerCount": 2,
        },
        "trainingInput.parameterServerType and trainingInput.parameterServerCount are ignored",
    ),
    "evaluatorType": (
        {
            "scaleTier": "CUSTOM",
            "masterType": "n1-standard-8",
            "evaluatorType": "standard",
            "evaluatorCount": 1,
        },
        "trainingInput.evaluatorType and trainingInput.evaluatorCount are ignored",
    ),
    "TPU v5e": (
        {"scaleTier": "CUSTOM", "masterType": "ct5lp-hightpu-4t", "masterConfig": {"tpuTopology": "2x4"}},
        ("jobSpec.workerPoolSpecs.0.machineSpec", {"machineType": "ct5lp-hightpu-4t", "tpuTopology": "2x4"}),
    ),
    "BASIC_TPU": (
        {"scaleTier": "BASIC_TPU"},
        ("jobSpec.workerPoolSpecs.0.containerSpec.imageUri", "images/train-tpu@sha256:0"),
    ),
}


def at(body, path):
    for step in path.split("."):
        body = body[int(step)] if step.isdigit() else body[step]
    return body


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_takes_effect_or_is_reported_as_ignored(name):
    fields, effect = FIELDS[name]
    job = planned(config_of(fields))
    _, body = vertex_request(job, image_of)
    if effect is None:
        assert job.config.region == fields["region"]
    elif isinstance(effect, str):
        assert any(effect in notice for notice in job.notices)
    else:
        assert at(body, effect[0]) == effect[1]


def test_spot_and_flex_start_become_scheduling_strategies():
    gpu = {"scaleTier": "CUSTOM", "masterType": "g2-standard-8", "scheduling": {"maxWaitTime": "3600s"}}
    assert request_of(gpu, strategy="spot")["jobSpec"]["scheduling"] == {"strategy": "SPOT"}
    assert request_of(gpu, strategy="flex-start")["jobSpec"]["scheduling"] == {
        "strategy": "FLEX_START",
        "maxWaitDuration": "3600s",
    }


def test_all_types_and_scales_of_parameters_are_converted(server):
    config = config_of(
        {
            "hyperparameters": {
                "maxTrials": 8,
                "maxFailedTrials": 2,
                "algorithm": "RANDOM_SEARCH",
                "params": [
                    {"parameterName": "train_batch_size", "type": "INTEGER", "minValue": 16, "maxValue": 128,
                     "scaleType": "UNIT_LINEAR_SCALE"},
                    {"parameterName": "optimizer_type", "type": "CATEGORICAL",
                     "categoricalValues": ["momentum", "adam"]},
                    {"parameterName": "weight_decay", "type": "DISCRETE",
                     "discreteValues": [1e-5, 1e-4, 1e-3], "scaleType": "UNIT_REVERSE_LOG_SCALE"},
                ],
            }
        }
    )  # fmt: skip
    job = round_trip(server, config)
    parameter = vertex.StudySpec.ParameterSpec
    assert list(job.study_spec.parameters) == [
        parameter(
            parameter_id="train_batch_size",
            integer_value_spec=parameter.IntegerValueSpec(min_value=16, max_value=128),
            scale_type=parameter.ScaleType.UNIT_LINEAR_SCALE,
        ),
        parameter(
            parameter_id="optimizer_type",
            categorical_value_spec=parameter.CategoricalValueSpec(values=["momentum", "adam"]),
        ),
        parameter(
            parameter_id="weight_decay",
            discrete_value_spec=parameter.DiscreteValueSpec(values=[1e-5, 1e-4, 1e-3]),
            scale_type=parameter.ScaleType.UNIT_REVERSE_LOG_SCALE,
        ),
    ]
    assert job.study_spec.algorithm == vertex.StudySpec.Algorithm.RANDOM_SEARCH
    assert (job.max_trial_count, job.parallel_trial_count, job.max_failed_trial_count) == (8, 1, 2)
    assert "median_automated_stopping_spec" not in job.study_spec


def test_labels_are_short_lower_case_and_unique():
    assert job_label("flowers_1") == "flowers_1"
    assert job_label("Flowers_1") != job_label("flowers_1")
    assert len({job_label("x" * 80 + end) for end in "abc"}) == 3
    assert all(re.fullmatch(r"[a-z0-9_-]{1,63}", job_label(name)) for name in ("X" * 128, "aB-9"))


def test_the_kubeflow_pipeline_gets_the_machine_as_parameters():
    args = ["--training_data_path=gs://b/t-*", "--validation_data_path=gs://b/v-*", "--job-dir=/mnt/run"]
    gpu = planned(config_of({"scaleTier": "CUSTOM", "masterType": "g2-standard-24"}), args)
    parameters, notices = pipeline_parameters(gpu, "kubeflow", image_of)
    assert parameters == {
        "weights": "none",
        "recipe": "original",
        "training_data_path": "gs://b/t-*",
        "validation_data_path": "gs://b/v-*",
        "job_dir": "/mnt/run",
        "train_image": "images/train-gpu@sha256:0",
        "train_cpu": "18",
        "train_memory": "72G",
        "train_accelerator_type": "nvidia.com/gpu",
        "train_accelerator_count": "2",
        "train_tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    advice = """--input 'train_node_selector={"cloud.google.com/gke-accelerator": "nvidia-l4"}'"""
    assert advice in notices[-1]
    # With the suggested input there is no notice.
    given = {"train_node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}
    followed, notices = pipeline_parameters(gpu, "kubeflow", image_of, given)
    assert followed == parameters | given
    assert not any("node_selector" in notice for notice in notices)


def test_the_documented_tpu_config_becomes_a_tpu_that_is_available_on_gke():
    parameters, notices = pipeline_parameters(planned(TPU_CONFIG), "kubeflow", image_of)
    assert parameters["train_accelerator_type"] == "google.com/tpu"
    assert parameters["train_accelerator_count"] == "4"
    assert parameters["train_node_selector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x2",
    }
    assert any("TPU_V2 is not available on GKE" in notice for notice in notices)


def test_workers_default_to_the_masters_image():
    fields = {
        "scaleTier": "CUSTOM",
        "masterType": "n1-standard-8",
        "masterConfig": {"imageUri": "a/b@sha256:1"},
    }
    workers = {"workerType": "n1-standard-8", "workerCount": 2}
    pools = request_of({**fields, **workers})["jobSpec"]["workerPoolSpecs"]
    assert [pool["containerSpec"]["imageUri"] for pool in pools] == ["a/b@sha256:1"] * 2
    own = {**fields, **workers, "workerConfig": {"imageUri": "a/c@sha256:2"}}
    pools = request_of(own)["jobSpec"]["workerPoolSpecs"]
    assert pools[1]["containerSpec"]["imageUri"] == "a/c@sha256:2"


@pytest.mark.parametrize(
    "fields",
    [
        {"scaleTier": "BASIC", "workerConfig": {"containerArgs": ["--seed=1"]}},
        {
            "scaleTier": "CUSTOM",
            "masterType": "n1-standard-8",
            "evaluatorConfig": {"imageUri": "a/b:1", "containerArgs": ["x"]},
        },
    ],
)
def test_the_config_of_a_role_without_machines_is_reported_as_ignored(fields):
    role = next(name for name in fields if name.endswith("Config"))
    notices = planned(config_of(fields)).notices
    assert any(f"{role} is ignored: the job has no machine" in notice for notice in notices)


def test_an_empty_field_is_allowed_and_a_misspelt_one_gets_a_suggestion():
    planned("trainingInput:\n  scaleTier: BASIC\n  hyperparameters:\n")
    with pytest.raises(InvalidArgumentError) as raised:
        planned("trainingInput:\n  scaleTier: BASIC\n  hyperparamters: {}\n")
    assert "hyperparameters" in raised.value.remedy
