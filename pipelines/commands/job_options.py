"""A job's options under gcloud's names, and the ``TrainingInput`` and images that they give."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from click.core import ParameterSource

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import read_text
from imgpipe.components.platforms.vertex.job_requests import STRATEGIES
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.ai_platform import JOB_ARGUMENTS
from imgpipe.pipelines.commands.grouped_options import (
    IGNORED,
    IMAGES,
    JOB,
    MACHINES,
    NETWORK,
    RUNNING,
    GroupedCommand,
    option,
)
from imgpipe.pipelines.images import Images, read_images_lock
from imgpipe.pipelines.target_inputs import is_target_input
from imgpipe.pipelines.training_input import (
    FLAGS,
    MAX_REPLICAS,
    ReplicaConfig,
    TrainingInput,
    check_labels,
    read_training_input,
    with_overrides,
)

# gcloud's flags that do nothing here, with the reason. Those without a reason are fields of config.yaml too,
# for which ``plan_job`` gives the notice.
IGNORED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "parameter_server_machine_type": "",
        "parameter_server_image_uri": "",
        "parameter_server_accelerator": "",
        "parameter_server_count": "",
        "runtime_version": "",
        "python_version": "",
        "use_chief_in_tf_config": "",
        "tpu_tf_version": "",
        "staging_bucket": "no code is staged: the image contains the training",
        "verbosity": "imgpipe prints what matters on stderr; programs can use --format json",
        "quiet": "imgpipe never prompts",
    }
)
_IGNORED_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "parameter_server_count": {"type": click.IntRange(1)},
        "use_chief_in_tf_config": {"type": click.BOOL, "is_flag": False, "flag_value": True, "default": None},
        "quiet": {"is_flag": True},
    }
)

_job_option = partial(option, group=JOB)
_machine_option = partial(option, group=MACHINES)
_image_option = partial(option, group=IMAGES)
_network_option = partial(option, group=NETWORK)
_ROLE_OPTIONS = tuple(
    decorate
    for role in ("master", "worker")
    for decorate in (
        _machine_option(f"--{role}-machine-type", help=f"Machine type of the {role}."),
        _machine_option(
            f"--{role}-accelerator",
            metavar="type=TYPE,count=N",
            help=f"Accelerators of the {role}.",
        ),
        _image_option(
            f"--{role}-image-uri",
            help=f"Image of the {role}; it must contain imgpipe.",
        ),
    )
)

_IMAGE_OPTIONS = (
    _image_option(
        "--image-registry",
        envvar="IMGPIPE_IMAGE_REGISTRY",
        help="Registry of imgpipe's images.",
    ),
    _image_option(
        "--images-lock",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="IMGPIPE_IMAGES_LOCK",
        help="File with the digests of imgpipe's images; overrides --image-registry.",
    ),
)
_NOTIFY_OPTION = _job_option(
    "--notify-step",
    is_flag=True,
    help="kubeflow: add a last step that calls the webhook, also if the pod of another step was killed "
    "or never admitted.",
)
_VOLUME_OPTION = _job_option(
    "--volume",
    multiple=True,
    metavar="CLAIM:/FOLDER",
    help="kubeflow: mount a PersistentVolumeClaim into the pods of the steps, which then read and write "
    "paths below the folder. May be given several times.",
)
_FORM = _job_option(
    "--as",
    "form",
    type=click.Choice(["job", "pipeline"]),
    help="vertex: only the training, as the original did (job), or all steps from the images to the checked "
    "model (pipeline). The other targets always run the pipeline.  [default: job]",
)
_FORM_OF_SCHEDULE = _job_option(
    "--as",
    "form",
    type=click.Choice(["pipeline"]),
    help="A schedule always runs the pipeline.  [default: pipeline]",
)
_OPTIONS = (
    _job_option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="AI Platform's config.yaml, unchanged; other options override it.",
    ),
    _job_option("--job-dir", help="Output folder; may also be given after `--`."),
    _FORM,
    _job_option(
        "--retrain",
        is_flag=True,
        help="Run the pipeline that starts from the weights of the deployed model; needs "
        "--deploy_target and --deploy_dir after `--`.",
    ),
    _job_option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=VALUE",
        help="An input that the pipeline has only on this target, such as data_version; may be repeated. "
        "docs/arguments.md lists them.",
    ),
    _NOTIFY_OPTION,
    _VOLUME_OPTION,
    _job_option(
        "--pipeline-root",
        help="Folder of the pipeline's artifacts.  [default: vertex: JOB_DIR/artifacts]",
    ),
    _job_option("--service-account", help="Service account of the job."),
    _job_option("--labels", metavar="KEY=VALUE,...", help="Labels of the job."),
    _job_option(
        "--enable-web-access",
        is_flag=True,
        default=None,
        help="vertex: allow an interactive shell on the job's machines.",
    ),
    _machine_option(
        "--scale-tier",
        help="BASIC, BASIC_GPU, BASIC_TPU, or CUSTOM: the machine types given below.",
    ),
    *_ROLE_OPTIONS,
    _machine_option(
        "--worker-count", type=click.IntRange(1, MAX_REPLICAS), default=None, help="Number of workers."
    ),
    _machine_option(
        "--allow-unknown-machine",
        is_flag=True,
        help="Send machine types and accelerators that imgpipe does not know, unchecked, with a warning.",
    ),
    _machine_option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="standard",
        show_default=True,
        help="vertex: how machines are allocated.",
    ),
    *_IMAGE_OPTIONS,
    _network_option("--network", help="VPC network, projects/NUMBER/global/networks/NAME."),
    _network_option(
        "--kms-key",
        help="Encryption key, projects/P/locations/R/keyRings/K/cryptoKeys/N, or its name with the next "
        "three options.",
    ),
    _network_option("--kms-keyring", help="Key ring of --kms-key."),
    _network_option("--kms-location", help="Location of the key ring."),
    _network_option("--kms-project", help="Project of the key ring."),
    *(
        option(
            *(f"--{name.replace('_', '-')}", *(("-q",) if name == "quiet" else ())),
            group=IGNORED,
            **_IGNORED_SETTINGS.get(name, {}),
        )
        for name in IGNORED_FLAGS
    ),
)


# Names that may follow `--`; --help lists them.
_NAMES_AFTER = {*flat_fields(TUNE_PIPELINE_ARGUMENTS), *flat_fields(JOB_ARGUMENTS), "help"}


class JobCommand(GroupedCommand):
    """A command with training arguments after ``--``; explains where a misplaced argument belongs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line; see ``click.Command``."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if _argument_name(error.option_name) not in flat_fields(TUNE_PIPELINE_ARGUMENTS):
                if not is_target_input(_argument_name(error.option_name)):
                    raise
                name = _argument_name(error.option_name)
                raise click.UsageError(
                    f"{error.option_name} is a pipeline input of one target: give --input {name}=...",
                    ctx,
                ) from None
            raise click.UsageError(
                f"{error.option_name} is a training argument: give it after `--`, as in "
                f"`{ctx.command_path} NAME ... -- {error.option_name}=...`",
                ctx,
            ) from None


