"""Any content of config.yaml is accepted, or rejected with field and remedy."""

import json
from dataclasses import replace

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.ai_platform import plan_job, vertex_request
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.training_input import TrainingInput, read_training_input
from tests.servers.configs import ARGUMENTS, JOB_ID, TUNING_CONFIG

NAMES = [
    *(
        "trainingInput",
        "jobId",
        "labels",
        "scaleTier",
        "masterType",
        "workerType",
        "workerCount",
        "masterConfig",
    ),
    *(
        "imageUri",
        "acceleratorConfig",
        "type",
        "count",
        "diskConfig",
        "bootDiskSizeGb",
        "hyperparameters",
        "goal",
    ),
    *("params", "parameterName", "minValue", "maxValue", "scaleType", "categoricalValues", "discreteValues"),
    *(
        "maxTrials",
        "maxParallelTrials",
        "scheduling",
        "maxRunningTime",
        "args",
        "region",
        "network",
        "unknown",
    ),
]
WORDS = [
    *("CUSTOM", "BASIC", "n1-standard-8", "cloud_tpu", "TPU_V2", "NVIDIA_TESLA_T4", "DOUBLE", "INTEGER"),
    *("DISCRETE", "CATEGORICAL", "UNIT_LOG_SCALE", "weight_decay", "seed", "3600s", "--seed=1", "", "\u2028"),
]
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(WORDS),
        st.text("aä1.- ", max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=20,
)


def submit(text):
    config = read_training_input(text, where="config.yaml")
    job = plan_job(JOB_ID, ARGUMENTS, replace(config, region="us-central1"))
    return vertex_request(job, lambda machine: Images().of_training(machine.kind))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=6))
def test_any_training_input_is_sent_or_rejected_with_a_remedy(fields):
    try:
        _, body = submit(json.dumps({"trainingInput": fields}))
    except InvalidArgumentError as error:
        assert error.problem  # noqa: PT017 - rejection is one of two valid outcomes
        assert error.remedy  # noqa: PT017
        return
    json.dumps(body, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200))
def test_any_text_is_accepted_or_rejected(text):
    try:
        read = read_training_input(text, where="config.yaml")
    except InvalidArgumentError as error:
        assert error.where.startswith("config.yaml")  # noqa: PT017
        return
    assert isinstance(read, TrainingInput)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_changed_value_in_a_valid_config_never_crashes(data):
    document = yaml.safe_load(TUNING_CONFIG)
    block, key = document, "trainingInput"
    while isinstance(block[key], dict) and data.draw(st.booleans()):
        block = block[key]
        key = data.draw(st.sampled_from(sorted(block)))
    block[key] = data.draw(values)
    try:
        submit(json.dumps(document))
    except InvalidArgumentError as error:
        assert error.remedy  # noqa: PT017
