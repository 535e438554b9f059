"""Over a hundred invalid configurations: each is rejected within a second, with field, value and remedy."""

import time
from dataclasses import replace

import pytest
import yaml

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.ai_platform import pipeline_parameters, plan_job, vertex_request
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.training_input import read_training_input
from tests.servers.configs import ARGUMENTS, JOB_ID

T4, V100, A100 = "NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_A100"


def custom(master="n1-standard-8", accelerator=None, **fields):
    """A config with a machine; ``accelerator`` is (type, count)."""
    config = {"scaleTier": "CUSTOM", "masterType": master, **fields}
    if accelerator:
        kind, count = accelerator
        config["masterConfig"] = {"acceleratorConfig": {"type": kind, "count": count}}
    return config


def worker(machine, count, accelerator=None):
    fields = {"workerType": machine, "workerCount": count}
    if accelerator:
        fields["workerConfig"] = {"acceleratorConfig": {"type": accelerator[0], "count": accelerator[1]}}
    return custom("n1-highmem-16", **fields)


def tuning(*parameters, **fields):
    good = {"parameterName": "initial_learning_rate", "type": "DOUBLE", "minValue": 0.001, "maxValue": 0.2}
    return {"hyperparameters": {"maxTrials": 4, "params": list(parameters) or [good], **fields}}


def tuned(name, kind="DOUBLE", minimum=None, maximum=None, **fields):
    parameter = {"parameterName": name, "type": kind, **fields}
    if minimum is not None:
        parameter["minValue"] = minimum
    if maximum is not None:
        parameter["maxValue"] = maximum
    return tuning(parameter)


