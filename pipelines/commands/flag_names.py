"""Writes arguments in a message as the flags of the command line."""

import dataclasses
import re
from functools import cache

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.serve.arguments import ServeArguments

# Not part of a path, a flag or a dotted name, as in job_dir/model, --job-dir and hyperparameters.params, nor
# the value of --tune, nor of Python.
_BEFORE, _AFTER = r"(?<![-./\w])(?<!--tune )(?<!in Python: )", r"(?![-/\w])"


def with_flags(text: str) -> str:
    """Returns a message with each argument as a flag: ``--max-steps 0`` for ``max_steps=0``.

    A name without an underscore may also be a word, e.g. images: it becomes a flag only before ``=``, after
    ``set``, and before ``is missing``.
    """
    compound, words = _names()
    text = re.sub(rf"{_BEFORE}({compound}|{words})=(?=\S)", lambda match: f"{_flag(match[1])} ", text)
    text = re.sub(rf"{_BEFORE}({compound}){_AFTER}", lambda match: _flag(match[1]), text)
    text = re.sub(rf"\b(set|omit) ({words})(?= to | or |,|$)", r"\1 --\2", text, flags=re.MULTILINE)
    return re.sub(rf"^({words})(?= is missing)", r"--\1", text)


@cache
def _names() -> tuple[str, str]:
    """Returns two patterns: the arguments' names with an underscore, and those without."""
    classes = (*TUNE_PIPELINE_ARGUMENTS, BatchPredictArguments, ServeArguments)
    # The longest first: a pattern takes the first that fits.
    names = sorted({field.name for kind in classes for field in dataclasses.fields(kind)}, key=len)[::-1]
    return "|".join(name for name in names if "_" in name), "|".join(
        name for name in names if "_" not in name
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
