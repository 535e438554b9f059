"""What a run was started with is recorded, compared with a continued run, listed and resumed."""

import json
from dataclasses import replace

import pytest

from imgpipe.components.common.errors import OutputError
from imgpipe.pipelines.local_pipeline import RETRAIN, TRAIN, TUNE, prepare_run
from imgpipe.pipelines.run_folder import RunFolder, claimed
from imgpipe.pipelines.run_settings import RunSettings, changed_parameters, read_settings
from tests.command_line import run_command

SETTINGS = {"images": "flowers", "weights": "none", "max_steps": 50}


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(job_dir, *, finished=False, **values):
    """Returns the folder of a run that was started, and published a model if it is finished."""
    prepared = prepare_run(TRAIN, {**SETTINGS, **values, "job_dir": str(job_dir)})
    with claimed(prepared.folder):
        prepared.settings.write(prepared.folder)
        if finished:
            prepared.folder.model.mkdir()
            # The recipe may have decided the number of steps.
            trained = json.dumps({"arguments": {"max_steps": values.get("max_steps", 50)}})
            (prepared.folder.model / "provenance.json").write_text(trained)
    return prepared.folder


def test_settings_are_read_as_they_were_written(current_folder):
    folder = RunFolder(current_folder)
    settings = RunSettings("tune", {"tune": "seed=1,2"}, {"max_steps": 3}, {"network": "none"})
    settings.write(folder)
    assert read_settings(folder) == settings


def test_the_command_line_starts_the_same_run():
    arguments = {"images": "/data/my flowers", "max_steps": 30, "multi_label": True}
    settings = RunSettings("run --retrain", arguments, {}, {"network": "none"})
    assert settings.command_line == (
        "imgpipe run --retrain '--images=/data/my flowers' --max-steps=30 --multi-label=true --runner=docker"
    )
    settings = RunSettings("tune", {"tune": "seed=1,2; weight_decay=0:1"}, {})
    assert settings.command_line == "imgpipe tune --tune=seed=1,2 --tune=weight_decay=0:1"


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"command": "run"}'])
def test_a_folder_without_settings_has_none(current_folder, text):
    folder = RunFolder(current_folder)
    if text is not None:
        folder.settings.write_text(text)
    assert read_settings(folder) is None


def test_the_given_arguments_are_recorded_with_absolute_paths(current_folder):
    settings = read_settings(started("job", train_steps_per_eval=5))
    assert settings.command == "run"
    assert settings.arguments == {
        "images": str(current_folder / "flowers"),
        "weights": "none",
        "max_steps": 50,
        "train_steps_per_eval": 5,
    }
    assert settings.data == str(current_folder / "flowers")
    assert "images" not in settings.options
    assert settings.parameters["recipe"] == "from-scratch"


def test_changed_parameters_are_named_with_both_values():
    changes = changed_parameters({"max_steps": 3, "seed": 7}, {"max_steps": 4, "job_dir": "b"}, TRAIN.inputs)
    assert changes == ["seed was 7, is 0", "max_steps was 3, is 4"]


def test_the_changes_of_a_continued_run_are_named(current_folder):
    job = started("job").job_dir
    prepared = prepare_run(TRAIN, {**SETTINGS, "max_steps": 80, "job_dir": "job"})
    assert prepared.title.endswith(f"\ncontinuing the run in {job}; changed: max_steps was 50, is 80")
    assert not prepared.continues
    same = prepare_run(TRAIN, {**SETTINGS, "images": str(current_folder / "flowers"), "job_dir": str(job)})
    assert same.title.endswith(f"\ncontinuing the run in {job}; changed: nothing")
    assert same.warnings == ()


def test_a_finished_run_continues_only_with_more_steps():
    folder = started("job", finished=True)
    prepared = prepare_run(TRAIN, {**SETTINGS, "max_steps": 51, "job_dir": "job"})
    assert prepared.continues
    with claimed(prepared.folder, continues=True):
        assert folder.model.is_dir()
    for pipeline, steps in ((TRAIN, 50), (TRAIN, 49), (RETRAIN, 51), (TUNE, 51)):
        given = {**SETTINGS, "max_steps": steps, "job_dir": "job"}
        given |= {"tune": "seed=1,2"} if pipeline is TUNE else {}
        given |= {"deploy_target": "local", "deploy_dir": "served"} if pipeline is RETRAIN else {}
        with pytest.raises(OutputError, match="has a finished run") as caught:
            prepare_run(pipeline, given)
        assert "max_steps above 50" in caught.value.remedy


