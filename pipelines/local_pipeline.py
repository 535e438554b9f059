"""Prepares and runs a pipeline on this machine, for the command line and the Python API.

Everything that can be checked is checked by ``prepare_run``, before a file is written or a step is started.
Errors are ``PipelineError``; nothing is printed.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import from_values
from imgpipe.components.common.errors import (
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    PipelineError,
)
from imgpipe.components.common.log import event_line
from imgpipe.components.common.mlflow import FAILED_EVENT, tracked_run
from imgpipe.components.common.model_folder import local_model
from imgpipe.components.common.shared_arguments import LOCAL_TARGET, NO_TARGET
from imgpipe.components.common.user_settings import describe_ignored_cluster
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.evaluate.arguments import AUTO, NO_CHAMPION
from imgpipe.components.evaluate.slices_csv import read_slices_csv
from imgpipe.components.preflight.arguments import check_arguments
from imgpipe.components.preflight.inputs import check_inputs
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.serving_model.serving_model import check_model_type
from imgpipe.components.storage import LocalLocation, is_local, local_path, parse_location
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.train.recipes import AUTO as AUTO_RECIPE
from imgpipe.components.train.recipes import (
    RECIPES,
    SAMPLE_RECIPE,
    recipe_for,
    recipe_of_trials,
    recipe_values,
)
from imgpipe.components.train.resolution import earlier_network
from imgpipe.components.train.weight_files import check_weights, has_weights, networks_to_compare
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.default_space import DefaultSpace, default_space
from imgpipe.components.tune.job_dir import check_local, earlier_job_dir
from imgpipe.components.tune.search_space import largest_batch_size, read_request
from imgpipe.pipelines import compiled_pipelines
from imgpipe.pipelines.container_mounts import mounts_for
from imgpipe.pipelines.local_run import RunResult, run_locally
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder, check_claimable, claimed, is_unfinished, new_folder
from imgpipe.pipelines.run_settings import (
    DATA_ARGUMENTS,
    RunSettings,
    absolute_paths,
    changed_parameters,
    read_settings,
)
from imgpipe.pipelines.targets.local_docker import (
    ContainerSettings,
    check_engine,
    container_user,
    make_writable_folders,
)

# Where runs without a job_dir go, below the current folder.
RUNS_FOLDER = "imgpipe-runs"


@dataclass(frozen=True)
class LocalPipeline:
    """A pipeline that can run on this machine.

    Attributes:
        command: The command that runs it, without ``imgpipe``.
        name: The name of its compiled file.
        inputs: The arguments dataclasses of its inputs.
    """

    command: str
    name: str
    inputs: tuple[type[Any], ...]

    @property
    def file(self) -> Path:
        """The compiled YAML."""
        return compiled_pipelines.COMPILED / "local" / f"{self.name}.yaml"


TRAIN = LocalPipeline("run", compiled_pipelines.TRAIN, PIPELINE_ARGUMENTS)
RETRAIN = LocalPipeline(
    "run --retrain", compiled_pipelines.RETRAIN, (*PIPELINE_ARGUMENTS, ServingModelArguments)
)
TUNE = LocalPipeline("tune", compiled_pipelines.TUNE, TUNE_PIPELINE_ARGUMENTS)


@dataclass(frozen=True)
class ContainerOptions:
    """Runs each step in a container of its image.

    Attributes:
        network: The Docker network of the steps, or ``none``.
        mounts: Folders that the steps may read, in addition to those that arguments name.
    """

    network: str = "none"
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked and can start.

    Attributes:
        pipeline: The pipeline.
        parameters: All parameters that differ from the pipeline's defaults.
        folder: Where the output goes; not yet created.
        sample: Whether it trains on the digits sample, because no data was given.
        warnings: What the user should know before it starts, one sentence each.
        containers: How the steps' containers run; None = steps are processes.
        settings: What is recorded in the run's folder.
        continues: Whether it trains on with the checkpoints of a finished run.
        changes: In a folder with a run: the parameters that differ from those of that run.
        search_space: What a tuning run without a search space searches.
    """

    pipeline: LocalPipeline
    parameters: Mapping[str, Any]
    folder: RunFolder
    sample: bool
    settings: RunSettings
    warnings: tuple[str, ...] = ()
    containers: ContainerSettings | None = None
    continues: bool = False
    changes: tuple[str, ...] | None = None
    search_space: str = ""

    @property
    def title(self) -> str:
        """The command, the data, the model and the recipe; another line if it continues an earlier run."""
        data = "scikit-learn's digits (no data was given)"
        if not self.sample:
            names = ("images", "train_csv", "training_data_path")
            data = next(str(self.parameters[name]) for name in names if self.parameters.get(name))
        parameters, recipe = self.parameters, str(self.parameters["recipe"])
        start = f"imgpipe {self.pipeline.command}: {data}"
        if recipe == AUTO_RECIPE:
            # The deployed model decides.
            title = f"{start}, recipe auto"
        else:
            network = recipe_values(parameters)["model_type"]
            if self.pipeline is TRAIN and self.containers is None:
                networks = networks_to_compare(from_values(RecipeTrainingArguments, parameters))
                network = f"the best of {', '.join(networks)}" if networks else network
            title = f"{start}, {network}, recipe {recipe}: {RECIPES[recipe].description}"
        if self.search_space:
            title += f"\nno search space was given, so it is: {self.search_space}"
        if self.changes is None:
            return title
        changes = ", ".join(self.changes) or "nothing"
        return f"{title}\ncontinuing the run in {self.folder.job_dir}; changed: {changes}"


