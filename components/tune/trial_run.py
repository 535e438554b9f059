"""Runs one trial: trains, publishes the best model, and evaluates it as served on all validation images."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import VALIDATION
from imgpipe.components.common.errors import InterruptedRunError, MissingInputError
from imgpipe.components.common.mlflow import tracked_run
from imgpipe.components.common.provenance import PROVENANCE_NAME, read_provenance, set_deployment_uri
from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.evaluate.arguments import NO_CHAMPION, EvaluateArguments
from imgpipe.components.storage import Location, parse_location, publish_folder
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.katib_lines import KATIB_TRIAL_NAME, is_stopped_by_katib
from imgpipe.components.tune.job_dir import FEATURES_FOLDER

# Files in a trial's folder.
RESULT_FILE, LOG_FILE = "result.json", "log.txt"
_UNPUBLISHED, _EVALUATION = "model.unpublished", "evaluation"

# Gets all evaluations so far; returns the reason to end the trial, or an empty string to continue.
ShouldStop = Callable[[Sequence[dict[str, Any]]], str]


@dataclass(frozen=True)
class TrialTask:
    """Everything a trial's process needs.

    Attributes:
        trial: The trial's ID.
        arguments: The training arguments by name; ``job_dir`` is ``folder``.
        dataset: The folder that contains the dataset's manifest.
        folder: The trial's folder, for checkpoints and the log.
        model: Where the trial's model is published.
        threads: CPU cores that the trial may use; 0 = all.
        gpus: The value of CUDA_VISIBLE_DEVICES; None keeps the variable unchanged.
    """

    trial: int
    arguments: dict[str, Any]
    dataset: str
    folder: str
    model: str
    threads: int = 0
    gpus: str | None = None


def run_trial(task: TrialTask, should_stop: ShouldStop) -> dict[str, Any]:
    """Runs a trial and returns the result of the full evaluation, which is also in ``result.json``.

    An interrupted trial resumes from its checkpoints; one whose training is complete is only evaluated.

    Args:
        task: The trial.
        should_stop: Called after each evaluation during the training.

    Raises:
        PipelineError: if the training or the evaluation fails.
    """
    from imgpipe.components.common.tf_import import tf
    from imgpipe.components.train.train import train

    if task.threads:
        # Must be set before TensorFlow's first operation.
        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    folder, dataset = Path(task.folder), Path(task.dataset)
    unpublished = folder / _UNPUBLISHED
    if unpublished.exists():
        shutil.rmtree(unpublished)
    arguments = TrainingArguments(**task.arguments)
    with tracked_run(f"trial {task.trial}", nested=True) as tracked:
        trained = train(
            arguments,
            dataset,
            unpublished,
            stop=lambda evaluations: should_stop([evaluation.figures() for evaluation in evaluations]),
            features_folder=folder.parent / FEATURES_FOLDER,
        )
        final = _evaluate_model(task, unpublished, trained.best.step, folder / _EVALUATION)
        if tracked is not None:
            tracked.add_metrics({f"evaluate/{name}": value for name, value in final.items()})
    publish_model_at(unpublished, parse_location(task.model))
    # The training does not call should_stop after its last step.
    write_result(parse_location(folder), final, [evaluation.figures() for evaluation in trained.evaluations])
    shutil.rmtree(unpublished)
    return final


def run_remote_trial(task: TrialTask, should_stop: ShouldStop) -> dict[str, Any]:
    """Runs a trial on another machine; when SIGTERM stops it, its best model so far is still published.

    The task's folder and model may be remote. In distributed training, only the chief publishes
    and evaluates the model; the other workers return an empty result.

    Raises:
        PipelineError: if the training or the evaluation fails.
    """
    from imgpipe.components.train.train import train

    folder, target = parse_location(task.folder), parse_location(task.model)
    with tempfile.TemporaryDirectory(prefix="imgpipe-trial-") as name:
        unpublished, published = Path(name) / "unpublished", Path(name) / "published"

        def publish(better: Path) -> None:
            # A local copy, to be evaluated if the trial is stopped.
            publish_folder(better, published)
            set_deployment_uri(better, task.model)
            publish_model_at(better, target)

        try:
            trained = train(
                TrainingArguments(**task.arguments),
                Path(task.dataset),
                unpublished,
                publish=publish,
                stop=lambda evaluations: should_stop([evaluation.figures() for evaluation in evaluations]),
            )
        except InterruptedRunError:
            # Use what is left of the grace period to evaluate the published model. A Katib trial that was
            # evicted resumes in another pod.
            is_evicted = bool(os.environ.get(KATIB_TRIAL_NAME)) and not is_stopped_by_katib()
            if not is_evicted and (published / PROVENANCE_NAME).is_file():
                step = int(read_provenance(published)["best_step"])
                write_result(folder, _evaluate_model(task, published, step, Path(name) / _EVALUATION))
            raise
        if not unpublished.exists():
            # A worker of distributed training: the chief has the model.
            return {}
        set_deployment_uri(unpublished, task.model)
        publish_model_at(unpublished, target)
        final = _evaluate_model(task, unpublished, trained.best.step, Path(name) / _EVALUATION)
    write_result(folder, final)
    return final


def _evaluate_model(task: TrialTask, model: Path, step: int, folder: Path) -> dict[str, Any]:
    """Evaluates a trial's model on all validation images, through the signature that is served."""
    from imgpipe.components.evaluate.evaluate import evaluate

    measured = evaluate(
        Path(task.dataset),
        model,
        folder,
        EvaluateArguments(evaluation_split=VALIDATION, champion=NO_CHAMPION),
        test=False,
    ).metrics
    return {
        "step": step,
        "top_1_accuracy": measured.top_1_accuracy,
        "top_5_accuracy": measured.top_5_accuracy,
        "loss": measured.loss,
        "examples": measured.examples,
    }


def write_result(folder: Location, final: dict[str, Any], evaluations: Sequence[dict[str, Any]] = ()) -> None:
    """Writes the result of the full evaluation, which marks the trial as finished.

    Args:
        folder: The trial's folder.
        final: The result of the full evaluation.
        evaluations: All evaluations of the training.
    """
    result = {"final": final, "evaluations": list(evaluations)}
    (folder / RESULT_FILE).write(json.dumps(result).encode())


def read_result(folder: Location) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Returns the full evaluation and the training's evaluations; None if the trial has not finished.

    Args:
        folder: The trial's folder.
    """
    try:
        result = json.loads((folder / RESULT_FILE).read())
    except (OSError, ValueError, MissingInputError):
        return None
    return result["final"], result["evaluations"]


def warm_up() -> None:
    """Imports everything that ``run_trial`` needs, so that forked processes start quickly."""
    import imgpipe.components.evaluate.evaluate
    import imgpipe.components.train.train  # noqa: F401
