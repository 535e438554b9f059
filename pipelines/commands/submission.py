"""What submit, migrate, check and schedule have in common: a job that was checked whole, and its request."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import flat_fields, from_values
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.vertex.client import check_region
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.pipelines.ai_platform import (
    JOB_ARGUMENTS,
    TrainingJob,
    VertexRequest,
    ignored_in_pipeline,
    pipeline_parameters,
    plan_job,
    vertex_pipeline_parameters,
    vertex_request,
)
from imgpipe.pipelines.commands.job_options import check_sides, given, images_of, training_input
from imgpipe.pipelines.commands.output import notice
from imgpipe.pipelines.compiled_pipelines import RETRAIN, TRAIN, TUNE, pipeline_file
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.machines import Machine
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.target_inputs import image_for_accelerator, parse_target_inputs
from imgpipe.pipelines.target_rules import check_bucket, check_deploy_target, check_paths, uri_of_mounted
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest
from imgpipe.pipelines.targets.vertex_jobs import pipeline_job_body
from imgpipe.pipelines.training_input import FLAGS, TrainingInput

# Of an artifact store of Kubeflow Pipelines.
_STORES = ("gs://", "s3://", "minio://")


@dataclass(frozen=True)
class Submission:
    """A submission that was checked, ready to be sent.

    Attributes:
        job: What was asked for.
        form: ``job`` or ``pipeline``.
        target: Where it goes.
        images: Names of our images.
        notices: What was replaced or is ignored.
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
    def pipeline_name(self) -> str:
        """The pipeline as its file calls it."""
        return self._pipeline.replace("_", "-")

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

    @contextmanager
    def run_request(self) -> Iterator[RunRequest]:
        """Yields the request for a run on Kubeflow."""
        with self.file() as file:
            yield RunRequest(self.parameters, file, self.service_account, self.pipeline_root)

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
            return {"kind": "PipelineJob", **self.shown_pipeline_job()}
        shown = {
            "kind": "pipeline run",
            "name": self.job.job_id,
            "pipeline": self.pipeline_name,
            "serviceAccount": self.service_account,
            "pipelineRoot": self.pipeline_root,
            "parameters": dict(self.parameters),
        }
        return {name: value for name, value in shown.items() if value or self.target == "kubeflow"}

    def shown_pipeline_job(self) -> dict[str, Any]:
        """Returns the body of the run on Vertex AI with the pipeline's name in place of its text."""
        # A thousand lines that stand in pipelines/compiled/vertex.
        return {**self.pipeline_job(), "pipelineSpec": self.pipeline_name}


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
    # A region that a variable names is meant for Vertex AI alone.
    region = place["region"] if target == "vertex" or given("region") else ""
    config = training_input(options, region)
    words = list(words)
    job_id = words.pop(0) if words and not words[0].startswith("-") else config.job_id
    check_sides(words)
    form = options["form"] or ("job" if target == "vertex" else "pipeline")
    if form == "job" and target != "vertex":
        raise InvalidArgumentError(
            f"--as job does not go with --target {target}", remedy="use --as pipeline, or --target vertex"
        )
    made = planned(
        job_id or time.strftime("imgpipe_%Y%m%d_%H%M%S"),
        words,
        config,
        target=target,
        form=form,
        images=images_of(options),
        strategy=options["strategy"],
        pipeline_root=options["pipeline_root"],
        endpoint=place["endpoint"],
        retrain=options["retrain"],
        inputs=options["inputs"],
    )
    notices = [*_ignored_flags(target, form)]
    if config.job_id and job_id != config.job_id:
        notices.append(f"jobId={config.job_id} is ignored: the command line says {job_id}")
    if region and config.region != region:
        notices.append(
            f"GOOGLE_CLOUD_REGION={region} is ignored: the config's region, {config.region}, goes before it"
        )
    return dataclasses.replace(made, notices=(*notices, *made.notices))