def prepare_run(
    pipeline: LocalPipeline,
    given: Mapping[str, Any],
    *,
    containers: ContainerOptions | None = None,
) -> PreparedRun:
    """Returns a run of a pipeline with all its parameters, checked; writes nothing.

    Args:
        pipeline: ``TRAIN``, ``RETRAIN`` or ``TUNE``.
        given: The parameters that the user set. Without ``job_dir``, the run gets a new folder below
            ``imgpipe-runs``; without data, it trains on the digits sample.
        containers: Runs the steps in containers; None = as processes.

    Raises:
        PipelineError: if an argument, or a combination of them, is not allowed, or an input is missing.
    """
    _check_not_empty(given)
    search = DefaultSpace("")
    if pipeline is TUNE and not (given.get("tune") or given.get("hyperparameters")):
        search = _default_space(given, in_containers=containers is not None)
        given = {**given, "tune": search.text}
    sample = not any(given.get(name) for name in DATA_ARGUMENTS)
    parameters = {"recipe": AUTO_RECIPE, **given}
    if sample and parameters["recipe"] == AUTO_RECIPE:
        parameters["recipe"] = SAMPLE_RECIPE
    elif pipeline is not RETRAIN:
        # A retraining's depends on the deployed model.
        parameters["recipe"] = recipe_of_trials(given) if pipeline is TUNE else recipe_for(given)
    earlier = None
    if pipeline is TUNE:
        # Before its local path is used.
        check_local(str(given.get("job_dir", "")))
    if "job_dir" in given:
        folder = RunFolder(local_path(given["job_dir"]).absolute())
        earlier = read_settings(folder)
    else:
        folder = new_folder(Path(RUNS_FOLDER).absolute(), time.strftime("%Y%m%d-%H%M%S"))
    parameters["job_dir"] = str(folder.job_dir)
    if sample:
        parameters["train_csv"] = str(folder.sample_data / "digits.csv")
    check_arguments(pipeline.name, "local", parameters)
    settings = RunSettings(
        pipeline.command,
        {name: value for name, value in absolute_paths(given).items() if name != "job_dir"},
        absolute_paths(parameters),
        dataclasses.asdict(containers) if containers else None,
    )
    warnings = [] if containers else list(filter(None, [describe_ignored_cluster()]))
    if search.left_out and containers is None:
        warnings.append(
            f"not searched: {', '.join(search.left_out)}, because their ImageNet weights are not on this "
            "machine and cannot be downloaded"
        )
    continues, changes = False, None
    if earlier is not None:
        continues = _check_continues(folder, earlier, settings)
        changes = changed_parameters(earlier.parameters, settings.parameters, pipeline.inputs)
    if pipeline is RETRAIN:
        warnings += _check_serving_model(from_values(ServingModelArguments, parameters))
    if pipeline is TUNE:
        request = read_request(from_values(TuneArguments, parameters))
        parameters.update(largest_batch_size(request))
        if request.resume_job:
            # The hyperparameters block may name it instead; containers need its absolute path.
            parameters["resume_previous_job_id"] = str(earlier_job_dir(request.resume_job, folder.job_dir))
    if parameters.get("slices_csv"):
        # Otherwise only the evaluate step would read it, after the training.
        read_slices_csv(parameters["slices_csv"])
    _check_champion(parameters.get("champion", AUTO))
    container_settings = None
    if containers is not None:
        parameters, container_settings = _in_containers(pipeline, parameters, containers)
    return PreparedRun(
        pipeline,
        parameters,
        folder,
        sample,
        settings,
        warnings=tuple(warnings),
        containers=container_settings,
        continues=continues,
        changes=None if changes is None else tuple(changes),
        search_space=search.text,
    )


