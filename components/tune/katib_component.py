"""The tune step on Kubeflow as a KFP component: trials run in the step or as a Katib Experiment."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from imgpipe.components.common.docstrings import with_args_of
from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune as tune_in_step
from imgpipe.components.tune.katib_arguments import KATIB, KatibArguments, TrialPodArguments


@with_args_of(
    tune_in_step,
    katib="Where the trials run, and the resources of each Katib trial.",
    pod="Image and secret of the Katib trials.",
)
def tune(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    trials: Output[Artifact],
    tuning: TuneArguments,
    arguments: TrainingArguments,
    katib: KatibArguments,
    pod: TrialPodArguments,
) -> None:
    """Trains many trials with different hyperparameters and keeps the best trial's model."""
    if katib.tune_engine != KATIB:
        tune_in_step(dataset, model, metrics, report, trials, tuning, arguments)
        return
    from imgpipe.components.tune.job_dir import check_shared_with_pods
    from imgpipe.components.tune.outcome import run_step

    check_shared_with_pods(tuning.job_dir)
    try:
        from imgpipe.components.tune.engines.katib import KatibSearch
    except ImportError as error:
        raise UnavailableError(
            f"tune_engine=katib needs a package that is missing from the step's image: {error}",
            remedy="add the extra katib to the image of the train step, or use tune_engine=local",
        ) from None

    run_step(
        *(dataset, model, metrics, report, trials, tuning, arguments),
        # What the step itself writes; the trials write to the job_dir in a bucket.
        job_dir=Path(trials.path),
        engine=lambda spec: KatibSearch(spec, parse_location(tuning.job_dir).absolute(), katib, pod),
        engine_name=KATIB,
    )
