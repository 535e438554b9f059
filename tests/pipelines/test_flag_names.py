import pytest

from imgpipe.pipelines.commands.flag_names import with_flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_steps=0: must be at least 1", "--max-steps 0: must be at least 1"),
        (
            "set weights to none, or model_type to one of: resnet-50",
            "set --weights to none, or --model-type to one of: resnet-50",
        ),
        ("or raise max_rejected_fraction", "or raise --max-rejected-fraction"),
        ("train_csv='a' and images='b' are set", "--train-csv 'a' and --images 'b' are set"),
        (
            "model is missing\nwhat to do: set model to a folder",
            "--model is missing\nwhat to do: set --model to a folder",
        ),
        # Files, flags, words and paths in other names stay as they are.
        ("there are no images in 'flowers'", "there are no images in 'flowers'"),
        ("--job-dir is job_dir/model/1", "--job-dir is job_dir/model/1"),
        ("hyperparameters.params[0].minValue=2", "hyperparameters.params[0].minValue=2"),
        ("train_batch_size_extra=3", "train_batch_size_extra=3"),
    ],
)
def test_arguments_are_written_as_flags(text, expected):
    assert with_flags(text) == expected


def test_values_of_tune_and_examples_in_python_stay_as_they_are():
    for text in ("use --tune weight_decay=0.1:0.2", 'resume (in Python: job_dir="runs/1")'):
        assert with_flags(text) == text