# Config, part of the problem (field and value), part of the remedy.
CONFIGS = [
    # Names of machines and tiers.
    ({"scaleTier": "BASIC_GPUS"}, "scaleTier='BASIC_GPUS'", "BASIC_GPU"),
    ({"scaleTier": "STANDARD_1"}, "scaleTier=STANDARD_1", "CUSTOM"),
    ({"scaleTier": "PREMIUM_1"}, "scaleTier=PREMIUM_1", "CUSTOM"),
    ({"scaleTier": "CUSTOM"}, "masterType is required", "n1-standard-8"),
    ({"masterType": "n1-standard-8"}, "masterType=n1-standard-8 contradicts trainingInput.", "CUSTOM"),
    ({"scaleTier": "BASIC", "workerCount": 2}, "workerCount=2", "CUSTOM"),
    ({"scaleTier": "BASIC_TPU", "masterConfig": {"acceleratorConfig": {"type": "TPU_V2", "count": 8}}},
     "acceleratorConfig", "CUSTOM"),
    (custom("n1-standard-3"), "'n1-standard-3'", "n1-standard-4"),
    (custom("n1-highcpu-8"), "'n1-highcpu-8'", "use one of n1-highcpu-16, n1-highcpu-32, n1-highcpu-64, "),
    (custom("n1-standart-8"), "'n1-standart-8'", "n1-standard-8"),
    (custom("standard-gpu"), "'standard-gpu'", "standard_gpu"),
    (custom("complex_model_xl"), "'complex_model_xl'", "complex_model_l"),
    (custom("p3.2xlarge"), "'p3.2xlarge'", "n1-standard-8"),
    (custom("a2-highgpu-3g"), "'a2-highgpu-3g'", "a2-highgpu-2g"),
    (custom("g2-standard-64"), "'g2-standard-64'", "g2-standard-48"),
    (custom("a5-highgpu-8g"), "'a5-highgpu-8g' is not in imgpipe's table", "--allow-unknown-machine"),
    (custom("n1-standard-8", ("NVIDIA_R300", 1)), "'NVIDIA_R300' is not in imgpipe's", "--allow-unknown"),
    (custom("ct6e-standard-4t"), "v6e, for which Google provides no TensorFlow", "ct5lp-hightpu-4t"),
    # Accelerators.
    (custom(accelerator=(T4, 3)), f"3 {T4}", "1, 2, 4"),
    (custom(accelerator=(T4, 8)), f"8 {T4}", "1, 2, 4"),
    (custom(accelerator=(V100, 16)), f"16 {V100}", "1, 2, 4, 8"),
    (custom("n1-standard-16", (V100, 1)), f"1 {V100}", f"for 1 {V100} use n1-standard-4, n1-standard-8"),
    (custom("n1-standard-32", (T4, 1)), f"1 {T4}", "2, 4"),
    (custom("n1-standard-32", (V100, 2)), f"2 {V100}", "4, 8"),
    (custom("n1-standard-64", (T4, 2)), f"2 {T4}", "4"),
    (custom("n1-highmem-96", (V100, 4)), f"4 {V100}", "8"),
    (custom("e2-standard-8", (T4, 1)), f"e2-standard-8 does not support 1 {T4}", "no accelerator"),
    (custom("n2-standard-8", (T4, 1)), f"n2-standard-8 does not support 1 {T4}", "n1-standard-8"),
    (custom("c2-standard-8", (V100, 1)), "c2-standard-8", "no accelerator"),
    (custom("g2-standard-8", (T4, 1)), f"g2-standard-8 does not support 1 {T4}", "NVIDIA_L4: 1"),
    (custom("g2-standard-24", ("NVIDIA_L4", 1)), "1 NVIDIA_L4", "g2-standard-8"),
    (custom("n1-standard-8", ("NVIDIA_L4", 1)), "1 NVIDIA_L4", "g2-standard-4"),
    (custom("n1-standard-8", (A100, 1)), f"1 {A100}", "a2-highgpu-1g"),
    (custom("a2-highgpu-1g", (A100, 2)), f"2 {A100}", "a2-highgpu-2g"),
    (custom("a2-ultragpu-1g", (A100, 1)), f"1 {A100}", "NVIDIA_A100_80GB: 1"),
    (custom("a3-highgpu-8g", (A100, 8)), f"8 {A100}", "NVIDIA_H100_80GB: 8"),
    (custom("n1-standard-8", ("NVIDIA_T4", 1)), "'NVIDIA_T4'", "NVIDIA_TESLA_T4"),
    (custom("n1-standard-8", ("nvidia-tesla-t4", 1)), "'nvidia-tesla-t4'", "NVIDIA_TESLA_T4"),
    (custom("n1-standard-8", (T4, 0)), "without a count", "count"),
    (custom("n1-standard-8", (T4, -1)), "count=-1", "at least 0"),
    (custom("n1-standard-8", (T4, "two")), "count='two'", "whole number"),
    (custom("n1-standard-8", (T4, 1.5)), "count=1.5", "whole number"),
    (custom("n1-standard-8", ("", 2)), "count=2", "NVIDIA_TESLA_T4"),
    (custom("n1-standard-8", ("NVIDIA_TESLA_K80", 3)), "3 NVIDIA_TESLA_K80", "NVIDIA_TESLA_T4"),
    (custom("e2-standard-8", ("NVIDIA_TESLA_P100", 1)), "1 NVIDIA_TESLA_P100", "no accelerator"),
    (custom("standard_gpu", (T4, 1)), "legacy machine type standard_gpu", "n1-standard-8"),
    # TPUs.
    (custom("n1-standard-8", ("TPU_V2", 8)), "n1-standard-8 does not support TPU_V2", "cloud-tpu"),
    (custom("cloud-tpu"), "cloud-tpu needs an accelerator type", "TPU_V2: 8"),
    (custom("cloud-tpu", ("TPU_V2", 4)), "4 TPU_V2", "8"),
    (custom("cloud-tpu", ("TPU_V3", 16)), "16 TPU_V3", "32"),
    (custom("cloud-tpu", (T4, 8)), f"8 {T4}", "TPU_V2: 8"),
    (custom("cloud_tpu", ("TPU_V4_POD", 8)), "8 TPU_V4_POD", "TPU_V3"),
    (custom("ct5lp-hightpu-4t", ("TPU_V5_LITEPOD", 4)), "an accelerator type", "remove the accelerator"),
    (custom("ct5lp-hightpu-1t", masterConfig={"tpuTopology": "2x2"}), "'2x2'", "1x1"),
    (custom("ct5lp-hightpu-4t", masterConfig={"tpuTopology": "3x3"}), "'3x3'", "2x2"),
    (custom("n1-standard-8", masterConfig={"tpuTopology": "2x2"}), "'2x2'", "ct5lp-hightpu-4t"),
    (worker("cloud_tpu", 2, ("TPU_V2", 8)), "one worker pool with one replica", "count"),
    (worker("cloud_tpu", 1, ("TPU_V2", 16)), "16 TPU_V2", "32"),
    (custom("TPU_V2", workerType="n1-standard-8", workerCount=1), "one worker pool", "count"),
    ({"scaleTier": "BASIC_GPU", "masterConfig": {"tpuTopology": "2x4"}}, "tpuTopology contradicts", "CUSTOM"),
    # Roles.
    (custom(workerType="n1-standard-8"), "workerType='n1-standard-8' and trainingInput.workerCount=", "both"),
    (custom(workerCount=2), "workerType='' and trainingInput.workerCount=2", "both"),
    (custom(workerType="n1-standard-8", workerCount=-1), "workerCount=-1", "at least 0"),
    (custom(workerType="n1-standard-9", workerCount=1), "'n1-standard-9'", "n1-standard-8"),
    (custom(masterCount=1), "trainingInput.masterCount", "masterConfig"),
    # Fields.
    ({"scaleTeir": "BASIC"}, "trainingInput.scaleTeir", "scaleTier"),
    ({"scale_tier": "BASIC"}, "trainingInput.scale_tier", "scaleTier"),
    ({"masterConfig": {"imageURI": "x"}}, "masterConfig.imageURI", "imageUri"),
    ({"masterConfig": "n1-standard-8"}, "masterConfig is 'n1-standard-8'", "name: value"),
    ({"masterConfig": {"diskConfig": {"bootDiskType": "ssd"}}}, "bootDiskType='ssd'", "pd-ssd"),
    ({"masterConfig": {"diskConfig": {"bootDiskSizeGb": 10}}}, "bootDiskSizeGb=10", "at least 100"),
    ({"masterConfig": {"containerCommand": "python"}}, "containerCommand='python'", "list"),
    ({"args": "--max_steps=5"}, "args='--max_steps=5'", "list"),
    ({"args": ["--max_stepz=5"]}, "--max_stepz", "--max-steps"),
    ({"args": ["--optimizer_type=sgd"]}, "optimizer_type='sgd'", "correct the value"),
    ({"args": ["--seed=-1"]}, "seed=-1", "correct the value"),
    ({"enableWebAccess": "yes"}, "enableWebAccess='yes'", "true or false"),
    ({"network": "default"}, "network='default'", "projects/NUMBER"),
    ({"serviceAccount": "robot"}, "serviceAccount='robot'", "gserviceaccount"),
    ({"encryptionConfig": {"kmsKeyName": "key"}}, "kmsKeyName='key'", "keyRings"),
    ({"encryptionConfig": {"key": "key"}}, "encryptionConfig.key", "kmsKeyName"),
    ({"scheduling": {"maxRunningTime": 3600}}, "maxRunningTime=3600", "3600s"),
    ({"scheduling": {"maxRunningTime": "1h"}}, "maxRunningTime='1h'", "3600s"),
    ({"scheduling": {"maxWaitTime": "60s"}}, "maxWaitTime='60s'", "at least 1800s"),
    ({"scheduling": {"priority": "high"}}, "priority='high'", "whole number"),
    ({"region": "Iowa"}, "region='Iowa'", "--region"),
    # What contradicts itself, or Google's limits.
    ({"network": "projects/flowers/global/networks/n"}, "network='projects/flowers", "projectNumber"),
    ({"encryptionConfig": {"kmsKeyName": "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"}},
     "is a key in us-east1, but the job is in us-central1", "use a key in us-central1"),
    ({"scheduling": {"maxRunningTime": "1e-12s"}}, "maxRunningTime='1e-12s'", "from 1s"),
    ({"scheduling": {"maxRunningTime": "1e13s"}}, "maxRunningTime='1e13s'", "315576000000s"),
    ({"scheduling": {"priority": 2**31}}, "priority=2147483648", "at most 2147483647"),
    (custom(workerType="n1-standard-8", workerCount=5000), "workerCount=5000", "at most 1000"),
    (custom("n1-standard-8", (T4, 2**63)), "count=9223372036854775808", "at most 2147483647"),
    (tuning(maxTrials=10**6), "maxTrials=1000000", "at most 10000"),
    ({"args": [f"--decay_steps={10**20}"]}, "decay_steps=100000000000000000000", "64 bits"),
    # Search spaces.
    (tuning(goal="MINIMIZE"), "goal='MINIMIZE'", "top_1_accuracy"),
    (tuning(goal="MAXIMISE"), "goal='MAXIMISE'", "MAXIMIZE"),
    (tuning(hyperparameterMetricTag="accuracy"), "hyperparameterMetricTag='accuracy'", "top_1_accuracy"),
    (tuning(maxTrials=0), "maxTrials=0", "at least 1"),
    (tuning(maxParallelTrials=5), "maxParallelTrials=5", "maxTrials (4)"),
    (tuning(maxFailedTrials=9), "maxFailedTrials=9", "maxTrials (4)"),
    (tuning(algorithm="BAYESIAN"), "algorithm='BAYESIAN'", "GRID_SEARCH"),
    (tuning(algorithm="GRID_SEARCH"), "algorithm='GRID_SEARCH'", "DISCRETE"),
    (tuning(enableTrialEarlyStopping=1), "enableTrialEarlyStopping=1", "true or false"),
    ({"hyperparameters": {"maxTrials": 4}}, "params=[]", "add the parameters to tune"),
    (tuning(params=[{"parameterName": "seed"}]), "type=''", "DOUBLE"),
    (tuned("learning_rate", minimum=0.1, maximum=1), "'learning_rate'", "initial_learning_rate"),
    (tuned("weight_decay", "FLOAT", 0.1, 1), "type='FLOAT'", "DOUBLE"),
    (tuned("weight_decay", minimum=0.1), "maxValue", "range"),
    (tuned("weight_decay", minimum=0.2, maximum=0.1), "minimum 0.2 is not below the maximum 0.1", "swap"),
    (tuned("weight_decay", minimum=0, maximum=0.1, scaleType="UNIT_LOG_SCALE"), "UNIT_LOG_SCALE", "above 0"),
    (tuned("weight_decay", minimum=0.1, maximum=1, scaleType="LOG"), "scaleType='LOG'", "UNIT_LOG_SCALE"),
    (tuned("weight_decay", minimum=0.1, maximum=1, discreteValues=[1]), "discreteValues", "minValue"),
    (tuned("weight_decay", minimum=-0.1, maximum=1), "weight_decay=-0.1: must be at least 0", "search space"),
    (tuned("train_batch_size", minimum=8, maximum=64), "train_batch_size is an integer", "INTEGER"),
    (tuned("train_batch_size", "INTEGER", 8.5, 64), "minValue=8.5", "DOUBLE"),
    (tuned("warmup_steps", "INTEGER", 0, 40_000), "a trial may have warmup_steps=40000", "max_steps"),
    (tuned("optimizer_type", minimum=0, maximum=1), "optimizer_type is a string", "CATEGORICAL"),
    (tuned("optimizer_type", "CATEGORICAL", categoricalValues=["sgd"]), "'sgd'", "correct"),
    (tuned("optimizer_type", "CATEGORICAL"), "categoricalValues=[]", "at least one"),
    (tuned("weight_decay", "DISCRETE", discreteValues=[2, 1]), "discreteValues=[2.0, 1.0]", "ascending"),
    (tuned("weight_decay", "DISCRETE", discreteValues=["a"]), "discreteValues='a'", "number"),
    (tuning(tuned("seed", "INTEGER", 1, 2)["hyperparameters"]["params"][0],
            tuned("seed", "INTEGER", 1, 2)["hyperparameters"]["params"][0]), "seed", "remove the duplicate"),
    (tuned("weight_decay", minimum=0.1, maximum=1, scale="NONE"), "params[0].scale", "scaleType"),
]  # fmt: skip

