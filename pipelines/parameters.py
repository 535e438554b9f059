"""The inputs of the pipelines, importable without KFP."""

from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.validate.arguments import ValidateArguments

# In the order of a form: required inputs first.
PIPELINE_ARGUMENTS = (
    ConvertArguments,
    ExportArguments,
    TrainingArguments,
    ValidateArguments,
    EvaluateArguments,
    GateArguments,
    DeployArguments,
)
TUNE_PIPELINE_ARGUMENTS = (PIPELINE_ARGUMENTS[0], TuneArguments, *PIPELINE_ARGUMENTS[1:])
