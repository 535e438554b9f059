"""The inputs of the pipelines, known without loading KFP."""

from components.convert.arguments import ConvertArguments
from components.deploy.arguments import DeployArguments
from components.evaluate.arguments import EvaluateArguments
from components.export.arguments import ExportArguments
from components.gate.arguments import GateArguments
from components.train.arguments import TrainingArguments
from components.tune.arguments import TuneArguments
from components.validate.arguments import ValidateArguments

# In the order of a form: what a user must give, then what they may change.
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
