"""A checked job and its request, for submit, migrate, check and schedule."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import flat_fields, nearest_name
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.kubeflow.records import ARTIFACT_STORES
from imgpipe.components.platforms.vertex.jobs import parse_message
from imgpipe.components.preflight.arguments import check_arguments
from imgpipe.components.preflight.form import SETTINGS
from imgpipe.components.preflight.pipeline_inputs import (
    PIPELINE_ARGUMENTS,
    RETRAIN,
    TRAIN,
    TUNE,
    TUNE_PIPELINE_ARGUMENTS,
)
from imgpipe.components.preflight.target_rules import check_bucket
from imgpipe.components.storage import uri_of_mounted
from imgpipe.components.tune.job_dir import check_local
from imgpipe.pipelines.ai_platform import (
    JOB_ARGUMENTS,
    TrainingJob,
    check_config_region,
    ignored_in_pipeline,
    pipeline_parameters,
    plan_job,
    vertex_pipeline_parameters,
    vertex_request,
)
from imgpipe.pipelines.commands.job_options import (
    IGNORED_FLAGS,
    check_arguments_after_dashes,
    images_of,
    is_on_command_line,
    training_input,
)
from imgpipe.pipelines.commands.output import notice
from imgpipe.pipelines.commands.target_options import TargetOptions
from imgpipe.pipelines.compiled_pipelines import all_arguments_file, pipeline_file
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.kubeflow_options import (
    NO_ADDITIONS,
    KubeflowOptions,
    check_paths_are_mounted,
    kubeflow_options,
)
from imgpipe.pipelines.machines import Machine
from imgpipe.pipelines.target_inputs import image_for_accelerator, parse_target_inputs, target_fields
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest
from imgpipe.pipelines.targets.vertex_jobs import pipeline_job_body
from imgpipe.pipelines.training_input import FLAGS, TrainingInput

_KUBEFLOW_STORES = tuple(f"{scheme}://" for scheme in ARTIFACT_STORES)


@dataclass(frozen=True)
class Submission:
    """A checked submission, ready to be sent.

    Attributes:
        job: The job.
        form: ``job`` or ``pipeline``.
        target: ``local``, ``kubeflow`` or ``vertex``.
        images: Names of imgpipe's images.
        notices: What was replaced or is ignored, one sentence each.
        request: The kind and the body of a job on Vertex AI.
        parameters: The parameters of a pipeline.
        pipeline_root: The artifact folder of a pipeline; may be empty.
        service_account: The run's account; may be empty.
        retrain: Whether the pipeline starts from the deployed model.
        kubeflow: What is added to the pipeline on Kubeflow.
    """

    job: TrainingJob
    form: str
    target: str
    images: Images
    notices: tuple[str, ...]
    request: tuple[str, Mapping[str, Any]] | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pipeline_root: str = ""
    service_account: str = ""
    retrain: bool = False
    kubeflow: KubeflowOptions = NO_ADDITIONS

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name."""
        return all_arguments_file(self.pipeline, self.target).replace("_", "-")

    @property
    def pipeline(self) -> str:
        """The pipeline's name in ``PIPELINES``."""
        if self.retrain:
            return RETRAIN
        return TUNE if self.job.config.hyperparameters else TRAIN

    @contextmanager
    def file(self) -> Iterator[Path]:
        """Yields the compiled pipeline."""
        name = all_arguments_file(self.pipeline, self.target)
        with pipeline_file(self.target, self.images, name, self.kubeflow) as file:
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
        """Returns the request for ``--dry-run``."""
        if self.request is not None:
            kind, body = self.request
            return {"kind": kind, "region": self.job.config.region, **body}
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
        """Returns the body of the run on Vertex AI with the pipeline's name in place of its long text."""
        return {**self.pipeline_job(), "pipelineSpec": self.pipeline_name}


def submission_of(target: TargetOptions, options: Mapping[str, Any], arguments: Sequence[str]) -> Submission:
    """Returns the checked submission of a command line.

    Args:
        target: The target.
        options: The values of ``submission_options``.
        arguments: The job id, if it is given, and the training's arguments.

    Raises:
        InvalidArgumentError: naming the field or flag, its value and what to do.
    """
    # The environment variable for the region is for Vertex AI only.
    region = target.region if target.name == "vertex" or is_on_command_line("region") else ""
    config = training_input(options, region)
    arguments = list(arguments)
    job_id = arguments.pop(0) if arguments and not arguments[0].startswith("-") else config.job_id
    check_arguments_after_dashes(arguments)
    form = options["form"] or ("job" if target.name == "vertex" else "pipeline")
    if form == "job" and target.name != "vertex":
        raise InvalidArgumentError(
            f"--as job cannot be used with --target {target.name}",
            remedy="use --as pipeline, or --target vertex",
        )
    submission = plan_submission(
        job_id or time.strftime("imgpipe_%Y%m%d_%H%M%S"),
        arguments,
        config,
        target=target.name,
        form=form,
        images=images_of(options),
        strategy=options["strategy"],
        pipeline_root=options["pipeline_root"],
        endpoint=target.endpoint,
        retrain=options["retrain"],
        inputs=options["inputs"],
    )
    notices = [*_ignored_flags(target.name, form)]
    if config.job_id and job_id != config.job_id:
        notices.append(f"jobId={config.job_id} is ignored: the command line gives {job_id}")
    if region and config.region != region:
        notices.append(
            f"GOOGLE_CLOUD_REGION={region} is ignored: the config's region, {config.region}, overrides it"
        )
    added = kubeflow_options(notify_step=options["notify_step"], volumes=options["volume"])
    added = added if target.name == "kubeflow" else NO_ADDITIONS
    check_paths_are_mounted(added, submission.parameters)
    return dataclasses.replace(submission, kubeflow=added, notices=(*notices, *submission.notices))


