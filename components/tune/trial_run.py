"""One trial: trains, evaluates the best model on all validation images as it is served, publishes it."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import VALIDATION
from imgpipe.components.common.errors import InterruptedRunError, MissingInputError
from imgpipe.components.common.provenance import PROVENANCE_NAME, read_provenance
from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.evaluate.arguments import NO_CHAMPION, EvaluateArguments
from imgpipe.components.storage.files import publish_folder, written_whole
from imgpipe.components.storage.folders import folder_at
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.job_dir import FEATURES_FOLDER

# In a trial's folder.
RESULT_FILE, LOG_FILE, TASK_FILE = "result.json", "log.txt", "task.json"
_UNPUBLISHED, _EVALUATION = "model.unpublished", "evaluation"

WORK = "imgpipe.components.tune.trial_run:run_trial"

# Gets all evaluations so far; a text is the reason to end the trial.
Stop = Callable[[Sequence[dict[str, Any]]], str]


@dataclass(frozen=True)
class TrialTask:
    """What a trial's process needs to know: JSON values.

    Attributes:
        trial: Its id.
        arguments: Of its training, by name; ``job_dir`` is ``folder``.
        dataset: The folder with the data set's manifest.
        folder: The trial's own, for checkpoints and log.
        model: Where its model is published.
        threads: Processor cores that it may keep busy; 0 = all.
        gpus: Value of CUDA_VISIBLE_DEVICES; None leaves the variable as it is.
        work: What is done, ``module:function``: called as ``run_trial`` is.
    """

    trial: int
    arguments: dict[str, Any]
    dataset: str
    folder: str
    model: str
    threads: int = 0
    gpus: str | None = None
    work: str = WORK

    def write(self) -> Path:
        """Writes the task into the trial's folder and returns the file."""
        path = Path(self.folder) / TASK_FILE
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return path


def read_task(path: Path) -> TrialTask:
    """Reads what ``TrialTask.write`` wrote."""
    return TrialTask(**json.loads(path.read_text(encoding="utf-8")))


def run_trial(task: TrialTask, stop: Stop) -> dict[str, Any]:
    """Runs a trial and returns what the full evaluation found; it is in ``result.json``, too.

    A trial that was interrupted goes on from its checkpoints, and one that is over is only evaluated.

    Args:
        task: Of the trial.
        stop: Asked after each evaluation of the training.

    Raises:
        PipelineError: as the training and the evaluation do.
    """
    from imgpipe.components.common.tf_import import tf
    from imgpipe.components.train.train import train

    if task.threads:
        # Before TensorFlow is used.
        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    folder, dataset = Path(task.folder), Path(task.dataset)
    unpublished = folder / _UNPUBLISHED
    if unpublished.exists():
        shutil.rmtree(unpublished)
    arguments = TrainingArguments(**task.arguments)
    trained = train(
        arguments,
        dataset,
        unpublished,
        stop=lambda evaluations: stop([asdict(one) for one in evaluations]),
        features_folder=folder.parent / FEATURES_FOLDER,
    )
    final = _evaluated(task, unpublished, trained.best.step, folder / _EVALUATION)
    publish_folder(unpublished, Path(task.model))
    # The training asks no one after its last step.
    write_result(folder, final, [asdict(one) for one in trained.evaluations])
    shutil.rmtree(unpublished)
    return final


def run_remote_trial(task: TrialTask, stop: Stop) -> dict[str, Any]:
    """Runs a trial that somebody else may stop with SIGTERM: its best model so far is published all the same.

    The task's folder and model may be ``gs://`` locations. Where several machines train together, the chief
    alone publishes and measures; the others return nothing.

    Raises:
        PipelineError: as ``run_trial`` does.
    """
    from imgpipe.components.train.train import train

    with tempfile.TemporaryDirectory(prefix="imgpipe-trial-") as name:
        unpublished, published = Path(name) / "unpublished", Path(name) / "published"

        def publish(better: Path) -> None:
            # Kept here as well: to be measured if the trial is stopped.
            publish_folder(better, published)
            publish_model_at(better, task.model)

        try:
            trained = train(
                TrainingArguments(**task.arguments),
                Path(task.dataset),
                unpublished,
                publish=publish,
                stop=lambda evaluations: stop([asdict(one) for one in evaluations]),
            )
        except InterruptedRunError:
            # With luck there is time to measure what was published.
            if (published / PROVENANCE_NAME).is_file():
                step = int(read_provenance(published)["best_step"])
                write_result(task.folder, _evaluated(task, published, step, Path(name) / _EVALUATION))
            raise
        if not unpublished.exists():
            # One of several machines of a trial: the chief has it.
            return {}
        publish_model_at(unpublished, task.model)
        final = _evaluated(task, unpublished, trained.best.step, Path(name) / _EVALUATION)
    write_result(task.folder, final)
    return final


def _evaluated(task: TrialTask, model: Path, step: int, folder: Path) -> dict[str, Any]:
    """Measures a model as that of every trial: on all validation images, as they are served."""
    from imgpipe.components.evaluate.evaluate import EvaluationFiles, evaluate

    measured = evaluate(
        Path(task.dataset),
        model,
        EvaluationFiles(folder, folder / "report.html"),
        EvaluateArguments(evaluation_split=VALIDATION, champion=NO_CHAMPION),
    ).metrics
    return {
        "step": step,
        "top_1_accuracy": measured.top_1_accuracy,
        "top_5_accuracy": measured.top_5_accuracy,
        "loss": measured.loss,
        "examples": measured.examples,
    }


def write_result(
    folder: Path | str, final: dict[str, Any], evaluations: Sequence[dict[str, Any]] = ()
) -> None:
    """Writes what the full evaluation found, by which a trial that is over is known to be.

    Args:
        folder: Of the trial, local or ``gs://``.
        final: The full evaluation.
        evaluations: All of the training.
    """
    result = {"final": final, "evaluations": list(evaluations)}
    folder_at(str(folder)).write(RESULT_FILE, json.dumps(result).encode())


def read_result(folder: Path | str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Returns the full evaluation and all of the training; None if the trial is not over.

    Args:
        folder: Of the trial, local or ``gs://``.
    """
    try:
        result = json.loads(folder_at(str(folder)).read(RESULT_FILE))
    except (OSError, ValueError, MissingInputError):
        return None
    return result["final"], result["evaluations"]


def warm_up() -> None:
    """Loads what ``run_trial`` needs, so that processes forked from this one have it."""
    import imgpipe.components.evaluate.evaluate
    import imgpipe.components.train.train  # noqa: F401
