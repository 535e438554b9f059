"""The lint step's word list finds every phrase that it lists, and nothing in plain English."""

import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / ".ci"
EXAMPLES = [line.split("\t")[1] for line in (CI / "word_list.tsv").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def repository(tmp_path):
    shutil.copytree(CI, tmp_path / ".ci")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def check(repository, text):
    (repository / "page.md").write_text(text + "\n", encoding="utf-8")
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    return subprocess.run([".ci/check_words"], cwd=repository, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_listed_phrase_fails_the_step(repository, example):
    result = check(repository, f"first line\n{example}")
    assert result.returncode == 1
    assert result.stdout == f"page.md:2:{example}\n"


def test_a_listed_word_fails_the_step_in_a_name_too(repository):
    example = next(example for example in EXAMPLES if example.startswith("encoded "))
    assert check(repository, f"def test_{example.replace(' ', '_')}_each_time(): ...").returncode == 1


@pytest.mark.parametrize(
    "text", ["there is no file", "where is no image", "go one step", "amended", "a label for each line"]
)
def test_plain_english_passes(repository, text):
    assert check(repository, text).returncode == 0


def test_a_copy_without_its_repository_is_searched_too(tmp_path):
    shutil.copytree(CI, tmp_path / ".ci")
    assert subprocess.run([".ci/check_words"], cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "page.md").write_text(EXAMPLES[0] + "\n")
    assert subprocess.run([".ci/check_words"], cwd=tmp_path, check=False).returncode == 1