def _ignored_flags(target: str, form: str) -> Iterator[str]:
    """Yields notices about flags of this command line that do nothing."""
    reasons: dict[str, str] = {}
    if target == "local":
        reasons = {
            "pipeline_root": "the artifacts of a run on this machine are in its own folder",
            "image_registry": "the steps run in this environment, not in an image",
            "images_lock": "the steps run in this environment, not in an image",
        }
    elif form == "job":
        reasons = {"pipeline_root": "only a pipeline has artifacts; add --as pipeline"}
    if target != "kubeflow":
        reasons["notify_step"] = "only a run on Kubeflow has a webhook"
        reasons["volume"] = "only the pods of a run on Kubeflow have volumes"
    if is_on_command_line("images_lock"):
        reasons = {"image_registry": "--images-lock overrides it", **reasons}
    for name, reason in {**reasons, **IGNORED_FLAGS}.items():
        if reason and is_on_command_line(name):
            yield f"--{name.replace('_', '-')} is ignored: {reason}"


def plan_submission(
    job_id: str,
    arguments: Sequence[str],
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
    """Checks a submission and makes its request.

    Args:
        job_id: The job's id.
        arguments: The training's arguments.
        config: The config.yaml with the flags that override it.
        target: ``local``, ``kubeflow`` or ``vertex``.
        form: ``job`` or ``pipeline``.
        images: Names of imgpipe's images.
        strategy: How Vertex AI allocates machines.
        pipeline_root: The artifact folder of a pipeline; may be empty.
        endpoint: The address of Vertex AI if it is not Google's; a pipeline's steps need it too.
        retrain: Whether the pipeline starts from the deployed model.
        inputs: ``NAME=VALUE`` for inputs that the pipeline has only on this target. ``settings=JSON`` stands
            for arguments and inputs by name, as in the form.

    Raises:
        InvalidArgumentError: naming the field or flag, its value and what to do.
    """
    if retrain and form == "job":
        raise InvalidArgumentError(
            "--retrain needs the pipeline, not only the training", remedy="add --as pipeline"
        )
    if retrain and config.hyperparameters:
        raise InvalidArgumentError(
            "--retrain cannot be used with hyperparameters: it is one training run from existing weights",
            remedy="omit --retrain or the hyperparameters block",
        )
    tunes = bool(config.hyperparameters)
    arguments, inputs = _with_settings(arguments, inputs, target, tunes=tunes)
    target_inputs = parse_target_inputs(inputs, target=target, form=form, tunes=tunes, images=images)
    pipeline_classes = TUNE_PIPELINE_ARGUMENTS if config.hyperparameters else PIPELINE_ARGUMENTS
    classes = JOB_ARGUMENTS if form == "job" else pipeline_classes
    if form == "job":
        _check_no_pipeline_arguments([*config.arguments, *arguments])
    job = plan_job(
        job_id,
        arguments,
        config,
        arguments_classes=classes,
        strategy=strategy,
        resumes=target == "local",
        on_kubernetes=target == "kubeflow",
    )

    account, own_notices = config.service_account, list[str]()
    if target == "kubeflow" and "@" in account:
        own_notices.append(
            f"{config.name('serviceAccount')}={account} is ignored: it is an account of Google Cloud, not of "
            "Kubernetes; give --service-account the name of a ServiceAccount"
        )
        account = ""
    if retrain and job.values.get("pretrained_checkpoint_path"):
        own_notices.append(
            "--pretrained_checkpoint_path is used only while no model is deployed: --retrain starts from "
            "the one that is"
        )

    def image_of(machine: Machine) -> str:
        return images.of_training(machine.kind, target)

    submission = Submission(
        job,
        form,
        target,
        images,
        (*job.notices, *own_notices),
        pipeline_root=pipeline_root if target != "local" else "",
        # A run on this machine runs as the user.
        service_account=account if target != "local" else "",
        retrain=retrain,
    )
    if form == "job":
        request = vertex_request(job, image_of)
        if config.allow_unknown_machine:
            # The client library has names of its own for accelerators: a dry run refuses what it refuses.
            with suppress(ImportError):
                parse_message(*request)
        return dataclasses.replace(submission, request=request)
    notices: tuple[str, ...] = ()
    if target == "vertex":
        parameters = vertex_pipeline_parameters(job, target_inputs)
    else:
        parameters, notices = pipeline_parameters(job, target, image_of, target_inputs)
        if target_inputs:
            parameters.update(image_for_accelerator(parameters, images))
    check_arguments(submission.pipeline, target, parameters)
    if target == "local":
        check_local(str(job.values.get("job_dir", "")))
    root = uri_of_mounted(pipeline_root) if target == "vertex" else pipeline_root
    check_bucket(root, name=f"--pipeline-root={pipeline_root}")
    if target == "vertex":
        check_config_region(config)
    if target == "kubeflow" and pipeline_root and not pipeline_root.startswith(_KUBEFLOW_STORES):
        raise InvalidArgumentError(
            f"--pipeline-root={pipeline_root!r} is not in an artifact store of Kubeflow Pipelines",
            remedy=f"start it with {', '.join(_KUBEFLOW_STORES)}, or omit it for the installation's default",
        )
    if target != "vertex":
        return dataclasses.replace(submission, parameters=parameters, notices=(*submission.notices, *notices))
    if not pipeline_root and job.values.get("job_dir"):
        pipeline_root = f"{job.values['job_dir'].rstrip('/')}/artifacts"
    pipeline_root = uri_of_mounted(pipeline_root)
    if not pipeline_root.startswith("gs://"):
        raise InvalidArgumentError(
            f"--pipeline-root={pipeline_root!r} is not a gs:// folder"
            if pipeline_root
            else "neither --pipeline-root nor --job-dir is given: the run has no folder for its artifacts",
            remedy="use --pipeline-root, e.g. gs://BUCKET/pipelines",
        )
    if endpoint:
        deployed_in = job.values.get("region", "")
        if deployed_in and config.region and deployed_in != config.region:
            raise InvalidArgumentError(
                f"--endpoint is the address of {config.region}, but the model is deployed in "
                f"region={deployed_in}",
                remedy="deploy the model in the same region, or omit --endpoint",
            )
        parameters["vertex_endpoint"] = endpoint
    notices = (*submission.notices, *ignored_in_pipeline(job))
    return dataclasses.replace(
        submission, parameters=parameters, pipeline_root=pipeline_root, notices=notices
    )


def _with_settings(
    arguments: Sequence[str], inputs: Sequence[str], target: str, *, tunes: bool
) -> tuple[list[str], list[str]]:
    """Returns arguments and inputs with those in ``settings={"NAME": VALUE}``.

    Raises:
        InvalidArgumentError: if it is not a JSON object, or there is no such name.
    """
    known = flat_fields(TUNE_PIPELINE_ARGUMENTS).keys()
    training, others = list(arguments), list[str]()
    for text in inputs:
        name, _, value = text.partition("=")
        if name.strip() != SETTINGS:
            others.append(text)
            continue
        try:
            settings = json.loads(value)
        except ValueError as error:
            raise _settings_error(text, str(error)) from None
        if not isinstance(settings, dict):
            raise _settings_error(text, "it is a list or a single value")
        for argument, setting in settings.items():
            written = setting if isinstance(setting, str) else json.dumps(setting)
            if argument in known:
                training.append(f"--{argument}={written}")
                continue
            added = target_fields(target, Images(), tunes=tunes).keys()
            if argument not in added:
                raise InvalidArgumentError(
                    f"--input settings: there is no argument {argument} on target {target}",
                    remedy=nearest_name(argument, [*known, *added]),
                )
            others.append(f"{argument}={written}")
    return training, others


def _settings_error(text: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"--input {text} is not a JSON object: {problem}",
        remedy="""write --input 'settings={"train_batch_size": 64}'""",
    )


def _check_no_pipeline_arguments(arguments: Iterable[str]) -> None:
    """Rejects arguments of the pipeline's other steps if only the training runs."""
    pipeline_only = flat_fields(TUNE_PIPELINE_ARGUMENTS).keys() - flat_fields(JOB_ARGUMENTS).keys()
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if argument.startswith("--") and flag[2:].replace("-", "_") in pipeline_only:
            raise InvalidArgumentError(
                f"--as job runs only the training, which has no argument {flag}",
                remedy=f"use {flag} before `--` for the job's own {flag[2:]}, or add --as pipeline there"
                if flag in FLAGS.values()
                else "add --as pipeline before `--`, or omit it",
            )


def print_notices(submission: Submission) -> None:
    """Prints a submission's notices on stderr."""
    for text in submission.notices:
        notice(text)
