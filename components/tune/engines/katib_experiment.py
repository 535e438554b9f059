"""A tuning request as an Experiment of Katib's (kubeflow.org/v1beta1)."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kubeflow_katib_api import models

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.hyperparameters import Hyperparameters, TunedParameter
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.katib_lines import FILTER, KATIB_TRIAL_NAME
from imgpipe.components.tune.arguments import failed_trials_limit
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.search_space import grid_size

GROUP, VERSION = "kubeflow.org", "v1beta1"
MANAGED_BY = {"app.kubernetes.io/managed-by": "imgpipe"}
CONTAINER = "trial"
# tpe learns from the trials before and, unlike Katib's bayesianoptimization, searches logarithmic scales.
_ALGORITHMS = {"": "tpe", "GRID_SEARCH": "grid", "RANDOM_SEARCH": "random"}
_TYPES = {"DOUBLE": "double", "INTEGER": "int", "CATEGORICAL": "categorical", "DISCRETE": "discrete"}
# As the steps of the pipeline have it.
_KEY_FOLDER = "/var/run/imgpipe/storage"
_SHARED_MEMORY = "8Gi"
# Katib puts values into the template as they are: these would end a word of the shell, or the JSON.
_NOT_IN_VALUES = set("'\"\\$\n")
_TRIAL_NAME = "trialName"


def experiment(
    name: str,
    request: Hyperparameters,
    training: TrainingArguments,
    command: Sequence[str],
    words: Sequence[str],
    katib: KatibArguments,
    pod: TrialPodArguments,
    *,
    seed: int,
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the Experiment as the cluster takes it.

    Args:
        name: Of the Experiment.
        request: What is tuned.
        training: What all trials have in common.
        command: Of a trial.
        words: Of its command line, without what is tuned.
        katib: What each trial asks of the cluster.
        pod: Image and secret of the trials.
        seed: Of the choice of values, where the algorithm takes one.
        annotations: Of the Experiment.

    Raises:
        InvalidArgumentError: if a text to be tried cannot be put into a pod's command.
    """
    for parameter in request.parameters:
        for value in parameter.values if parameter.type == "CATEGORICAL" else ():
            if _NOT_IN_VALUES & set(value):
                raise InvalidArgumentError(
                    f"params: {parameter.name} may become {value!r}, which Katib cannot put into a command",
                    remedy="leave out quotes, backslashes, $ and line ends",
                )
    most = grid_size(request) if request.algorithm == "GRID_SEARCH" else request.max_trials
    trials = min(request.max_trials, most)
    spec = models.V1beta1ExperimentSpec(
        objective=models.V1beta1ObjectiveSpec(
            type=request.goal.lower(),
            objectiveMetricName=request.metric,
            # A trial counts by its best evaluation, as its best model is what is kept.
            metricStrategies=[models.V1beta1MetricStrategy(name=request.metric, value="max")],
        ),
        algorithm=_algorithm(request, seed),
        parameters=[_parameter(parameter) for parameter in request.parameters],
        maxTrialCount=trials,
        parallelTrialCount=min(request.max_parallel_trials, trials),
        maxFailedTrialCount=min(trials, failed_trials_limit(request.max_failed_trials, request.max_trials)),
        metricsCollectorSpec=models.V1beta1MetricsCollectorSpec(
            collector=models.V1beta1CollectorSpec(kind="StdOut"),
            source=models.V1beta1SourceSpec(
                filter=models.V1beta1FilterSpec(metricsFormat=[FILTER.format(metric=request.metric)])
            ),
        ),
        # The services of a search that is over are not needed any more.
        resumePolicy="Never",
        trialTemplate=_template(request, command, words, katib, pod),
    )
    if request.early_stopping:
        spec.early_stopping = _median_stop(request, training)
    made: dict[str, Any] = models.V1beta1Experiment(
        apiVersion=f"{GROUP}/{VERSION}", kind="Experiment", spec=spec
    ).to_dict()
    made["metadata"] = {"name": name, "labels": dict(MANAGED_BY), "annotations": dict(annotations)}
    return made


def reversed_parameters(request: Hyperparameters) -> dict[str, TunedParameter]:
    """Returns the parameters that Katib searches from the other end: it has no reverse logarithm."""
    return {
        one.name: one
        for one in request.parameters
        if one.scale == "UNIT_REVERSE_LOG_SCALE" and not one.values
    }


