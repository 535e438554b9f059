"""Builds Katib's Experiments (kubeflow.org/v1beta1)."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kubeflow_katib_api import models

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.hyperparameters import GOAL, METRIC, Hyperparameters, TunedParameter
from imgpipe.components.platforms.kubernetes.client import MANAGED_BY
from imgpipe.components.platforms.kubernetes.katib import GROUP, VERSION

CONTAINER = "trial"
# The last line of the output of a trial that failed, in front of its exit code.
EXIT_CODE_LINE = "the process ended with exit code "
# Katib replaces it with the trial's name.
TRIAL_NAME = "${trialParameters.trialName}"
_TYPES = {"DOUBLE": "double", "INTEGER": "int", "CATEGORICAL": "categorical", "DISCRETE": "discrete"}
_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
# Katib inserts values into the template without quoting them: these would end a shell word or a JSON string.
_INVALID_IN_VALUES = set("'\"\\$\n")
# n_startup_trials of multivariate-tpe.
_DEFAULT_RANDOM_TRIALS = 20


_TPE = "multivariate-tpe"
_ALGORITHMS = {
    # Optuna's. Katib's tpe is hyperopt's: it suggests the same point twice to parallel trials, and the ends
    # of an integer range half as often. Katib's bayesianoptimization does not search logarithmic scales.
    "": _TPE,
    "GRID_SEARCH": "grid",
    "RANDOM_SEARCH": "random",
}


def experiment(
    name: str,
    request: Hyperparameters,
    pod: Mapping[str, Any],
    *,
    max_trials: int,
    max_failed_trials: int,
    evaluations: int,
    metrics_format: str,
    seed: int,
) -> dict[str, Any]:
    """Returns an Experiment.

    Args:
        name: Name of the Experiment.
        request: The search.
        pod: PodSpec of the trials; its container is ``CONTAINER``, its command comes from ``trial_command``.
        max_trials: Number of trials.
        max_failed_trials: Number of failed trials after which the search ends.
        evaluations: Evaluations of a trial that is not stopped early.
        metrics_format: Regular expression of the lines that report a metric.
        seed: Seed of the algorithm.
    """
    spec = models.V1beta1ExperimentSpec(
        objective=models.V1beta1ObjectiveSpec(
            type=GOAL.lower(),
            objectiveMetricName=METRIC,
            # The best evaluation of a trial counts: its best model is the one that is kept.
            metricStrategies=[models.V1beta1MetricStrategy(name=METRIC, value="max")],
        ),
        algorithm=_algorithm(request, seed),
        parameters=[_parameter(parameter) for parameter in request.parameters],
        maxTrialCount=max_trials,
        parallelTrialCount=min(request.max_parallel_trials, max_trials),
        maxFailedTrialCount=min(max_failed_trials, max_trials),
        metricsCollectorSpec=models.V1beta1MetricsCollectorSpec(
            collector=models.V1beta1CollectorSpec(kind="StdOut"),
            source=models.V1beta1SourceSpec(filter=models.V1beta1FilterSpec(metricsFormat=[metrics_format])),
        ),
        # Deletes the suggestion service when the search has ended.
        resumePolicy="Never",
        trialTemplate=_trial_template(request, pod),
    )
    if request.early_stopping:
        spec.early_stopping = _median_stop(request, evaluations)
    body: dict[str, Any] = models.V1beta1Experiment(
        apiVersion=f"{GROUP}/{VERSION}", kind="Experiment", spec=spec
    ).to_dict()
    body["metadata"] = {"name": name, "labels": dict(MANAGED_BY), "annotations": {}}
    return body


def trial_command(fixed: Sequence[str], request: Hyperparameters) -> list[str]:
    """Returns the command of a trial.

    Args:
        fixed: The words that all trials have in common.
        request: The parameters that are appended, with the values that Katib inserts.

    Raises:
        InvalidArgumentError: if a value cannot be inserted into a command.
    """
    for parameter in request.parameters:
        for value in parameter.values if parameter.type == "CATEGORICAL" else ():
            if _INVALID_IN_VALUES & set(value):
                raise InvalidArgumentError(
                    f"params: Katib cannot insert the value {value!r} of {parameter.name} into a command",
                    remedy="remove quotes, backslashes, $ and line breaks from the value",
                )
    ranges = [
        f"{parameter.name}:{_number(parameter.minimum)}:{_number(parameter.maximum)}"
        for parameter in reversed_parameters(request).values()
    ]
    words = [*fixed, *([f"--reversed_values={';'.join(ranges)}"] if ranges else [])]
    names = [parameter.name for parameter in request.parameters]
    tuned = [f"'--{name}=${{trialParameters.{name}}}'" for name in names]
    # Katib joins the words of a command without quoting and appends a redirection: a shell of our own keeps
    # the words apart. Its process gets the pod's SIGTERM, Katib's that of its only child; both must reach
    # Python, and the shell must outlive it to write Katib's marker file. A `wait` that the signal interrupts
    # is repeated.
    # Kubernetes replaces $(NAME) in a command by a variable, and $$ by $.
    quoted = [shlex.quote(word).replace("$", "$$") for word in words]
    command = " ".join([*quoted, *tuned])
    script = (
        f"{{ {command} & child=$!; trap 'kill -TERM $child' TERM; wait $child; code=$?; "
        "while kill -0 $child 2>/dev/null; do wait $child; code=$?; done; "
        f'[ $code = 0 ] || echo "{EXIT_CODE_LINE}$code"; ( exit $code ); }}'
    )
    return ["sh", "-c", script]


def reversed_parameters(request: Hyperparameters) -> dict[str, TunedParameter]:
    """Returns the parameters whose mirror image is searched: Katib has no reverse logarithmic scale."""
    return {
        parameter.name: parameter
        for parameter in request.parameters
        if parameter.scale == "UNIT_REVERSE_LOG_SCALE" and not parameter.values
    }


def _algorithm(request: Hyperparameters, seed: int) -> Any:
    """Returns the algorithm; its service refuses settings that it does not know.

    They are in pkg/suggestion/v1beta1/optuna/service.py and pkg/earlystopping/v1beta1/medianstop/service.py
    of kubeflow/katib v0.19.0.
    """
    name, settings = _ALGORITHMS[request.algorithm], {"random_state": seed}
    if name == _TPE:
        # With the default, a small search would be a random search.
        settings["n_startup_trials"] = min(_DEFAULT_RANDOM_TRIALS, max(2, request.max_trials // 3))
    return models.V1beta1AlgorithmSpec(
        algorithmName=name,
        algorithmSettings=[
            models.V1beta1AlgorithmSetting(name=key, value=str(value)) for key, value in settings.items()
        ],
    )


def _median_stop(request: Hyperparameters, evaluations: int) -> Any:
    """Returns the rule that stops a trial that is below the other trials' mean at one evaluation.

    Katib's defaults, three finished trials and the fourth evaluation, are too late in a small search.
    """
    settings = {
        "min_trials_required": max(1, min(3, request.max_trials // 3)),
        "start_step": max(1, min(4, evaluations // 3)),
    }
    return models.V1beta1EarlyStoppingSpec(
        algorithmName="medianstop",
        algorithmSettings=[
            models.V1beta1EarlyStoppingSetting(name=name, value=str(value))
            for name, value in settings.items()
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


def _trial_template(request: Hyperparameters, pod: Mapping[str, Any]) -> Any:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            # With the same values, a failed trial would fail again.
            "backoffLimit": 0,
            # A pod that was evicted or preempted is replaced, and resumes from its checkpoint.
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
            },
            "template": {
                # Istio's sidecar would keep the pod from ending. Its versions read the one or the other.
                "metadata": {"annotations": dict(_NO_SIDECAR), "labels": {**MANAGED_BY, **_NO_SIDECAR}},
                "spec": pod,
            },
        },
    }
    references = {parameter.name: parameter.name for parameter in request.parameters}
    references["trialName"] = "${trialSpec.Name}"
    return models.V1beta1TrialTemplate(
        primaryContainerName=CONTAINER,
        successCondition='status.conditions.#(type=="Complete")#|#(status=="True")#',
        failureCondition='status.conditions.#(type=="Failed")#|#(status=="True")#',
        # Keeps the pods of failed trials, for their logs, until the Experiment is deleted.
        retain=True,
        trialParameters=[
            models.V1beta1TrialParameterSpec(name=name, reference=reference)
            for name, reference in references.items()
        ],
        trialSpec=job,
    )
