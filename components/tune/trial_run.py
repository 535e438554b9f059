"""One trial: trains, evaluates the best model on all validation images as it is served, publishes it."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.common.dataset import VALIDATION
from components.common.errors import InterruptedRunError
from components.common.provenance import PROVENANCE_NAME, read_provenance
from components.common.storage import publish_folder, written_whole
from components.evaluate.arguments import NO_CHAMPION, EvaluateArguments
from components.train.arguments import TrainingArguments

# In a trial's folder.
RESULT_FILE, LOG_FILE, TASK_FILE = "result.json", "log.txt", "task.json"
_UNPUBLISHED, _EVALUATION = "model.unpublished", "evaluation"

WORK = "components.tune.trial_run:run_trial"

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
    from components.common.quiet_tensorflow import tf
    from components.train.train import train

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
        arguments, dataset, unpublished, stop=lambda evaluations: stop([asdict(one) for one in evaluations])
    )
    final = _evaluated(task, unpublished, trained.best.step)
    publish_folder(unpublished, Path(task.model))
    # The training asks no one after its last step.
    write_result(folder, final, [asdict(one) for one in trained.evaluations])
    shutil.rmtree(unpublished)
    return final


def run_remote_trial(task: TrialTask, stop: Stop) -> dict[str, Any]:
    """Runs a trial that somebody else may stop with SIGTERM: its best model so far is published all the same.

    Raises:
        PipelineError: as ``run_trial`` does.
    """
    from components.train.train import train

    folder, model = Path(task.folder), Path(task.model)
    unpublished = folder / _UNPUBLISHED
    if unpublished.exists():
        shutil.rmtree(unpublished)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        trained = train(
            TrainingArguments(**task.arguments),
            Path(task.dataset),
            unpublished,
            publish=lambda better: publish_folder(better, model),
            stop=lambda evaluations: stop([asdict(one) for one in evaluations]),
        )
    except InterruptedRunError:
        # It was published; with luck there is time to measure it.
        if (model / PROVENANCE_NAME).is_file():
            step = int(read_provenance(model)["best_step"])
            write_result(folder, _evaluated(task, model, step))
        raise
    publish_folder(unpublished, model)
    shutil.rmtree(unpublished)
    final = _evaluated(task, model, trained.best.step)
    write_result(folder, final)
    return final


def _evaluated(task: TrialTask, model: Path, step: int) -> dict[str, Any]:
    """Measures a model as that of every trial: on all validation images, as they are served."""
    from components.evaluate.evaluate import EvaluationFiles, evaluate

    folder = Path(task.folder) / _EVALUATION
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


def write_result(folder: Path, final: dict[str, Any], evaluations: Sequence[dict[str, Any]] = ()) -> None:
    """Writes what the full evaluation found, by which a trial that is over is known to be.

    Args:
        folder: Of the trial.
        final: The full evaluation.
        evaluations: All of the training.
    """
    with written_whole(folder / RESULT_FILE) as temporary:
        temporary.write_text(json.dumps({"final": final, "evaluations": list(evaluations)}), encoding="utf-8")


def read_result(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Returns the full evaluation and all of the training; None if the trial is not over."""
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result["final"], result["evaluations"]


def warm_up() -> None:
    """Loads what ``run_trial`` needs, so that processes forked from this one have it."""
    import components.evaluate.evaluate
    import components.train.train  # noqa: F401