TEXTS = [
    ("trainingInput: [1, 2", "not valid YAML", "line"),
    ("trainingInput:\n  region: a\n  region: b\n", "duplicate key 'region'", "line"),
    ("- trainingInput", "the document is", "name: value"),
    ("training_input:\n  scaleTier: BASIC\n", "training_input", "trainingInput"),
    ("labels:\n  Team: Vision\n", "labels.Team='Vision'", "lower-case"),
    ("labels:\n  team: a b\n", "labels.team='a b'", "lower-case"),
    ("\0", "not valid YAML", "YAML"),
    ("[" * 3000, "nested too deeply", "brackets"),
]

# Arguments after --, options of plan_job, problem, remedy.
COMMAND_LINES = [
    ([arg for arg in ARGUMENTS if "job-dir" not in arg], {}, "--job-dir is not given", "after `--`"),
    (ARGUMENTS[1:], {}, "--training_data_path is not given", "after `--`"),
    ([*ARGUMENTS, "--max_stepz=1"], {}, "--max_stepz", "--max-steps"),
    ([*ARGUMENTS, "--max_steps=1"], {}, "--max_steps is given twice", "one of the two"),
    ([*ARGUMENTS, "--optimizer_type=sgd"], {}, "optimizer_type='sgd'", "correct the value"),
    ([*ARGUMENTS[:3], "--max_steps=ten"], {}, "--max_steps=ten", "steps"),
    ([*ARGUMENTS[:3], "--warmup_steps=1000"], {}, "warmup_steps=1000", "lower warmup_steps"),
    (["data/train-*", *ARGUMENTS], {}, "'data/train-*' is not a flag", "--name=value"),
    (["--training_data_path=data/train-*", *ARGUMENTS[1:]], {}, "is a local path", "gs://"),
    (["--training_data_path=s3://b/train-*", *ARGUMENTS[1:]], {}, "s3://", "gs://"),
    ([*ARGUMENTS[:2], "--job-dir=runs/1"], {}, "job_dir=runs/1", "gs://"),
    (ARGUMENTS, {"strategy": "flex-start"}, "--strategy=flex-start", "GPU"),
    (ARGUMENTS, {"job_id": "1st"}, "'1st'", "begin with a letter"),
    (ARGUMENTS, {"job_id": "flowers job"}, "'flowers job'", "letters"),
    (ARGUMENTS, {"job_id": "x" * 129}, "xxx", "128"),
]