def _default_space(given: Mapping[str, Any], *, in_containers: bool) -> DefaultSpace:
    """Returns the search space of a tuning run for which none is given.

    Raises:
        InvalidArgumentError: if a training argument is invalid.
    """
    from_values(RecipeTrainingArguments, given)
    is_sample = not any(given.get(name) for name in DATA_ARGUMENTS)
    recipe = given.get("recipe") or (SAMPLE_RECIPE if is_sample else AUTO_RECIPE)
    size = int(given.get("image_size", 0))

    def can_load(model_type: str) -> bool:
        # The weights in the images of containers are not known here.
        return not in_containers and has_weights(model_type, size)

    return default_space({**given, "recipe": recipe}, has_weights=can_load)


def _check_continues(folder: RunFolder, earlier: RunSettings, settings: RunSettings) -> bool:
    """Returns whether the folder has a finished run, which this run trains on.

    Raises:
        OutputError: if the folder has a finished run, and this run would not train longer.
    """
    if is_unfinished(folder) or not folder.model.exists():
        return False
    trained = earlier_network(LocalLocation(str(folder.model))).get("arguments", {})
    steps = [
        int(earlier.parameters.get("max_steps") or trained.get("max_steps", 0)),
        int(settings.parameters.get("max_steps", 0)),
    ]
    if settings.command != earlier.command or settings.command == TUNE.command or steps[1] <= steps[0]:
        raise OutputError(
            f"{str(folder.job_dir)!r} has a finished run of `imgpipe {earlier.command}`",
            remedy=f"use another job_dir, or max_steps above {steps[0]} to train its model longer",
        )
    return True


def run_prepared(run: PreparedRun, display: RunDisplay) -> RunResult:
    """Runs a prepared run to its end.

    Args:
        run: The run.
        display: Shows its progress.

    Raises:
        MissingInputError: if an argument names a file or folder that does not exist.
        OutputError: if the run's folder cannot be used: it holds other files, or another run uses it.
        PipelineError: a step's error, with the step and the log.
        InterruptedRunError: if this process got SIGHUP, SIGINT or SIGTERM; in a thread other than the main
            thread, signals are not handled here.
        UnavailableError: if the ImageNet weights are neither on this machine nor can be downloaded.
        InternalError: if the run ended without reporting a result or an error.
    """
    check_claimable(run.folder, continues=run.continues)
    # Checked again in the first step, but here before the run has a folder.
    check_inputs(
        {name: value for name, value in run.parameters.items() if not (run.sample and name in DATA_ARGUMENTS)}
    )
    if run.containers is None and run.pipeline is not RETRAIN and not _tunes_network(run):
        # The images of containers may contain weights, and a retraining starts from the deployed model.
        training = from_values(RecipeTrainingArguments, run.parameters)
        # A search trains the recipe's network.
        check_weights(training.resolved() if run.pipeline is TUNE else training)
    with claimed(run.folder, continues=run.continues):
        run.settings.write(run.folder)
        if run.containers:
            make_writable_folders(run.containers, run.folder.job_dir)
        if run.sample:
            # Imported here: scikit-learn takes seconds to load.
            from imgpipe.pipelines.sample_data import write_digits

            write_digits(run.folder.sample_data)
        try:
            with _tracked_run(run, display):
                return run_locally(
                    run.pipeline.file,
                    run.parameters,
                    run.folder,
                    display,
                    run.containers,
                    command=run.settings.command_line,
                )
        except PipelineError as error:
            _record_error(run.folder, error)
            raise


