"""imgpipe's own words: help, and arguments refused before anything is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from imgpipe.components.common.arguments import flat_fields
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS

IMGPIPE = str(Path(sys.executable).parent / "imgpipe")


def imgpipe(*arguments, cwd):
    return subprocess.run([IMGPIPE, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_has_every_pipeline_input_and_the_exit_codes(tmp_path):
    result = imgpipe("run", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for name in flat_fields(PIPELINE_ARGUMENTS):
        assert "--" + name.replace("_", "-") in result.stdout
    assert "Examples:" in result.stdout
    assert "65  The content of a data file is wrong" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-steps", "0"], ["max_steps=0", "at least 1"]),
        (["--max_steps=0"], ["max_steps=0", "at least 1"]),
        (["--model-type", "resnet-19"], ["model_type='resnet-19'", "resnet-18"]),
        (["--max-stepz", "5"], ["--max-stepz", "--max-steps"]),
        (["--max-steps", "many"], ["--max-steps", "'many' is not a valid integer"]),
        (["--optimizer-arguments", "momentun=0.9"], ["momentun", "did you mean momentum?"]),
        (["--warmup-steps", "500"], ["warmup_steps=500", "max_steps=200"]),
        (["--images", "a", "--train-csv", "b"], ["images", "train_csv", "keep one"]),
        (["--validation-csv", "b"], ["validation_csv", "train_csv"]),
        (["--weights", "none", "--freeze", "backbone", "--images", "a"], ["freeze=backbone", "weights=none"]),
        (["--images="], ["--images is empty"]),
        (["--deploy-target", "local"], ["deploy_target=local", "deploy_dir"]),
        (["--min-accuracy", "1.5"], ["min_accuracy=1.5", "at most 1"]),
        (["--train-csv", ""], ["--train-csv is empty"]),
        (["--initial-learning-rate", "inf"], ["initial_learning_rate=inf", "finite"]),
        (["--images", "s3://bucket/images"], ["s3://bucket/images", "local paths and gs://"]),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_written(tmp_path, arguments, words):
    result = imgpipe("run", *arguments, cwd=tmp_path)
    assert result.returncode == 64
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_one_json_line_where_json_is_asked_for(tmp_path):
    result = imgpipe("run", "--max-steps", "0", "--format", "json", cwd=tmp_path)
    error = json.loads(result.stdout)
    assert (error["exit_code"], error["retry_can_help"]) == (64, False)
    assert "max_steps=0" in error["error"]


def test_a_job_dir_with_something_in_it_is_refused_and_left_alone(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    result = imgpipe("run", "--job-dir", str(theirs), cwd=tmp_path)
    assert result.returncode == 73
    assert "not an empty folder" in result.stderr
    assert [file.name for file in theirs.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("job_dir", ["a_file", "a_file/below", "/proc/imgpipe", "n" * 300])
def test_a_job_dir_that_cannot_be_written_is_refused_with_the_reason(tmp_path, job_dir):
    (tmp_path / "a_file").write_text("")
    result = imgpipe("run", "--job-dir", job_dir, cwd=tmp_path)
    assert result.returncode == 73
    assert "what to do" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["predict"], 64, "model is missing"),
        (["predict", "--model", "m", "--images", "x"], 64, "--output-dir is missing"),
        (["predict", "--model", "m", "--images", "x", "--output-dir", "o", "--top-k", "0"], 64, "top_k=0"),
        (["predict", "--model", "m", "--images", "x", "--output-dir", "o"], 66, "is not a folder"),
        (["predict", "--model", "m", "--images", ".", "--output-dir", "o"], 66, "no images in '.'"),
        (["serve", "--model", "m"], 66, "there is no SavedModel in 'm'"),
        (["serve"], 64, "--model is missing"),
        (["serve", "--model", "m", "--port", "99999"], 64, "port=99999"),
    ],
)
def test_predict_and_serve_explain_what_is_wrong(arguments, status, said, tmp_path):
    result = imgpipe(*arguments, cwd=tmp_path)
    assert result.returncode == status
    assert said in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
