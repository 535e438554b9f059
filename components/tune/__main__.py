"""The tuning's command line: TFRecords in, ``job_dir/model`` and ``job_dir/model/trial_ID`` out.

``python -m imgpipe.components.tune --training_data_path=PATTERN --validation_data_path=PATTERN --job-dir=DIR
--tune=initial_learning_rate=log:0.001:0.2 --max_trials=6 ...``, with the training's arguments for what all
trials have in common.
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
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.storage.files import check_writable, local_path
from imgpipe.components.train.__main__ import JobArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.job_dir import check_on_this_machine
from imgpipe.components.tune.search_space import check_search_space, read_request


def main(words: Sequence[str]) -> None:
    """Tunes as the command line says and publishes the best trial's model."""
    values = parse_command_line(words, (JobArguments, TuneArguments, TrainingArguments))
    job = from_values(JobArguments, values)
    tuning = from_values(TuneArguments, values)
    training = from_values(TrainingArguments, values)
    if not tuning.job_dir:
        raise InvalidArgumentError("--job_dir is not given", remedy="--help lists all arguments")
    check_on_this_machine(tuning.job_dir)
    job_dir = local_path(tuning.job_dir)
    check_model_target(tuning.job_dir)
    check_writable(job_dir)
    check_search_space(read_request(tuning), training)
    # Only now: a wrong flag is refused without loading Pillow and TensorFlow.
    from imgpipe.components.convert.convert import convert
    from imgpipe.components.tune.tune import TuningFiles, tune

    with tempfile.TemporaryDirectory() as temporary:
        dataset, model = Path(temporary) / "dataset", Path(temporary) / "model"
        convert(
            ConvertArguments(
                training_data_path=job.training_data_path,
                validation_data_path=job.validation_data_path,
                labels_file=job.labels_file,
                multi_label=training.multi_label,
            ),
            dataset,
        )
        tune(tuning, training, dataset, TuningFiles(job_dir.absolute(), model))
        target = publish_model(model, tuning.job_dir)
    log_event("published", f"tune: published to {target}")


if __name__ == "__main__":
    run_command("tune", lambda: main(sys.argv[1:]))
