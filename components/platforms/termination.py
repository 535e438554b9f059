"""What a step that is terminated does with its remote job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import log_event


@contextmanager
def end_job_if_stopped(
    step: str, job: str, *, end: Callable[[], None], is_stopped: Callable[[], bool], by_hand: str
) -> Iterator[None]:
    """Ends a remote job if the run of the step that follows it in the block is stopped.

    SIGTERM has two meanings: the run was stopped, by its user or by its deadline, or the step's pod was
    evicted. An evicted step starts again in another pod and continues to follow the job, so the job is left
    running; also if ``is_stopped`` does not know. Ctrl-C always stops. An error of the block leaves the job
    as it is. A job that is left running, or cannot be ended, is logged with the command that ends it.

    Args:
        step: For the log.
        job: The job, for the log.
        end: Ends the job. It needs a new connection: the signal may arrive while a connection is taken from
            a pool, whose lock then stays held.
        is_stopped: Asks the platform whether the run was stopped; must return within seconds.
        by_hand: The command that ends the job.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as interruption:
        if isinstance(interruption, KeyboardInterrupt) or is_stopped():
            log_event("job_cancelled", f"{step}: the run was stopped: ending {job}", step=step, job=job)
            try:
                end()
            except PipelineError as error:
                reason = f"{error.problem}; {job} may still be running"
            else:
                raise
        else:
            reason = (
                f"terminated, but the run was not stopped: {job} is left running, and this step continues "
                "to follow it when it is started again"
            )
        log_event(
            "job_left_running",
            f"{step}: {reason}. To end it: {by_hand}",
            severity="WARNING",
            step=step,
            job=job,
            end_with=by_hand,
        )
        raise