def submit(text, args=ARGUMENTS, job_id=JOB_ID, **settings):
    config = read_training_input(text, where="config.yaml")
    job = plan_job(job_id, args, replace(config, region=config.region or "us-central1"), **settings)
    return vertex_request(job, lambda machine: Images().of_training(machine.kind))


def check(error, problem, remedy):
    assert problem in f"{error.problem} {error.where}"
    assert error.remedy
    assert remedy in f"{error.remedy} {error.problem} {error.where}"


@pytest.mark.parametrize(("fields", "problem", "remedy"), CONFIGS, ids=[case[1] for case in CONFIGS])
def test_an_invalid_field_is_rejected_by_name_with_its_value_and_a_remedy(fields, problem, remedy):
    started = time.perf_counter()
    with pytest.raises(InvalidArgumentError) as caught:
        submit(yaml.safe_dump({"trainingInput": fields}))
    assert time.perf_counter() - started < 1
    check(caught.value, problem, remedy)
    assert "config.yaml" in caught.value.where


@pytest.mark.parametrize(("text", "problem", "remedy"), TEXTS, ids=[case[1] for case in TEXTS])
def test_an_invalid_document_is_rejected_with_its_line_or_field(text, problem, remedy):
    with pytest.raises(InvalidArgumentError) as caught:
        submit(text)
    check(caught.value, problem, remedy)


