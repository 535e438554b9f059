"""The command line: help, and arguments that are rejected before anything is written."""

import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.pipelines import cli
from tests.command_line import IMGPIPE, run_command

COMMANDS = cli.imgpipe.commands


@pytest.mark.parametrize(
    ("command", "arguments_classes", "first", "last"),
    [
        ("run", PIPELINE_ARGUMENTS, "--images", "--network"),
        ("tune", TUNE_PIPELINE_ARGUMENTS, "--images", "--network"),
        ("predict", [BatchPredictArguments], "--model", "--help"),
        ("audit", [ConvertArguments, AuditArguments], "--dataset", "--help"),
        ("serve", [ServeArguments], "--model", "--help"),
    ],
)
def test_help_lists_every_argument_in_its_group(command, arguments_classes, first, last):
    text = CliRunner().invoke(COMMANDS[command], ["--help"], prog_name=f"imgpipe {command}").stdout
    group, groups = "", {}
    for line in text.splitlines():
        if heading := re.fullmatch(r"(\w.*):", line):
            group = heading[1]
        elif flag := re.match(r"  (--[a-z0-9-]+)", line):
            groups[flag[1]] = group
    for name, field in flat_fields(arguments_classes).items():
        assert groups[f"--{name.replace('_', '-')}"] == field.metadata["group"], name
    options = [option for option in COMMANDS[command].params if isinstance(option, click.Option)]
    assert set(groups) == {"--help", *(option.opts[0] for option in options)}
    assert (next(iter(groups)), list(groups)[-1]) == (first, last)


def test_help_has_examples_and_exit_codes(tmp_path):
    result = run_command("run", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Examples:" in result.stdout
    assert "65  The content of a data file is wrong: a row, a record, an image, a label.\n" in result.stdout


def test_the_summary_of_every_command_is_a_whole_sentence():
    summaries = CliRunner().invoke(cli.imgpipe, ["--help"]).stdout.partition("Commands:\n")[2].splitlines()
    assert len(summaries) == len(COMMANDS)
    assert all(re.fullmatch(r"  [a-z-]+ +[A-Z].*[^.]\.", line) for line in summaries)


def commands_below(group):
    for command in group.commands.values():
        yield from commands_below(command) if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize("command", list(commands_below(cli.imgpipe)), ids=lambda command: command.name)
def test_help_says_what_every_option_does_except_for_those_that_are_ignored(command):
    text = CliRunner().invoke(command, ["--help"]).stdout
    described, _, ignored = text.partition("Accepted from gcloud and ignored:")
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert f"  {option.opts[-1]}" in (described if option.help else ignored), option.name


def test_help_names_arguments_as_flags_and_lists_only_options():
    text = " ".join(CliRunner().invoke(COMMANDS["run"], ["--help"]).stdout.split())
    assert "exactly one of --images, --train-csv and --training-data-path" in text
    assert not re.search(r"\w_csv|train_batch|deploy_target", text)
    assert "If --mixup is set too" in text
    assert "[default: from the recipe: by the data (head-then-fine-tune, " in text
    assert CliRunner().invoke(COMMANDS["submit"], ["--help"]).stdout.count("TRAINING ARGUMENTS") == 1


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--max-steps", "0"], ["--max-steps 0", "at least 1"]),
        (["--max_steps=0"], ["--max-steps 0", "at least 1"]),
        (["--model-type", "resnet-19"], ["--model-type 'resnet-19'", "resnet-18"]),
        (["--max-stepz", "5"], ["--max-stepz", "--max-steps"]),
        (["--epochs", "5"], ["no option --epochs", "--max-steps, in steps of --train-batch-size images"]),
        (["--gpu", "0"], ["no option --gpu", "CUDA_VISIBLE_DEVICES"]),
        (["--lr=0.1"], ["no option --lr: did you mean --initial-learning-rate?"]),
        (["--batch_size=8"], ["no option --batch-size: did you mean --train-batch-size?"]),
        (["--model-type", "ResNet50"], ["did you mean resnet-50?"]),
        (["--max-steps", "5", "--max_steps=5"], ["--max-steps is given 2 times"]),
        (["--max-steps", "many"], ["--max-steps", "'many' is not a valid integer"]),
        (["--multi-label", "maybe"], ["--multi-label", "'maybe' is not true or false"]),
        (["flowers/"], ["write --images flowers/"]),
        (["--images", "a.jpg", "b.jpg"], ["'b.jpg' follows", "in quotes"]),
        (["--optimizer-arguments", "momentun=0.9"], ["momentun", "did you mean momentum?"]),
        (["--warmup-steps", "500", "--max-steps", "200"], ["--warmup-steps 500", "--max-steps 200"]),
        (["--images", "a", "--train-csv", "b"], ["--images", "--train-csv", "keep one"]),
        (["--validation-csv", "b"], ["--validation-csv", "--train-csv"]),
        (
            ["--weights", "none", "--freeze", "backbone", "--images", "a"],
            ["--freeze backbone", "--weights none"],
        ),
        (["--images="], ["--images is empty"]),
        (["--deploy-target", "local"], ["--deploy-target local", "--deploy-dir"]),
        (["--min-accuracy", "1.5"], ["--min-accuracy 1.5", "at most 1"]),
        (["--mount", "data"], ["--mount needs --runner docker"]),
        (["--train-csv", ""], ["--train-csv is empty"]),
        (["--initial-learning-rate", "inf"], ["--initial-learning-rate inf", "finite"]),
        (["--images", "az://bucket/images"], ["az://bucket/images", "local paths, gs:// and s3://"]),
    ],
)
def test_a_wrong_argument_is_rejected_before_anything_is_written(tmp_path, arguments, messages):
    result = run_command("run", *arguments, cwd=tmp_path)
    assert result.returncode == 64
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_format_json_an_error_is_one_line_of_json(tmp_path):
    result = run_command("run", "--max-steps", "0", "--format", "json", cwd=tmp_path)
    error = json.loads(result.stdout)
    assert (error["exit_code"], error["retry_can_help"]) == (64, False)
    assert "max_steps=0" in error["error"]


