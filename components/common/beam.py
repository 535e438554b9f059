"""Runs pipelines on Apache Beam runners (Dataflow, Flink, Spark), for data too large for one machine."""

import re
import shlex
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.arguments import argument, check_fields
from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    InternalError,
    InvalidArgumentError,
    PipelineError,
    UnavailableError,
)

# Beam reports a worker's error as the text of its traceback, which ends with the error.
_MAX_ERROR_CHARACTERS = 2_000
# A process that has imported imgpipe.errors names it as the module of the errors.
_RAISED_IN_WORKER = re.compile(
    r"imgpipe\.(?:components\.common\.)?errors\.(?P<name>\w+): (?P<problem>.*)"
    r"(?:\nwhere: (?P<where>.*))?(?:\nwhat to do: (?P<remedy>.*))?"
)
_WHILE_RUNNING = re.compile(r" \[while running '.*")


@dataclass(frozen=True)
class RunnerArguments:
    """The Apache Beam runner that does the work, if any."""

    runner: str = argument(
        "",
        "Apache Beam runner that reads and writes the data, for more than one machine can handle: "
        "DirectRunner, DataflowRunner, FlinkRunner, SparkRunner or another one of Beam's. All its workers "
        "must see the input and the output, so usually gs:// or s3://. Needs the extra beam. Empty = this "
        "machine, without Beam, which is the fastest on one machine.",
    )
    project_id: str = argument("", "Google Cloud project in which Dataflow runs. Only together with runner.")
    runner_options: str = argument(
        "",
        "More options of the Beam runner, as on Beam's own command line, separated by spaces, e.g. "
        "'--region=us-central1 --temp_location=gs://bucket/temp'. Only together with runner.",
    )

    def __post_init__(self) -> None:
        """Checks that runner_options comes with a runner.

        ``project_id`` may come without one: the original converter always required it.
        """
        check_fields(self)
        if self.runner_options and not self.runner:
            raise InvalidArgumentError(
                f"--runner_options={self.runner_options} is given without --runner",
                remedy="add --runner, or remove --runner_options",
            )


def beam_pipeline(arguments: RunnerArguments) -> Callable[[Callable[[Any], object], str], None]:
    """Returns a function that runs a pipeline: given one that adds the transforms, and what a retry keeps.

    Args:
        arguments: With a runner.

    Raises:
        UnavailableError: if Apache Beam is not installed.
        InvalidArgumentError: if Beam does not know the runner, or the options do not parse.
    """
    runner, options = arguments.runner, arguments.runner_options
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners import create_runner
    except ImportError:
        raise UnavailableError(
            f"runner={runner!r} needs Apache Beam, which is not installed",
            remedy="install the extra beam, or remove --runner to use this machine only",
        ) from None
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise InvalidArgumentError(
            f"runner={runner!r} is not available in this installation of Apache Beam: {error}",
            remedy="use DirectRunner, DataflowRunner (needs apache-beam[gcp]), FlinkRunner or SparkRunner",
        ) from None
    try:
        flags = [f"--runner={runner}", *shlex.split(options)]
    except ValueError as error:
        raise InvalidArgumentError(
            f"runner_options={options!r} cannot be parsed: {error}",
            remedy="write options as --name=value, separated by spaces",
        ) from None
    if arguments.project_id:
        flags.append(f"--project={arguments.project_id}")

    def run(add_transforms: Callable[[Any], object], kept: str) -> None:
        try:
            with apache_beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
                add_transforms(pipeline)
        except Exception as error:
            raise _runner_error(runner, error, kept) from error

    return run


def _runner_error(runner: str, error: Exception, kept: str) -> PipelineError:
    """Returns the error of a failed pipeline: a worker's if a retry can help, else an internal one.

    Not a worker's permanent error: after it, the convert step would remove the shards of all other workers.
    """
    again = f"fix the cause and run the same command again{': ' if kept else ''}{kept}"
    # With the errors before it: a runner in this process raises a copy of the worker's without the remedy.
    text = "".join(traceback.format_exception(error))
    raised = _RAISED_IN_WORKER.search(_WHILE_RUNNING.sub("", text))
    classes = {error_class.__name__: error_class for error_class in ERROR_CLASSES}
    if raised is None or not classes.get(raised["name"], InternalError).retry_can_help:
        return InternalError(
            f"the runner {runner} failed: {str(error)[-_MAX_ERROR_CHARACTERS:]}",
            remedy=f"see the runner's own log, {again}",
        )
    return classes[raised["name"]](
        f"a worker of {runner} failed: {raised['problem']}",
        where=raised["where"] or "",
        remedy=f"{raised['remedy']}; {again}" if raised["remedy"] else f"see the runner's own log, {again}",
    )