@contextmanager
def _tracked_run(run: PreparedRun, display: RunDisplay) -> Iterator[None]:
    """Creates a run for the steps on the MLflow server that the environment names, if any."""

    def warn(text: str) -> None:
        display.show({"event": FAILED_EVENT, "severity": "WARNING", "message": f"MLflow: {text}"})

    # Containers do not get the environment.
    with (
        nullcontext()
        if run.containers
        else tracked_run(
            run.folder.job_dir.name,
            tags={"imgpipe.job_dir": str(run.folder.job_dir), "imgpipe.command": run.settings.command_line},
            warn=warn,
        )
    ):
        yield


def _tunes_network(run: PreparedRun) -> bool:
    """Returns whether trials may need other weights than those that the arguments name."""
    if run.pipeline is not TUNE:
        return False
    tuned = read_request(from_values(TuneArguments, run.parameters)).parameters
    return any(parameter.name in ("model_type", "image_size") for parameter in tuned)


def _record_error(folder: RunFolder, error: PipelineError) -> None:
    """Writes the run's error to its log.

    Written while the folder is locked: the reason is known as soon as the folder is unlocked.
    """
    # A full disk has already been reported.
    with suppress(OSError), folder.log.open("a", encoding="utf-8") as log:
        log.write(
            event_line(
                "run_failed",
                f"the run failed: {error.problem}",
                severity="ERROR",
                problem=error.problem,
                exit_code=error.exit_code,
            )
        )


def _in_containers(
    pipeline: LocalPipeline, parameters: Mapping[str, Any], options: ContainerOptions
) -> tuple[dict[str, Any], ContainerSettings]:
    """Returns the parameters with absolute paths, and how the containers run.

    Raises:
        InvalidArgumentError: for a deploy_target that the local pipeline's images have no client for.
        UnavailableError: if the Docker engine does not respond.
        MissingInputError: if an image or a mounted folder does not exist.
    """
    target = parameters.get("deploy_target", NO_TARGET)
    if target not in (NO_TARGET, LOCAL_TARGET):
        raise InvalidArgumentError(
            f"deploy_target={target}: the containers of --runner docker have no client for it",
            remedy="omit --runner, or submit the pipeline to Kubeflow or Vertex AI",
        )
    absolute, read_only, writable = mounts_for(parameters, options.mounts)
    missing = [folder for folder in read_only if not Path(folder).is_dir()]
    if missing:
        raise MissingInputError(
            f"the folder to mount does not exist: {missing[0]!r}", remedy="check the path"
        )
    text = pipeline.file.read_text(encoding="utf-8")
    check_engine({line.split()[1] for line in text.splitlines() if line.strip().startswith("image: ")})
    return absolute, ContainerSettings(
        read_only, writable, options.network, container_user(), str(parameters["job_dir"])
    )


def _check_not_empty(given: Mapping[str, Any]) -> None:
    """Rejects an empty path, e.g. from ``--images "$DIR"`` when DIR is not set.

    Raises:
        InvalidArgumentError: naming the argument.
    """
    for name in (*DATA_ARGUMENTS, "job_dir"):
        if given.get(name) == "":
            raise InvalidArgumentError(f"{name} is empty", remedy="use a path, or omit it")


def _check_serving_model(arguments: ServingModelArguments) -> list[str]:
    """Checks a serving model on this machine as the serving_model step would; returns warnings.

    Raises:
        InvalidArgumentError: if the serving model is of another network.
    """
    if arguments.deploy_target != LOCAL_TARGET:
        return []
    try:
        location = find_serving_model(arguments)
    except MissingInputError:
        # The first model.
        return []
    check_model_type(location, arguments.model_type)
    if not arguments.pretrained_checkpoint_path:
        return []
    return [f"pretrained_checkpoint_path is ignored: the training starts from the deployed model, {location}"]


def _check_champion(champion: str) -> None:
    """Checks a champion on this machine, which the evaluate step reads only after the training.

    Raises:
        MissingInputError: if the model does not exist.
    """
    if champion not in (AUTO, NO_CHAMPION) and is_local(champion):
        with local_model(parse_location(champion)):
            pass
