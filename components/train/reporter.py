"""Reports evaluations to the log, files, TensorBoard and tuners."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.mlflow import MlflowRun
from imgpipe.components.common.tf_import import tf
from imgpipe.components.storage import Location, parse_location
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.job_dir import METRICS_FILE, TENSORBOARD_FOLDER
from imgpipe.components.train.katib_lines import KATIB_TRIAL_NAME, write_katib_line

# The objective of tuning, named as in the original algorithm.
OBJECTIVE = "top_1_accuracy"
# Set by Vertex AI only in trials of a hyperparameter tuning job.
_TRIAL_ID = "CLOUD_ML_TRIAL_ID"

Report = Callable[[Sequence[Evaluation]], None]


def reporter(job_dir: str, tracked: MlflowRun | None = None) -> Report:
    """Returns a function that is called with all evaluations so far and reports the last one.

    It writes a log line with ``name=value`` pairs. In a trial of Vertex AI it reports to the tuner, and in a
    trial of Katib it writes a line for the metrics collector. In ``job_dir`` it writes ``metrics.jsonl`` (one
    JSON object per evaluation; the file is rewritten each time, so that a resumed training run leaves no
    duplicates) and TensorBoard's files. A report that cannot be written never ends the training: a warning
    says so, once for each of them.

    Args:
        job_dir: Local, ``gs://`` or ``s3://``; empty to write no files.
        tracked: The run on an MLflow server that gets the evaluations, if any.
    """
    reports: list[Report] = [_log]
    if tracked is not None:
        reports.append(_each_once(partial(_track, tracked)))
    if job_dir:
        folder = parse_location(job_dir)
        reports += [
            _tolerant(lambda: _metrics_file(folder / METRICS_FILE), f"{folder / METRICS_FILE} is incomplete"),
            _tolerant(
                lambda: _tensorboard(folder / TENSORBOARD_FOLDER), "TensorBoard's files are incomplete"
            ),
        ]
    if os.environ.get(_TRIAL_ID) and find_spec("hypertune"):
        reports.append(
            _tolerant(
                _vertex_tuner,
                "Vertex AI gets no metric from this trial, and counts it as infeasible: only root "
                "can write its metric file, so use an image imgpipe-train-*-vertex",
            )
        )
    if os.environ.get(KATIB_TRIAL_NAME):
        reports.append(_each_once(lambda evaluation: write_katib_line(OBJECTIVE, evaluation.top_1_accuracy)))

    def report(evaluations: Sequence[Evaluation]) -> None:
        for report_to in reports:
            report_to(evaluations)

    return report


def _tolerant(make: Callable[[], Report], consequence: str) -> Report:
    """Returns a report that logs a warning, once, instead of failing.

    Args:
        make: Returns the report; called with the first evaluation.
        consequence: What the failure means, for the warning.
    """
    report: Report | None = None
    has_failed = False

    def report_or_warn(evaluations: Sequence[Evaluation]) -> None:
        nonlocal report, has_failed
        try:
            report = report or make()
            report(evaluations)
        except (OSError, PipelineError, tf.errors.OpError) as error:
            if not has_failed:
                has_failed = True
                reason = str(error).split("\n")[0]
                log_event(
                    "not_reported",
                    f"train: {consequence} ({reason}); the training continues",
                    severity="WARNING",
                )

    return report_or_warn


def _each_once(report: Callable[[Evaluation], None]) -> Report:
    """Reports each evaluation once; after a resume, those before it too.

    They may belong to another run of MLflow, and the collector in a new pod of Katib needs them.
    """
    reported = 0

    def report_new(evaluations: Sequence[Evaluation]) -> None:
        nonlocal reported
        for evaluation in evaluations[reported:]:
            report(evaluation)
        reported = len(evaluations)

    return report_new


def _track(run: MlflowRun, evaluation: Evaluation) -> None:
    values = evaluation.figures()
    run.add_metrics(values, values.pop("step"))
    run.flush()


def _log(evaluations: Sequence[Evaluation]) -> None:
    last = evaluations[-1].figures()
    step = last.pop("step")
    metrics = " ".join(f"{name}={value:.6g}" for name, value in last.items())
    # max() returns the first of equal items, i.e. the earliest.
    best = max(evaluations, key=lambda evaluation: evaluation.ranking_key)
    log_event(
        "evaluation",
        f"train: step {step}: {metrics}",
        training_step=step,
        best=best.ranking_key[0],
        best_step=best.step,
        **last,
    )


def _metrics_file(file: Location) -> Report:
    def write(evaluations: Sequence[Evaluation]) -> None:
        lines = (json.dumps(evaluation.figures()) + "\n" for evaluation in evaluations)
        file.write("".join(lines).encode())

    return write


def _tensorboard(folder: Location) -> Report:
    """Writes TensorBoard's files; those for a remote store are written locally and uploaded."""
    # Vertex AI displays the content of the folder that it sets.
    if configured := os.environ.get("AIP_TENSORBOARD_LOG_DIR"):
        folder = parse_location(configured)
    local_copy = None if folder.is_local else tempfile.TemporaryDirectory(prefix="imgpipe-")
    # The metadata of tf.summary.scalar(), which requires TensorBoard to be installed.
    summary = tf.compat.v1.SummaryMetadata
    metadata = summary(plugin_data=summary.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR")
    writer = tf.summary.create_file_writer(local_copy.name if local_copy else str(folder))

    def write(evaluations: Sequence[Evaluation]) -> None:
        with writer.as_default(step=evaluations[-1].step):
            values = evaluations[-1].figures()
            del values["step"]
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value), metadata=metadata)
        writer.flush()
        for path in Path(local_copy.name).iterdir() if local_copy else ():
            (folder / path.name).write(path.read_bytes())

    return write


def _vertex_tuner() -> Report:
    import hypertune

    tuner = hypertune.HyperTune()

    def write(evaluations: Sequence[Evaluation]) -> None:
        last = evaluations[-1]
        tuner.report_hyperparameter_tuning_metric(OBJECTIVE, last.top_1_accuracy, last.step)

    return write