def _algorithm(request: Hyperparameters, seed: int) -> Any:
    settings = {}
    if request.algorithm != "GRID_SEARCH":
        settings["random_state"] = str(seed)
    if not request.algorithm:
        # Its own default, 20, makes a small search a random one.
        settings["n_startup_trials"] = str(min(20, max(2, request.max_trials // 3)))
    return models.V1beta1AlgorithmSpec(
        algorithmName=_ALGORITHMS[request.algorithm],
        algorithmSettings=[
            models.V1beta1AlgorithmSetting(name=name, value=value) for name, value in settings.items()
        ],
    )


def _median_stop(request: Hyperparameters, training: TrainingArguments) -> Any:
    """Returns Katib's rule: at one evaluation, a trial below the mean of the others until there is stopped.

    Its own defaults, three finished trials and the fourth evaluation, hardly stop anything in a small search.
    """
    evaluations = math.ceil(training.max_steps / training.resolved_steps_per_eval())
    settings = {
        "min_trials_required": str(max(1, min(3, request.max_trials // 3))),
        "start_step": str(max(1, min(4, evaluations // 3))),
    }
    return models.V1beta1EarlyStoppingSpec(
        algorithmName="medianstop",
        algorithmSettings=[
            models.V1beta1EarlyStoppingSetting(name=name, value=value) for name, value in settings.items()
        ],
    )


def _parameter(parameter: TunedParameter) -> Any:
    if parameter.values:
        values = [value if isinstance(value, str) else _number(value) for value in parameter.values]
        space = models.V1beta1FeasibleSpace(list=values)
    else:
        space = models.V1beta1FeasibleSpace(min=_number(parameter.minimum), max=_number(parameter.maximum))
        if parameter.type == "INTEGER":
            space.step = "1"
        if "LOG" in parameter.scale:
            space.distribution = "logUniform"
    return models.V1beta1ParameterSpec(
        name=parameter.name, parameterType=_TYPES[parameter.type], feasibleSpace=space
    )


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _template(
    request: Hyperparameters,
    command: Sequence[str],
    words: Sequence[str],
    katib: KatibArguments,
    pod: TrialPodArguments,
) -> Any:
    ranges = [
        f"{one.name}:{_number(one.minimum)}:{_number(one.maximum)}"
        for one in reversed_parameters(request).values()
    ]
    fixed = [*command, *words, *([f"--reversed_values={';'.join(ranges)}"] if ranges else [])]
    tuned = [f"'--{one.name}=${{trialParameters.{one.name}}}'" for one in request.parameters]
    # A shell of our own: Katib joins a command's words without quoting, and appends where the output goes.
    line = " ".join([*map(shlex.quote, fixed), *tuned])
    resources = {"cpu": katib.trial_cpu, "memory": katib.trial_memory}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": pod.trial_image,
        "command": ["sh", "-c", line],
        "env": [
            {"name": KATIB_TRIAL_NAME, "value": f"${{trialParameters.{_TRIAL_NAME}}}"},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
        ],
        "resources": {"requests": resources},
        # TensorFlow's data threads and NCCL share memory; a pod's own has 64 MB.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108 - Linux's place
    }
    volumes: list[dict[str, Any]] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}}
    ]
    if katib.trial_accelerator_type:
        container["resources"]["limits"] = {katib.trial_accelerator_type: str(katib.trial_accelerator_count)}
    if pod.trial_storage_secret:
        secret = pod.trial_storage_secret
        volumes.append({"name": "storage", "secret": {"secretName": secret, "optional": True}})
        container["volumeMounts"].append({"name": "storage", "mountPath": _KEY_FOLDER, "readOnly": True})
        reference = {"name": secret, "key": "path", "optional": True}
        container["env"].append(
            {"name": "GOOGLE_APPLICATION_CREDENTIALS", "valueFrom": {"secretKeyRef": reference}}
        )
    pod_spec: dict[str, Any] = {"containers": [container], "volumes": volumes, "restartPolicy": "Never"}
    if katib.node_selector():
        pod_spec["nodeSelector"] = katib.node_selector()
    if katib.tolerations():
        pod_spec["tolerations"] = katib.tolerations()
    if katib.trial_service_account:
        pod_spec["serviceAccountName"] = katib.trial_service_account
    # A sidecar of Istio's would keep the pod from ending.
    annotations = {"sidecar.istio.io/inject": "false"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            # A trial that fails, fails: with these values it would again.
            "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": annotations, "labels": dict(MANAGED_BY)},
                "spec": pod_spec,
            },
        },
    }
    parameters = {one.name: one.name for one in request.parameters}
    return models.V1beta1TrialTemplate(
        primaryContainerName=CONTAINER,
        successCondition='status.conditions.#(type=="Complete")#|#(status=="True")#',
        failureCondition='status.conditions.#(type=="Failed")#|#(status=="True")#',
        # The logs of trials that failed are read; the pods go with the Experiment.
        retain=True,
        trialParameters=[
            models.V1beta1TrialParameterSpec(name=name, reference=reference)
            for name, reference in {**parameters, _TRIAL_NAME: "${trialSpec.Name}"}.items()
        ],
        trialSpec=job,
    )