@pytest.mark.parametrize(
    ("args", "settings", "problem", "remedy"), COMMAND_LINES, ids=[case[2] for case in COMMAND_LINES]
)
def test_invalid_arguments_are_rejected_by_name_with_a_remedy(args, settings, problem, remedy):
    with pytest.raises(InvalidArgumentError) as caught:
        submit("", args, **settings)
    check(caught.value, problem, remedy)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (custom(accelerator=(T4, 1)), "only for the GPUs L4, A100, H100, H200 and B200"),
        (custom("g2-standard-8", workerType="g2-standard-16", workerCount=1), "equal machines in all pools"),
        (custom("g2-standard-8", scheduling={"maxRunningTime": "604801s"}), "at most seven days"),
    ],
)
def test_what_flex_start_excludes_is_rejected(fields, problem):
    text = yaml.safe_dump({"trainingInput": fields})
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        submit(text, strategy="flex-start")
    assert caught.value.remedy
    allowed = custom("g2-standard-8", workerType="g2-standard-8", workerCount=1)
    allowed["scheduling"] = {"maxRunningTime": "604800s"}
    submit(yaml.safe_dump({"trainingInput": allowed}), strategy="flex-start")


@pytest.mark.parametrize(
    ("fields", "target", "problem"),
    [
        (custom(workerType="n1-standard-8", workerCount=2), "kubeflow", "workerCount=2"),
        (custom("ct5lp-hightpu-4t", masterConfig={"tpuTopology": "4x4"}), "kubeflow", "slice of 4 hosts"),
        (custom("cloud-tpu", ("TPU_V3", 32)), "kubeflow", "slice of 4 hosts"),
    ],
)
def test_a_configuration_that_the_target_does_not_support_is_rejected(fields, target, problem):
    text = yaml.safe_dump({"trainingInput": fields})
    job = plan_job(JOB_ID, ARGUMENTS, read_training_input(text, where="config.yaml"))
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        pipeline_parameters(job, target, lambda machine: Images().of_training(machine.kind))
    assert caught.value.remedy