def submission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a job, under gcloud's names, and ``arguments``, the training's arguments."""
    return _with_options(command, _OPTIONS, "[JOB_ID] -- [TRAINING ARGUMENTS]")


def schedule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a job that runs on a schedule."""
    options = [_FORM_OF_SCHEDULE if decorate is _FORM else decorate for decorate in _OPTIONS]
    return _with_options(command, options, "-- [TRAINING ARGUMENTS]")


def submission_control_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--dry-run`` and ``--check``."""
    for decorate in (
        option(
            "--check/--no-check",
            group=RUNNING,
            default=True,
            show_default=True,
            help="Run `imgpipe check` first.",
        ),
        option("--dry-run", group=RUNNING, is_flag=True, help="Print the request without sending it."),
    ):
        command = decorate(command)
    return command


def _with_options(
    command: Callable[..., Any], options: Sequence[Callable[..., Any]], metavar: str
) -> Callable[..., Any]:
    command = click.argument("arguments", nargs=-1, metavar=metavar, type=click.UNPROCESSED)(command)
    for decorate in reversed(options):
        command = decorate(command)
    return command


def file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options for the file of a pipeline: imgpipe's images (see ``images_of``) and its last step."""
    for decorate in reversed((*_IMAGE_OPTIONS, _NOTIFY_OPTION, _VOLUME_OPTION)):
        command = decorate(command)
    return command


