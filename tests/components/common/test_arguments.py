from dataclasses import dataclass, fields

import pytest

from imgpipe.components.common.arguments import (
    argument,
    check_fields,
    description_of,
    from_values,
    nearest_name,
    parse_command_line,
    with_flags,
)
from imgpipe.components.common.errors import InvalidArgumentError


@dataclass(frozen=True)
class Sample:
    batch_size: int = argument(32, "Images in a step.", minimum=1, maximum=2**31 - 1)
    learning_rate: float = argument(0.1, "How far a step goes.", above=0, below=1)
    momentum: float = argument(0.9, "How much of the last step stays.")
    optimizer: str = argument("sgd", "Which optimizer.", choices=("sgd", "adam", "sgd,adam", ""))
    job_dir: str = argument("", "Where the result goes.")
    augment: bool = argument(False, "Vary the images.")

    def __post_init__(self) -> None:
        check_fields(self)


def parse(*words):
    return parse_command_line(words, [Sample])


def test_flags_are_taken_with_equals_or_space_and_hyphen_or_underscore():
    assert parse("--batch-size=8", "--job_dir", "a=b", "--learning_rate=1e-3", "--augment") == {
        "batch_size": 8,
        "job_dir": "a=b",
        "learning_rate": 0.001,
        "augment": True,
    }
    assert parse("--augment", "false", "--job-dir=")["augment"] is False


def test_whole_floats_are_taken_for_whole_numbers():
    # Tuning services hand integers back as 32.0.
    assert parse("--batch_size=32.0") == {"batch_size": 32}
    assert Sample(batch_size=32.0).batch_size == 32
    assert isinstance(Sample(batch_size=32.0).batch_size, int)
    assert isinstance(Sample(momentum=1).momentum, float)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["batch_size=3"], ["'batch_size=3'", "--name=value"]),
        (["--batchsize=3"], ["--batchsize", "did you mean --batch-size"]),
        (["--xyzzy=3"], ["--xyzzy", "valid names: ", "--optimizer"]),
        (["--job_dir=a", "--job-dir=b"], ["--job-dir", "twice"]),
        (["--job_dir"], ["--job_dir has no value"]),
        (["--job_dir", "--batch_size=3"], ["--job_dir has no value"]),
        (["--batch_size=many"], ["--batch_size=many", "whole number", "at least 1"]),
        (["--batch_size=1.5"], ["--batch_size=1.5", "whole number"]),
        (["--learning_rate=fast"], ["--learning_rate=fast", "a number"]),
        (["--augment=maybe"], ["--augment=maybe", "true or false"]),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_flag_and_what_to_do(words, said):
    with pytest.raises(InvalidArgumentError) as caught:
        parse(*words)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1 and at most 2147483647"),
        ({"batch_size": 1.5}, "batch_size=1.5: must be a whole number"),
        ({"batch_size": True}, "batch_size=True: must be a whole number"),
        ({"batch_size": "3"}, "batch_size='3': must be a whole number"),
        ({"learning_rate": 0}, "learning_rate=0: must be greater than 0 and less than 1"),
        ({"learning_rate": 1.0}, "learning_rate=1.0"),
        ({"learning_rate": 10**400}, "must be a number"),
        ({"momentum": float("nan")}, "momentum=nan: must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"optimizer": "lion"}, "optimizer='lion': must be sgd, adam, 'sgd,adam' or ''"),
        ({"optimizer": "adm"}, "optimizer='adm': must be sgd, adam, 'sgd,adam' or '' (did you mean adam?)"),
        ({"optimizer": None}, 'optimizer=None: must be "sgd", "adam", "sgd,adam" or ""'),
        ({"augment": 1}, "augment=1: must be true or false"),
        ({"job_dir": None}, "job_dir=None: must be text"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_what_is_allowed(values, said):
    with pytest.raises(InvalidArgumentError) as caught:
        Sample(**values)
    assert said in str(caught.value)


def test_all_wrong_values_are_named_together():
    with pytest.raises(InvalidArgumentError) as caught:
        Sample(batch_size=0, learning_rate=2.0, optimizer="x")
    assert all(name in str(caught.value) for name in ("batch_size", "learning_rate", "optimizer"))


def test_from_values_takes_only_its_own():
    assert from_values(Sample, {"batch_size": 4, "other": 1}) == Sample(batch_size=4)


def test_description_ends_with_what_is_allowed():
    described = {field.name: description_of(field) for field in fields(Sample)}
    assert described["learning_rate"] == "How far a step goes. Allowed: greater than 0 and less than 1."
    assert described["job_dir"] == "Where the result goes."


@pytest.mark.parametrize(
    "words", [["--help"], ["--batch-size=8", "-h"], ["--job_dir", "--help", "--nonsense"]]
)
def test_help_lists_every_argument_and_exits_with_zero(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "--batch_size (int, default 32)\n      Images in a step. Allowed: at least 1" in printed
    assert "--job_dir (str)\n      Where the result goes.\n" in printed
    assert "--augment (bool, default False)" in printed


def test_nearest_name_falls_back_on_everything():
    assert nearest_name("tran", ["train", "tune"]) == "did you mean train?"
    assert nearest_name("stage", ["stage1", "stage2", "stage3"]).count(", ") == 1
    assert nearest_name("stage", ["stage1", "stage2"], prefix="--").count(" or --stage") == 1
    assert nearest_name("qqq", ["train", "tune"]) == "valid names: train, tune"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "did you mean --initial-learning-rate?"),
        ("batch_size", "did you mean --train-batch-size?"),
        ("Batch-Size", "did you mean --train-batch-size?"),
        ("ImageSize", "did you mean --image-size?"),
        ("max_step", "did you mean --max-steps?"),
        ("epochs", "an epoch has as many steps as the training images divided by this number"),
        ("gpus", "CUDA_VISIBLE_DEVICES=0"),
    ],
)
def test_the_names_of_other_programs_are_understood(name, meant):
    known = ["max_steps", "train_batch_size", "initial_learning_rate", "image_size", "job_dir"]
    assert meant in nearest_name(name, known, prefix="--")


