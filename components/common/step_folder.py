"""A folder of the step's own below the pipeline root, which a step that starts again finds again."""

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.storage import deadline, parse_location

_NAME = "job_dir"
# The store may be one that this pod cannot reach.
_SECONDS = 30.0


def default_job_dir(step: str, artifact_uri: str) -> str:
    """Returns the folder that a step on a cluster uses if its user has not set job_dir; "" if there is none.

    It is in the folder of the step and the run, so an evicted step continues there in its next pod. A warning
    says why there is none: the store of the pipeline root is not supported, or it cannot be written to.

    Args:
        step: For the log.
        artifact_uri: The URI of an output artifact. On Kubeflow Pipelines, it is
            ``PIPELINE_ROOT/PIPELINE/RUN_ID/STEP/RANDOM/ARTIFACT``, where RANDOM may change if the step is
            retried (provisionOutputs in backend/src/v2/driver/driver.go). A local path gives "".
    """
    if "://" not in artifact_uri:
        return ""
    folder = f"{artifact_uri.rsplit('/', 2)[0]}/{_NAME}"
    try:
        location = parse_location(folder)
        with deadline(_SECONDS):
            location.check_writable()
    except PipelineError as error:
        log_event(
            "job_dir_missing",
            f"{step}: cannot keep its state in {folder}: {error.problem}. If the pod is evicted, the step "
            "begins again. Set job_dir to a gs:// or s3:// folder that the step may write to, and it resumes",
            severity="WARNING",
            step=step,
        )
        return ""
    log_event("job_dir", f"{step}: keeps its state in {folder}", step=step, job_dir=folder)
    return folder