def is_on_command_line(name: str) -> bool:
    """Returns whether a parameter is given on the command line, not by an environment variable."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def check_arguments_after_dashes(arguments: Iterable[str]) -> None:
    """Rejects an option of the command, or a target's input, among the training's arguments.

    Args:
        arguments: The arguments after ``--``.

    Raises:
        InvalidArgumentError: naming it.
    """
    context = click.get_current_context(silent=True)
    parameters = [] if context is None else context.command.params
    options = {name for parameter in parameters for name in parameter.opts}
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in options and _argument_name(flag) not in flat_fields(TUNE_PIPELINE_ARGUMENTS):
            raise InvalidArgumentError(
                f"{argument} is an option, but it is given after `--`, with the training arguments",
                remedy=f"use {flag} before `--`",
            )
        name = _argument_name(flag)
        # Last, because it loads KFP.
        if flag.startswith("--") and name not in _NAMES_AFTER and is_target_input(name):
            raise InvalidArgumentError(
                f"{argument} is an input of one target, but it is given after `--`, among training arguments",
                remedy=f"use --input {argument.lstrip('-')} before `--`",
            )


def _argument_name(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0].replace("-", "_")


def read_config(file: Path) -> TrainingInput:
    """Reads a config.yaml.

    Raises:
        MissingInputError: if it cannot be read.
        InvalidArgumentError: naming field, value and what is allowed; also if it is empty.
    """
    config = read_training_input(read_text(file), where=str(file))
    if config == read_training_input("", where=str(file)):
        raise InvalidArgumentError(
            f"{str(file)!r} is empty",
            remedy="write fields below `trainingInput:`, e.g. scaleTier: BASIC_GPU, or omit --config",
        )
    return config


def images_of(options: Mapping[str, Any]) -> Images:
    """Returns the names of imgpipe's images.

    Raises:
        MissingInputError: if the lock cannot be read.
        InvalidArgumentError: if a name is not valid.
    """
    lock = options["images_lock"]
    if not lock:
        return Images(options["image_registry"])
    return Images(lock=read_images_lock(read_text(lock), where=str(lock)))


def training_input(options: Mapping[str, Any], region: str) -> TrainingInput:
    """Returns the config.yaml with the flags that override it.

    Args:
        options: The values of ``submission_options``.
        region: The target's region; empty if it has none.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidArgumentError: naming the field or the flag.
    """
    file = options["config_file"]
    config = read_config(file) if file else TrainingInput()
    flags: dict[str, Any] = {
        name: options[name]
        for name in (
            *("job_dir", "network", "service_account", "runtime_version", "python_version"),
            *("enable_web_access", "use_chief_in_tf_config", "allow_unknown_machine"),
        )
        if options[name]
    }
    if options["scale_tier"]:
        # gcloud accepts basic-gpu, too.
        flags["scale_tier"] = options["scale_tier"].upper().replace("-", "_")
    if key := _kms_key(options):
        flags["kms_key_name"] = key
    if config.region and not is_on_command_line("region"):
        # The job's own file overrides an environment variable, which is for all jobs.
        region = ""
    if region:
        flags["region"] = region
    if options["labels"]:
        flags["labels"] = _pairs("--labels", options["labels"])
        check_labels({**config.labels, **flags["labels"]}, name="--labels")
    machine_types, counts, configs = {}, {}, {}
    for role, prefix in (("master", "master"), ("worker", "worker"), ("parameterServer", "parameter_server")):
        if options[f"{prefix}_machine_type"]:
            machine_types[role] = options[f"{prefix}_machine_type"]
        if options.get(f"{prefix}_count"):
            counts[role] = options[f"{prefix}_count"]
        changes: dict[str, Any] = {}
        if role == "worker" and options["tpu_tf_version"]:
            changes["tpu_tf_version"] = options["tpu_tf_version"]
        if options[f"{prefix}_image_uri"]:
            changes["image_uri"] = options[f"{prefix}_image_uri"]
        if accelerator := options[f"{prefix}_accelerator"]:
            changes.update(_accelerator(f"--{prefix.replace('_', '-')}-accelerator", accelerator))
        configs[role] = dataclasses.replace(config.configs.get(role, ReplicaConfig()), **changes)
    return with_overrides(
        config,
        {**flags, "machine_types": machine_types, "counts": counts, "configs": configs},
        # Without a file, messages name flags only.
        written={
            name: flag
            for name, flag in FLAGS.items()
            if not file or {**options, "region": region}.get(flag.removeprefix("--").replace("-", "_"))
        },
    )


def _kms_key(options: Mapping[str, Any]) -> str:
    """Returns the key's full name, which gcloud accepts in four parts, too."""
    key: str = options["kms_key"]
    parts = [options[name] for name in ("kms_project", "kms_location", "kms_keyring")]
    if not any(parts):
        return key
    if not (key and all(parts)) or "/" in key:
        raise InvalidArgumentError(
            f"--kms-key={key!r} with --kms-project, --kms-location and --kms-keyring "
            f"{', '.join(map(repr, parts))} is not the name of a key",
            remedy="use all four, or --kms-key=projects/P/locations/R/keyRings/K/cryptoKeys/N alone",
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
                f"{flag}={text}: {key.strip()} is given twice", remedy="omit one of the two"
            )
        pairs[key.strip()] = value.strip()
    return pairs


def _accelerator(flag: str, text: str) -> dict[str, Any]:
    pairs = _pairs(flag, text)
    # gcloud accepts the Compute Engine name, with hyphens, too.
    kind = pairs.get("type", "").upper().replace("-", "_")
    if set(pairs) - {"type", "count"} or not kind or not pairs.get("count", "1").isdecimal():
        raise InvalidArgumentError(f"{flag}={text} is not valid", remedy="write type=NVIDIA_TESLA_T4,count=1")
    return {"accelerator_type": kind, "accelerator_count": int(pairs.get("count", "1"))}
