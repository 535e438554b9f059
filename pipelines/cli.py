"""The command line: ``imgpipe``."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import description_of, flat_fields, from_values
from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.common.labels import is_unicode
from imgpipe.components.common.model_versions import local_model, model_folder_at
from imgpipe.components.common.shared_arguments import LOCAL_TARGET
from imgpipe.components.deploy.serving import serving_location
from imgpipe.components.evaluate.arguments import AUTO, NO_CHAMPION
from imgpipe.components.evaluate.slices_csv import read_slices_csv
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.serving_model.serving_model import check_network
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import absolute_location, local_path
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.job_dir import check_on_this_machine, earlier_job_dir
from imgpipe.components.tune.search_space import block_in
from imgpipe.pipelines.commands.check import check
from imgpipe.pipelines.commands.completion import completion
from imgpipe.pipelines.commands.jobs import cancel, describe, list_, stream_logs
from imgpipe.pipelines.commands.output import events_told
from imgpipe.pipelines.commands.schedule import schedule
from imgpipe.pipelines.commands.submit import migrate, submit
from imgpipe.pipelines.container_mounts import seen_from_containers
from imgpipe.pipelines.local_run import RunResult, StepFailedError, run_locally
from imgpipe.pipelines.local_step import run_step
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.recipes import RECIPES, recipe_for, settings_of
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder, claimed, new_folder
from imgpipe.pipelines.targets.local_docker import (
    ContainerSettings,
    check_engine,
    container_user,
    make_places,
)
from imgpipe.pipelines.texts import read_text

_COMPILED = Path(__file__).parent / "compiled" / "local"
_DATA = ("train_csv", "validation_csv", "images", "training_data_path", "validation_data_path", "labels_file")


@dataclasses.dataclass(frozen=True)
class _Runner:
    """How the steps are run: as processes, or as containers."""

    name: str
    network: str
    mounts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """A pipeline that a command runs: its compiled file, and the dataclasses of its inputs."""

    command: str
    file: str
    inputs: tuple[type[Any], ...]


_RUN = _Pipeline("run", "image_classification.yaml", PIPELINE_ARGUMENTS)
_RETRAIN = _Pipeline(
    "run --retrain", "image_classification_retrain.yaml", (*PIPELINE_ARGUMENTS, ServingModelArguments)
)
_TUNE = _Pipeline("tune", "image_classification_tune.yaml", TUNE_PIPELINE_ARGUMENTS)

_RUN_EPILOG = """
\b
Examples:
  imgpipe run                                        the digits sample, about two minutes
  imgpipe run --images flowers/                      a folder a class
  imgpipe run --train-csv train.csv --validation-csv validation.csv
  imgpipe run --images flowers/ --model-type efficientnet-b0 --max-steps 2000
  imgpipe run --images scans/ --weights none --image-size 64
\b
Exit status: 0 if the model was published, otherwise
"""


_TUNE_EPILOG = """
\b
Examples:
  imgpipe tune --tune initial_learning_rate=log:0.001:0.2 --max-trials 6 --max-parallel-trials 2
  imgpipe tune --images flowers/ --tune weight_decay=log:1e-5:0.1 --tune train_batch_size=16,32,64
  imgpipe tune --config config.yaml --job-dir tuned
\b
Exit status: 0 if the model was published, otherwise
"""


class _Command(click.Command):
    """Takes --max_steps for --max-steps, as the original algorithm did."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings["token_normalize_func"] = lambda word: word.replace("_", "-")


@click.group()
@click.version_option(package_name="image-classification-pipeline", prog_name="imgpipe")
def imgpipe() -> None:
    """Labelled images in, the most accurate SavedModel out."""


