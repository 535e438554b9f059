"""A tuning request as Vertex AI's StudySpec, in the JSON form of its REST interface."""

from typing import Any

from imgpipe.components.common.hyperparameters import Hyperparameters, TunedParameter


def study_spec(request: Hyperparameters) -> dict[str, Any]:
    """Returns the StudySpec of a request.

    A trial counts by its best evaluation, as its best model is what is kept. Early stopping is by the median
    of the other trials at the same step.
    """
    spec: dict[str, Any] = {
        "metrics": [{"metricId": request.metric, "goal": request.goal}],
        "parameters": [_parameter_spec(parameter) for parameter in request.parameters],
        "measurementSelectionType": "BEST_MEASUREMENT",
    }
    if request.algorithm:
        spec["algorithm"] = request.algorithm
    if request.early_stopping:
        # By steps: trials on machines of unequal speed stay comparable.
        spec["medianAutomatedStoppingSpec"] = {"useElapsedDuration": False}
    return spec


def _parameter_spec(parameter: TunedParameter) -> dict[str, Any]:
    spec: dict[str, Any] = {"parameterId": parameter.name}
    if parameter.scale != "NONE":
        spec["scaleType"] = parameter.scale
    if parameter.type == "DOUBLE":
        spec["doubleValueSpec"] = {"minValue": parameter.minimum, "maxValue": parameter.maximum}
    elif parameter.type == "INTEGER":
        spec["integerValueSpec"] = {"minValue": int(parameter.minimum), "maxValue": int(parameter.maximum)}
    elif parameter.type == "CATEGORICAL":
        spec["categoricalValueSpec"] = {"values": list(parameter.values)}
    else:
        spec["discreteValueSpec"] = {"values": list(parameter.values)}
    return spec
