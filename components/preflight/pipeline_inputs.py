"""The inputs of the pipelines, importable without KFP."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.validate.arguments import ValidateArguments

# In the order of a form: required inputs first.
PIPELINE_ARGUMENTS = (
    ConvertArguments,
    ExportArguments,
    RecipeTrainingArguments,
    ValidateArguments,
    EvaluateArguments,
    GateArguments,
    DeployArguments,
)
TUNE_PIPELINE_ARGUMENTS = (PIPELINE_ARGUMENTS[0], TuneArguments, *PIPELINE_ARGUMENTS[1:])
# Names of the pipelines' files.
TRAIN, TUNE, RETRAIN, BATCH_PREDICT = (
    *("image_classification", "image_classification_tune"),
    *("image_classification_retrain", "batch_predict"),
)
# The arguments of each pipeline's steps.
PIPELINES: Mapping[str, tuple[type[Any], ...]] = MappingProxyType(
    {
        TRAIN: PIPELINE_ARGUMENTS,
        TUNE: TUNE_PIPELINE_ARGUMENTS,
        RETRAIN: (*PIPELINE_ARGUMENTS, ServingModelArguments),
        BATCH_PREDICT: (BatchPredictArguments,),
    }
)