def test_other_names_are_only_suggested_where_they_are_valid():
    assert nearest_name("lr", ["momentum"]) == "valid names: momentum"
    assert nearest_name("epochs", ["momentum"]) == "valid names: momentum"


NAMES = ("images", "model", "weights", "tune", "max_steps", "job_dir", "image_list", "model_type")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_steps=0: must be at least 1", "--max-steps 0: must be at least 1"),
        (
            "set weights to none, or model_type to one of: resnet-50",
            "set --weights to none, or --model-type to one of: resnet-50",
        ),
        ("image_list='a' and images='b' are set", "--image-list 'a' and --images 'b' are set"),
        ("one of images, image_list and weights", "one of --images, --image-list and --weights"),
        ("those that `weights` names; not weights", "those that --weights names; not weights"),
        (
            "model is missing\nwhat to do: set model to a folder",
            "--model is missing\nwhat to do: set --model to a folder",
        ),
        ("images is empty", "--images is empty"),
        ("set tune, e.g. tune=max_steps=9:99", "set --tune, e.g. --tune max_steps=9:99"),
        # Files, flags, words, values and paths in other names stay as they are.
        ("there are no images in 'flowers'", "there are no images in 'flowers'"),
        ("the images and the model", "the images and the model"),
        ("images and weights", "images and weights"),
        ("--job-dir is job_dir/model/1", "--job-dir is job_dir/model/1"),
        ("hyperparameters.max_steps", "hyperparameters.max_steps"),
        ("max_steps_extra=3", "max_steps_extra=3"),
        ("use --tune max_steps=1:2", "use --tune max_steps=1:2"),
        ("tune='max_steps=1'", "--tune 'max_steps=1'"),
        ('resume (in Python: job_dir="runs/1")', 'resume (in Python: job_dir="runs/1")'),
    ],
)
def test_arguments_are_written_as_flags(text, expected):
    assert with_flags(text, NAMES, hyphens=True) == expected


def test_a_steps_own_flags_have_the_names_of_the_arguments():
    assert with_flags("max_steps=0 and job_dir", NAMES) == "--max_steps=0 and --job_dir"
