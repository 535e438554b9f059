"""What submit, migrate, check and schedule have in common: the options of a job, and its request."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from components.common.arguments import from_values
from components.common.errors import InvalidArgumentError, MissingInputError
from components.serving_model.arguments import ServingModelArguments
from components.train.arguments import TrainingArguments
from pipelines.ai_platform import (
    JOB_ARGUMENTS,
    STRATEGIES,
    TrainingJob,
    VertexRequest,
    pipeline_parameters,
    plan_job,
    vertex_pipeline_parameters,
    vertex_request,
)
from pipelines.commands.output import notice
from pipelines.compiled_pipelines import RETRAIN, TRAIN, TUNE, pipeline_file
from pipelines.estimates import TABLES, estimate, read_prices, read_throughputs
from pipelines.images import Images, read_images_lock
from pipelines.machines import Machine
from pipelines.parameters import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from pipelines.targets.vertex_jobs import pipeline_job_body
from pipelines.training_input import ReplicaConfig, TrainingInput, read_training_input, with_flags

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
        "--parameter-server-count", type=click.IntRange(1), default=None, help="Taken, and without effect."
    ),
    click.option("--job-dir", default="", help="Where the model goes; as well after `--`."),
    click.option("--network", default="", help="VPC network, projects/NUMBER/global/networks/NAME."),
    click.option("--service-account", default="", help="Account as which the job runs."),
    click.option("--kms-key", default="", help="Key, projects/P/locations/R/keyRings/K/cryptoKeys/N."),
    click.option("--labels", default="", metavar="KEY=VALUE,...", help="Labels of the job."),
    click.option("--runtime-version", default="", help="Taken, and without effect."),
    click.option("--python-version", default="", help="Taken, and without effect."),
    click.option("--enable-web-access", is_flag=True, default=None, help="A shell into the job's machines."),
    click.option("--use-chief-in-tf-config", is_flag=True, default=None, help="Taken, and without effect."),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="standard",
        show_default=True,
        help="vertex: how machines are found.",
    ),
    click.option(
        "--as",
        "form",
        type=click.Choice(["job", "pipeline"]),
        default=None,
        help="vertex: the training alone, as the original did (job), or all steps from the images to the "
        "checked model (pipeline). The other targets run the pipeline.  [default: job]",
    ),
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
    click.option(
        "--prices",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        envvar="IMGPIPE_PRICES",
        show_envvar=True,
        help="Price table for the estimate, in place of the package's (which holds no figure).",
    ),
    click.option(
        "--throughputs",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        envvar="IMGPIPE_THROUGHPUTS",
        show_envvar=True,
        help="Table of measured rates for the estimate, in place of the package's.",
    ),
    click.argument("words", nargs=-1, metavar="[JOB_ID] -- [TRAINING ARGUMENTS]", type=click.UNPROCESSED),
)


@dataclass(frozen=True)
class Submission:
    """A submission that was checked, ready to be sent.

    Attributes:
        job: What was asked for.
        form: ``job`` or ``pipeline``.
        target: Where it goes.
        images: Names of our images.
        notices: What was replaced or is without effect.
        request: Of a job on Vertex AI.
        parameters: Of a pipeline.
        pipeline_root: Of a pipeline; may be empty.
        service_account: Of the run; may be empty.
        retrain: Whether the pipeline is the one that starts from the model that serves.
    """

    job: TrainingJob
    form: str
    target: str
    images: Images
    notices: tuple[str, ...]
    request: VertexRequest | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pipeline_root: str = ""
    service_account: str = ""
    retrain: bool = False

    @property
    def _pipeline(self) -> str:
        if self.retrain:
            return RETRAIN
        return TUNE if self.job.hyperparameters else TRAIN

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Yields the compiled pipeline."""
        with pipeline_file(self.target, self.images, self._pipeline) as file:
            yield file

    def pipeline_job(self) -> dict[str, Any]:
        """Returns the body of the run on Vertex AI."""
        settings = {
            name: self.parameters.get(name, "") for name in ("service_account", "network", "encryption_key")
        }
        with self.file() as file:
            return pipeline_job_body(
                self.job.job_id,
                self.parameters,
                file,
                self.pipeline_root,
                settings={**settings, "labels": dict(self.job.config.labels)},
            )

    def shown(self) -> dict[str, Any]:
        """Returns what would be sent."""
        if self.request is not None:
            return {"kind": self.request.kind, "region": self.request.region, **self.request.body}
        if self.target == "vertex":
            body = self.pipeline_job()
            # A thousand lines that stand in pipelines/compiled/vertex.
            body["pipelineSpec"] = self._pipeline.replace("_", "-")
            return {"kind": "PipelineJob", **body}
        return {
            "kind": "pipeline run",
            "name": self.job.job_id,
            "pipeline": self._pipeline.replace("_", "-"),
            "serviceAccount": self.service_account,
            "parameters": dict(self.parameters),
        }


