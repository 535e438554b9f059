"""The options of a job under gcloud's names, and what they come to: a ``TrainingInput`` and images."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.vertex.job_requests import STRATEGIES
from imgpipe.pipelines.ai_platform import JOB_ARGUMENTS
from imgpipe.pipelines.images import Images, read_images_lock
from imgpipe.pipelines.parameters import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.target_inputs import is_target_input
from imgpipe.pipelines.texts import read_text
from imgpipe.pipelines.training_input import (
    FLAGS,
    ReplicaConfig,
    TrainingInput,
    check_labels,
    read_training_input,
    with_flags,
)

_ROLE_OPTIONS = tuple(
    option
    for role in ("master", "worker", "parameter-server")
    for option in (
        click.option(f"--{role}-machine-type", default="", help=f"Machine of the {role}."),
        click.option(f"--{role}-image-uri", default="", help=f"Image of the {role}; it must hold imgpipe."),
        click.option(
            f"--{role}-accelerator",
            default="",
            metavar="type=TYPE,count=N",
            help=f"Accelerators of the {role}.",
        ),
    )
)

_FORM = click.option(
    "--as",
    "form",
    type=click.Choice(["job", "pipeline"]),
    default=None,
    help="vertex: the training alone, as the original did (job), or all steps from the images to the "
    "checked model (pipeline). The other targets run the pipeline.  [default: job]",
)
_FORM_OF_SCHEDULE = click.option(
    "--as",
    "form",
    type=click.Choice(["pipeline"]),
    default=None,
    help="What a schedule starts is the pipeline in any case.  [default: pipeline]",
)
_OPTIONS = (
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="AI Platform's config.yaml, as it is; the flags here go before it.",
    ),
    click.option(
        "--scale-tier",
        default="",
        help="BASIC, BASIC_GPU, BASIC_TPU or CUSTOM (machines by the flags below).",
    ),
    *_ROLE_OPTIONS,
    click.option("--worker-count", type=click.IntRange(1), default=None, help="Number of workers."),
    click.option(
        "--parameter-server-count", type=click.IntRange(1), default=None, help="Accepted and ignored."
    ),
    click.option("--job-dir", default="", help="Where the model goes; as well after `--`."),
    click.option("--network", default="", help="VPC network, projects/NUMBER/global/networks/NAME."),
    click.option("--service-account", default="", help="Account as which the job runs."),
    click.option("--kms-key", default="", help="Key, projects/P/locations/R/keyRings/K/cryptoKeys/N."),
    click.option("--kms-keyring", default="", help="Key ring, if --kms-key is its name alone."),
    click.option("--kms-location", default="", help="Location of the key ring."),
    click.option("--kms-project", default="", help="Project of the key ring."),
    click.option("--labels", default="", metavar="KEY=VALUE,...", help="Labels of the job."),
    click.option("--runtime-version", default="", help="Accepted and ignored."),
    click.option("--python-version", default="", help="Accepted and ignored."),
    click.option("--enable-web-access", is_flag=True, default=None, help="A shell into the job's machines."),
    click.option(
        "--use-chief-in-tf-config",
        type=click.BOOL,
        is_flag=False,
        flag_value=True,
        default=None,
        metavar="[true|false]",
        help="Accepted and ignored.",
    ),
    click.option("--tpu-tf-version", default="", help="Accepted and ignored."),
    click.option("--staging-bucket", default="", help="Accepted and ignored."),
    click.option("--verbosity", default="", help="Accepted and ignored."),
    click.option("--quiet", "-q", is_flag=True, help="Accepted and ignored."),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="standard",
        show_default=True,
        help="vertex: how machines are found.",
    ),
    _FORM,
    click.option(
        "--retrain",
        is_flag=True,
        help="Run the pipeline that starts from the model that serves: give deploy_target and deploy_dir.",
    ),
    click.option(
        "--pipeline-root",
        default="",
        help="Folder of the pipeline's artifacts.  [default: vertex: JOB_DIR/artifacts]",
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input that the pipeline has on this target alone, such as data_version; again for each. "
        "docs/arguments.md lists them.",
    ),
    click.option(
        "--image-registry",
        default="",
        envvar="IMGPIPE_IMAGE_REGISTRY",
        show_envvar=True,
        help="Where our images are kept.",
    ),
    click.option(
        "--images-lock",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        envvar="IMGPIPE_IMAGES_LOCK",
        show_envvar=True,
        help="File with our images by digest; goes before --image-registry.",
    ),
)


# --help stands for the list of all of them.
_NAMES_AFTER = {*flat_fields((*TUNE_PIPELINE_ARGUMENTS, *JOB_ARGUMENTS)), "help"}


class JobCommand(click.Command):
    """Says where an argument of the training belongs that stands before ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words; see ``click.Command``."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if _argument_name(error.option_name) not in flat_fields(TUNE_PIPELINE_ARGUMENTS):
                if not is_target_input(_argument_name(error.option_name)):
                    raise
                name = _argument_name(error.option_name)
                raise click.UsageError(
                    f"{error.option_name} is an input of the pipeline on one target: give --input {name}=...",
                    ctx,
                ) from None
            raise click.UsageError(
                f"{error.option_name} is an argument of the training: give it after `--`, as in "
                f"`{ctx.command_path} NAME ... -- {error.option_name}=...`",
                ctx,
            ) from None