def _ignored_flags(target: str, form: str) -> Iterator[str]:
    """Yields what is told of flags that stand on the command line and have nothing to act on."""
    reasons = {}
    if target == "local":
        reasons = {
            "pipeline_root": "the artifacts of a run on this machine lie in its own folder",
            "image_registry": "the steps run in this environment, not in an image",
            "images_lock": "the steps run in this environment, not in an image",
        }
    elif form == "job":
        reasons = {"pipeline_root": "the training alone has no artifacts of a pipeline; add --as pipeline"}
    if given("images_lock"):
        reasons = {"image_registry": "--images-lock goes before it", **reasons}
    reasons |= {
        "staging_bucket": "no code is staged: the image holds the training",
        "verbosity": "imgpipe says what matters, on stderr; --format json is for programs",
        "quiet": "imgpipe asks no questions",
    }
    for name, reason in reasons.items():
        if given(name):
            yield f"--{name.replace('_', '-')} is ignored: {reason}"


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
    inputs: Sequence[str] = (),
) -> Submission:
    """Checks a submission whole and makes its request; the arguments are attributes of ``Submission``.

    ``endpoint`` is Vertex AI's address, if it is not Google's: a pipeline's steps need it too. ``inputs``
    are ``NAME=VALUE`` words for what the pipeline takes on this target alone.

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
    target_inputs = parse_target_inputs(
        inputs, target=target, form=form, tunes=bool(config.hyperparameters), images=images
    )
    of_pipeline = TUNE_PIPELINE_ARGUMENTS if config.hyperparameters else PIPELINE_ARGUMENTS
    classes = JOB_ARGUMENTS if form == "job" else of_pipeline
    if form == "job":
        _check_no_pipeline_arguments([*config.arguments, *words])
    job = plan_job(
        job_id,
        words,
        config,
        arguments_classes=classes,
        strategy=strategy,
        resumes=target == "local",
        on_kubernetes=target == "kubeflow",
    )

    account, own_notices = config.service_account, list[str]()
    if target == "kubeflow" and "@" in account:
        told = f"{config.name('serviceAccount')}={account} is ignored"
        reason = "an account of Google Cloud is none of Kubernetes"
        own_notices.append(f"{told}: {reason}; --service-account takes the name of a ServiceAccount")
        account = ""
    if retrain and job.values.get("pretrained_checkpoint_path"):
        own_notices.append(
            "--pretrained_checkpoint_path has an effect only as long as no model serves: --retrain starts "
            "from the one that does"
        )

    def image_of(machine: Machine) -> str:
        return images.of_training(machine.kind)

    made = Submission(
        job,
        form,
        target,
        images,
        (*job.notices, *own_notices),
        pipeline_root=pipeline_root if target != "local" else "",
        # A run on this machine is the user's own.
        service_account=account if target != "local" else "",
        retrain=retrain,
    )
    if form == "job":
        return dataclasses.replace(made, request=vertex_request(job, image_of))
    for arguments_class in (*of_pipeline, *((ServingModelArguments,) if retrain else ())):
        from_values(arguments_class, job.values)
    check_deploy_target(target, job.values)
    root = uri_of_mounted(pipeline_root) if target == "vertex" else pipeline_root
    check_bucket(root, name=f"--pipeline-root={pipeline_root}")
    if target == "vertex" and config.region:
        check_region(config.region, name=config.name("region"), where=config.where("region"))
    if target != "vertex":
        check_paths(target, job.values)
    if target == "kubeflow" and pipeline_root and not pipeline_root.startswith(_STORES):
        raise InvalidArgumentError(
            f"--pipeline-root={pipeline_root!r} is not in a store that Kubeflow Pipelines knows",
            remedy=f"begin it with {', '.join(_STORES)}, or leave it out for the installation's own",
        )
    if target != "vertex":
        parameters, notices = pipeline_parameters(job, target, image_of, target_inputs)
        if target_inputs:
            parameters.update(image_for_accelerator(parameters, images))
        return dataclasses.replace(made, parameters=parameters, notices=(*made.notices, *notices))
    if not pipeline_root and job.values.get("job_dir"):
        pipeline_root = f"{job.values['job_dir'].rstrip('/')}/artifacts"
    pipeline_root = uri_of_mounted(pipeline_root)
    if not pipeline_root.startswith("gs://"):
        raise InvalidArgumentError(
            f"--pipeline-root={pipeline_root!r} is not a gs:// folder"
            if pipeline_root
            else "neither --pipeline-root nor --job-dir is given: the run has no place for its artifacts",
            remedy="give --pipeline-root, e.g. gs://BUCKET/pipelines",
        )
    parameters = vertex_pipeline_parameters(job, target_inputs)
    if endpoint:
        deployed_in = job.values.get("region", "")
        if deployed_in and config.region and deployed_in != config.region:
            raise InvalidArgumentError(
                f"--endpoint is the address of {config.region}, and the model is deployed in "
                f"region={deployed_in}",
                remedy="deploy it in the same region, or leave --endpoint out",
            )
        parameters["vertex_endpoint"] = endpoint
    notices = (*made.notices, *ignored_in_pipeline(job))
    return dataclasses.replace(made, parameters=parameters, pipeline_root=pipeline_root, notices=notices)


def _check_no_pipeline_arguments(words: Iterable[str]) -> None:
    """Refuses what only the pipeline's other steps take, where the training runs alone."""
    of_job, of_pipeline = flat_fields(JOB_ARGUMENTS), flat_fields(TUNE_PIPELINE_ARGUMENTS)
    for word in words:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in of_pipeline and name not in of_job:
            raise InvalidArgumentError(
                f"{word} is of the whole pipeline, but the training alone was asked for",
                remedy=f"give {_flag(word)} before `--` if the job's is meant; or add --as pipeline there"
                if _flag(word) in FLAGS.values()
                else "add --as pipeline before `--`, or leave it out",
            )


def _flag(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def tell_notices(submission: Submission) -> None:
    """Prints on stderr what was replaced or is ignored."""
    for text in submission.notices:
        notice(text)