def _options_of(
    *arguments_classes: type[Any], default_text: Callable[["dataclasses.Field[Any]"], str]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(flat_fields(arguments_classes).values()):
            command = click.option(
                "--" + field.name.replace("_", "-"),
                field.name,
                type=type(field.default),
                default=None,
                # As often as there is something to tune.
                multiple=field.name == "tune",
                metavar=type(field.default).__name__.upper().replace("STR", "TEXT"),
                help=description_of(field) + default_text(field),
            )(command)
        return command

    return decorate


def _runner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--mount",
            multiple=True,
            metavar="FOLDER",
            help="With --runner docker: a further folder that the steps may read, e.g. of images that a list "
            "names by absolute paths. The folders that other flags name need no mention.",
        ),
        click.option(
            "--network",
            default="none",
            show_default=True,
            help="With --runner docker: the engine's network that steps are connected to, e.g. bridge for "
            "data in Cloud Storage.",
        ),
        click.option(
            "--runner",
            type=click.Choice(["process", "docker"]),
            default="process",
            show_default=True,
            help="What a step runs in: a process, or a container of its image (`make images`), without "
            "network, with a read-only root and not as root.",
        ),
    ):
        command = option(command)
    return command


def _plain_default(field: "dataclasses.Field[Any]") -> str:
    return f"  [default: {field.default}]" if field.default != "" else ""


def _default_text(field: "dataclasses.Field[Any]") -> str:
    by_recipe = [
        f"{name}: {recipe.parameters[field.name]}"
        for name, recipe in RECIPES.items()
        if field.name in recipe.parameters
    ]
    default = [] if field.default == "" else [f"default: {field.default}"]
    return f"  [{'; '.join([*default, *by_recipe])}]" if default or by_recipe else ""


def _exit_codes() -> str:
    return "\n".join(
        f"  {error.exit_code}  {(error.__doc__ or '').splitlines()[0]}" for error in ERROR_CLASSES
    )