def submission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a job, under gcloud's names, and the words after them."""
    return _with_options(command, _OPTIONS, "[JOB_ID] -- [TRAINING ARGUMENTS]")


def schedule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a job that is started by the clock: its name is the schedule's."""
    options = [_FORM_OF_SCHEDULE if option is _FORM else option for option in _OPTIONS]
    return _with_options(command, options, "-- [TRAINING ARGUMENTS]")


def _with_options(
    command: Callable[..., Any], options: Sequence[Callable[..., Any]], words: str
) -> Callable[..., Any]:
    command = click.argument("words", nargs=-1, metavar=words, type=click.UNPROCESSED)(command)
    for option in reversed(options):
        command = option(command)
    return command


def given(name: str) -> bool:
    """Tells whether a parameter stands on the command line, and not in a variable or nowhere."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def check_sides(words: Iterable[str]) -> None:
    """Refuses an option of the command among the training's arguments.

    Args:
        words: What stands after ``--``.

    Raises:
        InvalidArgumentError: naming it.
    """
    context = click.get_current_context(silent=True)
    options = {} if context is None else {o: p for p in context.command.params for o in p.opts}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in options and _argument_name(flag) not in flat_fields(TUNE_PIPELINE_ARGUMENTS):
            raise InvalidArgumentError(
                f"{word} stands after `--`, where the training's arguments are",
                remedy=f"give {flag} before `--`",
            )
        name = _argument_name(flag)
        # Only of what will be refused: it loads KFP.
        if flag.startswith("--") and name not in _NAMES_AFTER and is_target_input(name):
            raise InvalidArgumentError(
                f"{word} stands after `--`, where the training's arguments are",
                remedy=f"give --input {word.lstrip('-')} before `--`",
            )


def _argument_name(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0].replace("-", "_")


def read_config(file: Path) -> TrainingInput:
    """Reads a config.yaml.

    Raises:
        MissingInputError: if it cannot be read.
        InvalidArgumentError: naming field, value and what is allowed; also if nothing is in it.
    """
    config = read_training_input(read_text(file), where=str(file))
    if config == read_training_input("", where=str(file)):
        raise InvalidArgumentError(
            f"{str(file)!r} says nothing",
            remedy="write the fields below `trainingInput:`, e.g. scaleTier: BASIC_GPU; or give no file",
        )
    return config


def images_of(options: Mapping[str, Any]) -> Images:
    """Returns the names of our images.

    Raises:
        MissingInputError: if the lock cannot be read.
        InvalidArgumentError: if a name is none of an image.
    """
    lock = options["images_lock"]
    if not lock:
        return Images(options["image_registry"])
    return Images(lock=read_images_lock(read_text(lock), where=str(lock)))


def training_input(options: Mapping[str, Any], region: str) -> TrainingInput:
    """Returns what config.yaml says, and the flags in its place.

    Args:
        options: What ``submission_options`` gives.
        region: Of the target; empty if it has none.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidArgumentError: naming the field or the flag.
    """
    file = options["config_file"]
    config = read_config(file) if file else TrainingInput()
    flags: dict[str, Any] = {
        name: options[option]
        for name, option in (
            ("job_dir", "job_dir"),
            ("network", "network"),
            ("service_account", "service_account"),
            ("runtime_version", "runtime_version"),
            ("python_version", "python_version"),
            ("enable_web_access", "enable_web_access"),
            ("use_chief_in_tf_config", "use_chief_in_tf_config"),
        )
        if options[option]
    }
    if options["scale_tier"]:
        # As gcloud takes it: basic-gpu.
        flags["scale_tier"] = options["scale_tier"].upper().replace("-", "_")
    if key := _kms_key(options):
        flags["kms_key_name"] = key
    if config.region and not given("region"):
        # What is written for this job goes before a variable that is meant for all.
        region = ""
    if region:
        flags["region"] = region
    if options["labels"]:
        flags["labels"] = _pairs("--labels", options["labels"])
        check_labels({**config.labels, **flags["labels"]}, name="--labels")
    machine_types, counts, configs = {}, {}, {}
    for role, option in (("master", "master"), ("worker", "worker"), ("parameterServer", "parameter_server")):
        if options[f"{option}_machine_type"]:
            machine_types[role] = options[f"{option}_machine_type"]
        if options.get(f"{option}_count"):
            counts[role] = options[f"{option}_count"]
        changes: dict[str, Any] = {}
        if role == "worker" and options["tpu_tf_version"]:
            changes["tpu_tf_version"] = options["tpu_tf_version"]
        if options[f"{option}_image_uri"]:
            changes["image_uri"] = options[f"{option}_image_uri"]
        if options[f"{option}_accelerator"]:
            changes.update(
                _accelerator(f"--{option.replace('_', '-')}-accelerator", options[f"{option}_accelerator"])
            )
        configs[role] = dataclasses.replace(config.configs.get(role, ReplicaConfig()), **changes)
    return with_flags(
        config,
        {**flags, "machine_types": machine_types, "counts": counts, "configs": configs},
        # Where there is no file, the user knows the flags alone.
        written={
            name: flag
            for name, flag in FLAGS.items()
            if not file or {**options, "region": region}.get(flag.removeprefix("--").replace("-", "_"))
        },
    )


def _kms_key(options: Mapping[str, Any]) -> str:
    """Returns the key's whole name; gcloud takes it in four parts as well."""
    key: str = options["kms_key"]
    parts = [options[name] for name in ("kms_project", "kms_location", "kms_keyring")]
    if not any(parts):
        return key
    if not (key and all(parts)) or "/" in key:
        raise InvalidArgumentError(
            f"--kms-key={key!r} with --kms-project, --kms-location and --kms-keyring "
            f"{', '.join(map(repr, parts))} is no key's name",
            remedy="give all four, or --kms-key=projects/P/locations/R/keyRings/K/cryptoKeys/N alone",
        )
    project, location, ring = parts
    return f"projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"


def _pairs(flag: str, text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgumentError(
                f"{flag}={text}: {part!r} has no value", remedy="write KEY=VALUE,KEY=VALUE"
            )
        if key.strip() in pairs:
            raise InvalidArgumentError(
                f"{flag}={text}: {key.strip()} stands there twice", remedy="leave one of the two out"
            )
        pairs[key.strip()] = value.strip()
    return pairs


def _accelerator(flag: str, text: str) -> dict[str, Any]:
    pairs = _pairs(flag, text)
    # As gcloud takes it: the Compute Engine name, with hyphens.
    kind = pairs.get("type", "").upper().replace("-", "_")
    if set(pairs) - {"type", "count"} or not kind or not pairs.get("count", "1").isdecimal():
        raise InvalidArgumentError(
            f"{flag}={text} is not understood", remedy="write type=NVIDIA_TESLA_T4,count=1"
        )
    return {"accelerator_type": kind, "accelerator_count": int(pairs.get("count", "1"))}