def test_a_finished_run_whose_steps_the_recipe_decided_continues_only_with_more_steps():
    folder = started("job", finished=True)
    settings = read_settings(folder)
    parameters = {name: value for name, value in settings.parameters.items() if name != "max_steps"}
    replace(settings, parameters=parameters).write(folder)
    given = {name: value for name, value in SETTINGS.items() if name != "max_steps"}
    assert prepare_run(TRAIN, {**given, "max_steps": 51, "job_dir": "job"}).continues
    for changes in ({}, {"max_steps": 50}):
        with pytest.raises(OutputError, match="has a finished run") as caught:
            prepare_run(TRAIN, {**given, **changes, "job_dir": "job"})
        assert "max_steps above 50" in caught.value.remedy


def test_an_interrupted_continuation_of_a_finished_run_keeps_its_model():
    folder = started("job", finished=True)
    with pytest.raises(KeyboardInterrupt), claimed(folder, continues=True):
        raise KeyboardInterrupt
    with claimed(folder):
        assert folder.model.is_dir()


def test_resume_names_what_it_cannot_find(current_folder):
    assert "no interrupted run in" in run_command("resume", cwd=current_folder).stderr
    assert "there is no run 'nowhere'" in run_command("resume", "nowhere", cwd=current_folder).stderr
    (current_folder / "folder").mkdir()
    result = run_command("resume", "folder", cwd=current_folder)
    assert (result.returncode, "does not contain the arguments of a run" in result.stderr) == (66, True)


def test_resume_continues_the_last_unfinished_run_with_its_arguments(current_folder):
    """The data does not exist, so that the run ends before its first step."""
    for name, second in (("first", 1), ("last", 2), ("finished", 3)):
        folder = started(current_folder / "imgpipe-runs" / name, finished=name == "finished")
        replace(read_settings(folder), started=f"2030-01-01T00:00:0{second}").write(folder)
    job = current_folder / "imgpipe-runs" / "last"
    for arguments in ([], ["last"], [str(job)]):
        result = run_command("resume", *arguments, "--max-steps", "70", cwd=current_folder)
        assert f"continuing the run in {job}; changed: --max-steps was 50, is 70" in result.stderr
        assert f"the folder {current_folder / 'flowers'} does not exist" in result.stderr
        assert result.returncode == 66
    result = run_command("resume", "last", "--tune", "seed=1,2", cwd=current_folder)
    assert "`imgpipe run`, which started this run, has no argument tune" in result.stderr


def write_evaluation(folder, accuracy):
    evaluation = folder.artifacts / "run" / "evaluate" / "evaluation"
    evaluation.mkdir(parents=True)
    (evaluation / "metrics.json").write_text(json.dumps({"top_1_accuracy": accuracy, "examples": 40}))
    event = {"severity": "INFO", "event": "step_result", "step": "evaluate", "result": "good"}
    event |= {"top_1_accuracy": accuracy, "time": "2030-01-01T00:00:00.000+00:00"}
    folder.log.write_text(json.dumps(event) + "\n")


def test_list_and_compare_show_accuracy_data_and_changed_arguments(current_folder):
    runs = current_folder / "imgpipe-runs"
    write_evaluation(started(runs / "a", finished=True), 0.75)
    write_evaluation(started(runs / "b", finished=True, max_steps=60, images="roses"), 0.8125)
    listed = run_command("list", cwd=current_folder).stdout.splitlines()
    rows = {line.split()[0]: " ".join(line.split()) for line in listed}
    assert rows["a"].endswith("0.7500 flowers weights=none max_steps=50")
    assert rows["b"].endswith("0.8125 roses weights=none max_steps=60")

    result = run_command("compare", "a", str(runs / "b"), "--format", "json", cwd=current_folder)
    compared = {row.pop("name"): tuple(row.values()) for row in json.loads(result.stdout)}
    assert compared["top_1_accuracy"] == (0.75, 0.8125)
    assert compared["max_steps"] == (50, 60)
    assert compared["examples"] == (40, 40)
    assert "weights" not in compared
    assert "different data" in result.stderr
    assert "0.8125" in run_command("compare", "a", "b", cwd=current_folder).stdout