def submission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a job, under gcloud's names; ``submission_of`` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def submission_of(place: Mapping[str, Any], options: Mapping[str, Any], words: Sequence[str]) -> Submission:
    """Returns the checked submission of a command line.

    Args:
        place: What ``place_options`` gives.
        options: What ``submission_options`` gives.
        words: The job id, if it was given, and the training's arguments.

    Raises:
        InvalidArgumentError: naming the field or flag, its value and what to do.
    """
    target = place["target"]
    config = _config(options, place["region"])
    words = list(words)
    job_id = words.pop(0) if words and not words[0].startswith("-") else config.job_id
    form = options["form"] or ("job" if target == "vertex" else "pipeline")
    if form == "job" and target != "vertex":
        raise InvalidArgumentError(
            f"--as job does not go with --target {target}", remedy="use --as pipeline, or --target vertex"
        )
    return planned(
        job_id or time.strftime("imgpipe_%Y%m%d_%H%M%S"),
        words,
        config,
        target=target,
        form=form,
        images=_images(options),
        strategy=options["strategy"],
        pipeline_root=options["pipeline_root"],
        endpoint=place["endpoint"],
        retrain=options["retrain"],
    )


def planned(
    job_id: str,
    words: Sequence[str],
    config: TrainingInput,
    *,
    target: str,
    form: str,
    images: Images,
    strategy: str = "standard",
    pipeline_root: str = "",
    endpoint: str = "",
    retrain: bool = False,
) -> Submission:
    """Checks a submission whole and makes its request; the arguments are attributes of ``Submission``.

    ``endpoint`` is Vertex AI's address, if it is not Google's: a pipeline's steps need it too.

    Raises:
        InvalidArgumentError: naming the field or flag, its value and what to do.
    """
    if retrain and form == "job":
        raise InvalidArgumentError(
            "--retrain is a pipeline, not the training alone", remedy="add --as pipeline"
        )
    if retrain and config.hyperparameters:
        raise InvalidArgumentError(
            "--retrain does not go with hyperparameters: one training goes on from the model that serves",
            remedy="leave --retrain out, or the block hyperparameters",
        )
    of_pipeline = TUNE_PIPELINE_ARGUMENTS if config.hyperparameters else PIPELINE_ARGUMENTS
    classes = JOB_ARGUMENTS if form == "job" else of_pipeline
    job = plan_job(
        job_id,
        words,
        config,
        arguments_classes=classes,
        strategy=strategy,
        resumes=target == "local",
        on_kubernetes=target == "kubeflow",
    )

    account, account_notices = config.service_account, list[str]()
    if target == "kubeflow" and "@" in account:
        told = f"serviceAccount={account} is without effect: an account of Google Cloud is none of Kubernetes"
        account_notices.append(f"{told}; --service-account takes the name of a ServiceAccount")
        account = ""

    def image_of(machine: Machine) -> str:
        return images.of_training(machine.kind)

    made = Submission(
        job,
        form,
        target,
        images,
        job.notices,
        pipeline_root=pipeline_root,
        service_account=account,
        retrain=retrain,
    )
    if form == "job":
        return dataclasses.replace(made, request=vertex_request(job, image_of))
    for arguments_class in (*of_pipeline, *((ServingModelArguments,) if retrain else ())):
        from_values(arguments_class, job.values)
    if target != "vertex":
        parameters, notices = pipeline_parameters(job, target, image_of)
        return dataclasses.replace(
            made, parameters=parameters, notices=(*job.notices, *account_notices, *notices)
        )
    if not pipeline_root and job.values.get("job_dir"):
        pipeline_root = f"{job.values['job_dir'].rstrip('/')}/artifacts"
    if not pipeline_root.startswith("gs://"):
        raise InvalidArgumentError(
            f"--pipeline-root={pipeline_root!r} is not a gs:// folder",
            remedy="give one, e.g. gs://BUCKET/pipelines",
        )
    parameters = vertex_pipeline_parameters(job)
    if endpoint:
        deployed_in = job.values.get("region", "")
        if deployed_in and config.region and deployed_in != config.region:
            raise InvalidArgumentError(
                f"--endpoint is the address of {config.region}, and the model is deployed in "
                f"region={deployed_in}",
                remedy="deploy it in the same region, or leave --endpoint out",
            )
        parameters["vertex_endpoint"] = endpoint
    return dataclasses.replace(made, parameters=parameters, pipeline_root=pipeline_root)