@imgpipe.command(cls=_Command, epilog=_RUN_EPILOG + _exit_codes())
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default=None,
    help="The settings to start from; every flag given goes before them. By default: digits without "
    "data; for your own images frozen-backbone, or from-scratch with --weights none, or fine-tune with "
    "--freeze none. " + " ".join(f"{name}: {recipe.description}." for name, recipe in RECIPES.items()),
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What stdout ends with: a summary for a person, or one JSON line.",
)
@click.option(
    "--retrain",
    is_flag=True,
    help="Start from the weights of the model that serves: give --deploy-target and --deploy-dir. While none "
    "serves yet, this changes nothing.",
)
@_runner_options
@_options_of(*PIPELINE_ARGUMENTS, default_text=_default_text)
def run(
    recipe: str | None,
    output_format: str,
    retrain: bool,
    runner: str,
    network: str,
    mount: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run the whole pipeline on this machine: convert, validate, train, evaluate, export, gate, deploy.

    The images come as a folder with a subfolder a class (--images), as CSV files of path,label
    (--train-csv), or as TFRecord files (--training-data-path). Without any of them, scikit-learn's digits
    are trained on.
    """
    pipeline = _RETRAIN if retrain else _RUN
    _run_and_tell(pipeline, _given(flags), recipe, output_format, _Runner(runner, network, mount))


@imgpipe.command(cls=_Command, epilog=_TUNE_EPILOG + _exit_codes())
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default=None,
    help="The settings that all trials start from, as in `imgpipe run`.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="AI Platform's config.yaml, as it is: its hyperparameters block is taken, and nothing else.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What stdout ends with: a summary for a person, or one JSON line.",
)
@_runner_options
@_options_of(*TUNE_PIPELINE_ARGUMENTS, default_text=_default_text)
def tune(
    recipe: str | None,
    config: Path | None,
    output_format: str,
    runner: str,
    network: str,
    mount: tuple[str, ...],
    tune: tuple[str, ...],
    **flags: Any,
) -> None:
    """Try many values of the training's arguments on this machine and keep the best model.

    The pipeline of `imgpipe run` with many trainings, some at a time, in the place of one. A run that was
    interrupted goes on when it is started again with the same --job-dir.
    """
    given = _given(flags)
    if tune:
        given["tune"] = "; ".join(tune)
    _run_and_tell(_TUNE, given, recipe, output_format, _Runner(runner, network, mount), config)


def _run_and_tell(
    pipeline: _Pipeline,
    given: dict[str, Any],
    recipe: str | None,
    output_format: str,
    runner: _Runner,
    config: Path | None = None,
) -> None:
    console = Console(stderr=True)
    try:
        if config is not None:
            text = read_text(config)
            block_in(text, where=str(config))
            given = {"hyperparameters": text, **given}
        folder, result = _run(pipeline, given, recipe, console, runner)
    except PipelineError as error:
        _fail(error, output_format, console)
    if output_format == "json":
        click.echo(json.dumps(_summary(folder, result), ensure_ascii=False))
        return
    click.echo(f"\n  top-1 accuracy  {result.top_1_accuracy:.4f}")
    for name, path in _outputs(folder):
        if not path.exists():
            continue
        click.echo(f"  {name:<14}  {_shown(path)}")


@imgpipe.command(cls=_Command)
@_options_of(BatchPredictArguments, default_text=_plain_default)
def predict(**flags: Any) -> None:
    """Predict many images: a line of JSON for each, in files below --output-dir.

    The images come as a folder or a pattern (--images), a CSV file (--image-list) or TFRecord files
    (--records). A bad image costs its own line only. What was interrupted goes on when it is started again.
    """
    console = Console(stderr=True)
    try:
        given = _given(flags)
        arguments = BatchPredictArguments(**given)
        if not arguments.output_dir:
            raise InvalidArgumentError("--output-dir is missing", remedy="give --output-dir=FOLDER")
        run_step("batch_predict", [f"--{name}={value}" for name, value in given.items()], RunDisplay(console))
    except PipelineError as error:
        _fail(error, "text", console)
    click.echo(f"  predictions  {arguments.output_dir}")


@imgpipe.command(cls=_Command)
@_options_of(ServeArguments, default_text=_plain_default)
def serve(**flags: Any) -> None:
    """Serve a model on this machine, as TensorFlow Serving's REST API does.

    For trying a model out: there is no authentication. --model is the folder model of a run, or a folder with
    numbered versions as deploy_target=local makes it. Ends with Ctrl-C.
    """
    try:
        arguments = ServeArguments(**_given(flags))
        model_folder_at(local_path(arguments.model))
        # Imported here: TensorFlow takes seconds to load.
        from imgpipe.components.serve.server import serve as serve_model

        with events_told():
            serve_model(arguments)
    except PipelineError as error:
        _fail(error, "text", Console(stderr=True))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _run(
    pipeline: _Pipeline, given: Mapping[str, Any], recipe: str | None, console: Console, runner: _Runner
) -> tuple[RunFolder, RunResult]:
    _check_not_empty(given)
    sample = not _data_given(given)
    recipe = recipe or recipe_for(given, sample=sample)
    parameters = settings_of(recipe, given)
    if pipeline is _TUNE:
        check_on_this_machine(str(given.get("job_dir", "")))
    if "job_dir" in given:
        folder = RunFolder(local_path(given["job_dir"]).absolute())
    else:
        folder = new_folder(Path("imgpipe-runs").absolute(), time.strftime("%Y%m%d-%H%M%S"))
    parameters["job_dir"] = str(folder.job_dir)
    if sample:
        parameters["train_csv"] = str(folder.sample_data / "digits.csv")
    # Every argument is checked before anything is written or started.
    for arguments_class in pipeline.inputs:
        from_values(arguments_class, parameters)
    if pipeline is _RETRAIN:
        _check_start(from_values(ServingModelArguments, parameters), console)
    if pipeline is _TUNE:
        # Imported here: it loads Optuna.
        from imgpipe.components.tune.search_space import check_search_space, read_request

        request = read_request(from_values(TuneArguments, parameters))
        check_search_space(request, from_values(TrainingArguments, parameters))
        if request.resume_job:
            # The block may name it as well; containers are to see it, at its absolute path.
            parameters["resume_previous_job_id"] = str(earlier_job_dir(request.resume_job, folder.job_dir))
    _check_texts(parameters)
    _check_apart(parameters)
    if parameters.get("slices_csv"):
        # Evaluate reads it, which comes after the training.
        read_slices_csv(parameters["slices_csv"])
    _check_champion(parameters.get("champion", AUTO))
    containers = None
    if runner.name == "docker":
        parameters, containers = _in_containers(pipeline, parameters, runner)
    with claimed(folder):
        if containers:
            make_places(containers, folder.job_dir)
        return folder, _run_into(pipeline, folder, given, recipe, parameters, console, containers)


def _in_containers(
    pipeline: _Pipeline, parameters: Mapping[str, Any], runner: _Runner
) -> tuple[dict[str, Any], ContainerSettings]:
    """Returns the parameters as they are seen in containers, and how those are run.

    Raises:
        InvalidArgumentError: for a deploy_target that the local pipeline's images are not made for.
        UnavailableError: if no engine answers.
        MissingInputError: if an image or a mounted folder is not there.
    """
    if parameters.get("deploy_target", "none") not in ("none", "local"):
        raise InvalidArgumentError(
            f"deploy_target={parameters['deploy_target']}: the containers of --runner docker have no client "
            "for it",
            remedy="leave --runner out, or submit the pipeline to Kubeflow or Vertex AI",
        )
    seen, places = seen_from_containers(parameters, runner.mounts)
    missing = [folder for folder in places.read if not Path(folder).is_dir()]
    if missing:
        raise MissingInputError(
            f"there is no folder {missing[0]!r} for the containers to see", remedy="check the path"
        )
    text = (_COMPILED / pipeline.file).read_text(encoding="utf-8")
    check_engine({line.split()[1] for line in text.splitlines() if line.strip().startswith("image: ")})
    return seen, ContainerSettings(places, runner.network, container_user(), str(parameters["job_dir"]))


def _run_into(
    pipeline: _Pipeline,
    folder: RunFolder,
    given: Mapping[str, Any],
    recipe: str,
    parameters: Mapping[str, Any],
    console: Console,
    containers: ContainerSettings | None,
) -> RunResult:
    sample = not _data_given(given)
    source = "scikit-learn's digits (no data was given)" if sample else _source(given)
    model = f"{parameters['model_type']}, " if "model_type" in parameters else ""
    console.print(
        f"imgpipe {pipeline.command}: {source}, {model}recipe {recipe}: {RECIPES[recipe].description}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if sample:
        # Imported here: scikit-learn takes seconds to load.
        from imgpipe.pipelines.sample_data import write_digits

        write_digits(folder.sample_data)
    return run_locally(_COMPILED / pipeline.file, parameters, folder, RunDisplay(console), containers)


def _check_not_empty(given: Mapping[str, Any]) -> None:
    """Refuses a path that is empty, as ``--images "$DIR"`` gives where DIR is not set.

    Raises:
        InvalidArgumentError: naming the flag.
    """
    for name in (*_DATA, "job_dir"):
        if given.get(name) == "":
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')} is empty", remedy="give a path, or leave the flag out"
            )


def _data_given(given: Mapping[str, Any]) -> bool:
    return any(given.get(name) for name in _DATA)


def _check_apart(parameters: Mapping[str, Any]) -> None:
    """Refuses to deploy into the folder of the images, where a version would be taken for a label.

    Raises:
        InvalidArgumentError: if it lies there.
    """
    images, deployed = parameters.get("images", ""), parameters.get("deploy_dir", "")
    if not images or not deployed or is_cloud_path(images) or is_cloud_path(deployed):
        return
    folders = [Path(path).expanduser().absolute() for path in (images, deployed)]
    if folders[0] in (folders[1], *folders[1].parents):
        raise InvalidArgumentError(
            f"deploy_dir={deployed!r} lies in the folder of the images, images={images!r}",
            remedy="give a deploy_dir outside of it: the model's versions would be taken for labels",
        )


def _check_start(arguments: ServingModelArguments, console: Console) -> None:
    """Refuses at once what the serving_model step would refuse, where the model lies on this machine.

    Raises:
        InvalidArgumentError: if the model that serves is of another network.
    """
    if arguments.deploy_target != LOCAL_TARGET:
        return
    try:
        location = serving_location(arguments)
    except MissingInputError:
        # The first model of all.
        return
    check_network(location, arguments.model_type)
    if arguments.pretrained_checkpoint_path:
        console.print(
            "--pretrained-checkpoint-path is without effect: --retrain starts from the model that serves, "
            f"{location}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _check_champion(champion: str) -> None:
    """Refuses at once a champion on this machine that the evaluate step, after the training, would refuse.

    Raises:
        MissingInputError: if there is no such model.
    """
    if champion not in (AUTO, NO_CHAMPION) and not is_cloud_path(champion):
        with local_model(champion):
            pass


def _check_texts(parameters: Mapping[str, Any]) -> None:
    """Refuses what KFP or this version would take for something else.

    Raises:
        InvalidArgumentError: for a URL that the run cannot read, or KFP's own placeholder sign.
    """
    for name in ("images", "train_csv", "validation_csv", "test_csv", "labels_file", "output_dir"):
        absolute_location(parameters.get(name, ""))
    for name in ("training_data_path", "validation_data_path"):
        for pattern in parameters.get(name, "").split(","):
            absolute_location(pattern)
    for name, value in parameters.items():
        if not isinstance(value, str):
            continue
        if not is_unicode(value):
            raise InvalidArgumentError(
                f"{name}={value!r} is not Unicode text", remedy="rename the file or folder"
            )
        if "{{$" in value:
            raise InvalidArgumentError(
                f"{name}={value!r} holds '{{{{$', which Kubeflow Pipelines takes for a placeholder",
                remedy="rename the file or folder",
            )


def _source(given: Mapping[str, Any]) -> str:
    return next(str(given[name]) for name in ("images", "train_csv", "training_data_path") if given.get(name))


def _outputs(folder: RunFolder) -> tuple[tuple[str, Path], ...]:
    return (
        ("model", folder.model),
        ("report", folder.report),
        ("trials", folder.tuning_report),
        ("data report", folder.data_report),
        ("logs", folder.log),
    )


def _shown(path: Path) -> str:
    """Returns the path from the current folder, if it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _summary(folder: RunFolder, result: RunResult) -> dict[str, Any]:
    return {
        "model": str(folder.model),
        "report": str(folder.report),
        "data_report": str(folder.data_report),
        "logs": str(folder.log),
        "top_1_accuracy": result.top_1_accuracy,
        **({"trials": str(folder.trials)} if folder.trials.exists() else {}),
        "seconds": result.seconds,
        "overhead_seconds": result.overhead_seconds,
    }


def _fail(error: PipelineError, output_format: str, console: Console) -> NoReturn:
    step = error.step if isinstance(error, StepFailedError) else ""
    log = f"\nlog: {error.log}" if isinstance(error, StepFailedError) else ""
    console.print(
        f"\nerror{' in ' + step if step else ''}: {error}{log}",
        style="red",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if output_format == "json":
        click.echo(
            json.dumps(
                {
                    "error": error.problem,
                    "where": error.where,
                    "remedy": error.remedy,
                    "step": step,
                    "logs": str(error.log) if isinstance(error, StepFailedError) else "",
                    "exit_code": error.exit_code,
                    "retry_can_help": error.retry_can_help,
                },
                ensure_ascii=False,
            )
        )
    sys.exit(error.exit_code)


for _command in (submit, check, migrate, describe, list_, stream_logs, cancel, schedule, completion):
    imgpipe.add_command(_command)


def main() -> None:
    """Runs ``imgpipe``."""
    try:
        imgpipe.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(InvalidArgumentError.exit_code)
    except click.Abort:
        sys.exit(InterruptedRunError.exit_code)
