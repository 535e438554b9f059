"""The command line of the tune step: from TFRecords to ``job_dir/model`` and ``job_dir/model/trial_ID``.

``python -m imgpipe.components.tune --training_data_path=PATTERN --validation_data_path=PATTERN --job-dir=DIR
--tune=initial_learning_rate=log:0.001:0.2 --max_trials=6 ...``, and the training arguments shared by all
trials.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imgpipe.components.common.arguments import from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.published_model import check_model_target, publish_model
from imgpipe.components.common.step import run_command
from imgpipe.components.storage import check_writable, local_path, parse_location
from imgpipe.components.train.__main__ import JobArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.job_dir import check_local
from imgpipe.components.tune.search_space import check_search_space, read_request

_ARGUMENTS = (JobArguments, TuneArguments, TrainingArguments)


def main(command_line: Sequence[str]) -> None:
    """Runs the tuning that the command line describes and publishes the best trial's model."""
    values = parse_command_line(command_line, _ARGUMENTS)
    job = from_values(JobArguments, values)
    tuning = from_values(TuneArguments, values)
    training = from_values(TrainingArguments, values)
    if not tuning.job_dir:
        raise InvalidArgumentError("--job_dir is missing", remedy="use --job_dir=FOLDER")
    check_local(tuning.job_dir)
    job_dir = local_path(tuning.job_dir)
    check_model_target(parse_location(job_dir))
    check_writable(job_dir)
    check_search_space(read_request(tuning), training)
    # Imported here so that an invalid flag is rejected before TensorFlow loads.
    from imgpipe.components.tune.tune import TuningFiles, tune

    with tempfile.TemporaryDirectory() as temporary:
        dataset, model = Path(temporary) / "dataset", Path(temporary) / "model"
        job.write_dataset(dataset, multi_label=training.multi_label)
        tune(tuning, training, dataset, TuningFiles(job_dir.absolute(), model))
        target = publish_model(model, parse_location(job_dir))
    log_event("published", f"tune: published to {target}")


if __name__ == "__main__":
    run_command("tune", lambda: main(sys.argv[1:]), _ARGUMENTS)