def read_config(file: Path) -> TrainingInput:
    """Reads a config.yaml.

    Raises:
        MissingInputError: if it cannot be read.
        InvalidArgumentError: naming field, value and what is allowed.
    """
    return read_training_input(_text_of(file), where=str(file))


def tell_estimate(submission: Submission, place: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Prints on stderr what time and cost are known beforehand; nothing for this machine.

    Raises:
        MissingInputError: if a table cannot be read.
        InvalidArgumentError: if a figure in it has no source or date.
    """
    if submission.target == "local":
        return
    prices = options["prices"] or TABLES / "prices.yaml"
    throughputs = options["throughputs"] or TABLES / "throughputs.yaml"
    told = estimate(
        from_values(TrainingArguments, submission.job.values),
        [(pool.machine, pool.replicas) for pool in submission.job.pools],
        read_prices(_text_of(prices), where=str(prices)),
        read_throughputs(_text_of(throughputs), where=str(throughputs)),
        region=place["region"] or submission.job.config.region,
        strategy=submission.job.strategy,
    )
    trials = submission.job.hyperparameters.max_trials if submission.job.hyperparameters else 1
    notice(f"{told}{f'; of each of {trials} trials' if trials > 1 else ''}")


def tell_notices(submission: Submission) -> None:
    """Prints on stderr what was replaced or is without effect."""
    for text in submission.notices:
        notice(text)


def _images(options: Mapping[str, Any]) -> Images:
    if not options["images_lock"]:
        return Images(options["image_registry"])
    return Images(lock=read_images_lock(_text_of(options["images_lock"]), where=str(options["images_lock"])))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise MissingInputError(f"cannot read {str(file)!r}: {reason}", remedy="correct the path") from None


def _config(options: Mapping[str, Any], region: str) -> TrainingInput:
    """Returns what config.yaml says, and the flags in its place."""
    file = options["config_file"]
    config = read_config(file) if file else TrainingInput()
    flags: dict[str, Any] = {
        name: options[option]
        for name, option in (
            ("scale_tier", "scale_tier"),
            ("job_dir", "job_dir"),
            ("network", "network"),
            ("service_account", "service_account"),
            ("kms_key_name", "kms_key"),
            ("runtime_version", "runtime_version"),
            ("python_version", "python_version"),
            ("enable_web_access", "enable_web_access"),
            ("use_chief_in_tf_config", "use_chief_in_tf_config"),
        )
        if options[option]
    }
    if region:
        flags["region"] = region
    if options["labels"]:
        flags["labels"] = _pairs("--labels", options["labels"])
    machine_types, counts, configs = {}, {}, {}
    for role, option in (("master", "master"), ("worker", "worker"), ("parameterServer", "parameter_server")):
        if options[f"{option}_machine_type"]:
            machine_types[role] = options[f"{option}_machine_type"]
        if options.get(f"{option}_count"):
            counts[role] = options[f"{option}_count"]
        changes: dict[str, Any] = {}
        if options[f"{option}_image_uri"]:
            changes["image_uri"] = options[f"{option}_image_uri"]
        if options[f"{option}_accelerator"]:
            changes.update(
                _accelerator(f"--{option.replace('_', '-')}-accelerator", options[f"{option}_accelerator"])
            )
        configs[role] = dataclasses.replace(config.configs.get(role, ReplicaConfig()), **changes)
    return with_flags(config, {**flags, "machine_types": machine_types, "counts": counts, "configs": configs})


def _pairs(flag: str, text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgumentError(
                f"{flag}={text}: {part!r} has no value", remedy="write KEY=VALUE,KEY=VALUE"
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