def test_a_job_dir_that_is_not_empty_is_rejected_and_unchanged(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    result = run_command("run", "--job-dir", str(folder), cwd=tmp_path)
    assert result.returncode == 73
    assert "not an empty folder" in result.stderr
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("job_dir", ["a_file", "a_file/below", "/proc/imgpipe", "n" * 300])
def test_a_job_dir_that_cannot_be_written_is_rejected_with_the_reason(tmp_path, job_dir):
    (tmp_path / "a_file").write_text("")
    result = run_command("run", "--job-dir", job_dir, cwd=tmp_path)
    assert result.returncode == 73
    assert "what to do" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["predict"], 64, "model is missing"),
        (["predict", "--model", "m", "--images", "x"], 64, "--output-dir is missing"),
        (["predict", "--model", "m", "--images", "x", "--output-dir", "o", "--top-k", "0"], 64, "--top-k 0"),
        (["predict", "--model", "m", "--images", "x", "--output-dir", "o"], 66, "is not a folder"),
        (["predict", "--model", "m", "--images", ".", "--output-dir", "o"], 66, "no images in '.'"),
        (["serve", "--model", "m"], 66, "there is no folder 'm'"),
        (["serve", "--model", "/usr"], 66, "no saved_model.pb in /usr, /usr/model or /usr/1, /usr/2, ..."),
        (["serve"], 64, "--model is missing"),
        (["serve", "--model", "m", "--port", "99999"], 64, "--port 99999"),
    ],
)
def test_predict_and_serve_reject_invalid_arguments(arguments, status, message, tmp_path):
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == status
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_does_not_end_a_command(stream):
    code = (
        "import sys\n"
        "from rich.console import Console\n"
        "from imgpipe.pipelines.commands.output import is_output_closed, survive_closed_output\n"
        "survive_closed_output()\n"
        "sys.stdin.read()\n"
        f"console = Console(file=sys.{stream})\n"
        "for number in range(10):\n"
        "    console.print('line', number)\n"
        f"print('to {stream}', file=sys.{stream}, flush=True)\n"
        f"sys.exit(5 if is_output_closed() == ({stream!r} == 'stdout') else 6)"
    )
    pipes = {stream: subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **pipes) as process:
        getattr(process, stream).close()
        process.stdin.close()
        assert process.wait(timeout=60) == 5


def test_the_output_of_a_command_may_be_closed(tmp_path):
    with subprocess.Popen([IMGPIPE, "run", "--help"], stdout=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.close()
        assert process.wait(timeout=60) == 0
