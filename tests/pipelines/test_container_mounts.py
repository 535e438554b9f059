"""The folders of this machine that are mounted into containers."""

import pytest

from imgpipe.pipelines.container_mounts import mounts_for
from imgpipe.pipelines.targets.local_docker import ContainerSettings, docker_runner


def test_the_folder_of_a_list_is_mounted(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.csv").write_text("a.png,a\n")
    _, read_only, writable = mounts_for({"train_csv": str(tmp_path / "lists" / "train.csv")})
    assert read_only == (str(tmp_path / "lists"),)
    assert writable == ()


def test_relative_paths_become_absolute_and_other_values_do_not_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    given = {"images": "photos", "train_csv": "gs://bucket/train.csv", "champion": "auto", "max_steps": 3}
    absolute, read_only, _ = mounts_for({**given, "validation_csv": ""})
    assert absolute == {**given, "images": str(tmp_path / "photos"), "validation_csv": ""}
    assert read_only == (str(tmp_path / "photos"),)


def test_the_folder_above_the_wildcards_of_a_pattern_is_mounted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    absolute, read_only, _ = mounts_for({"training_data_path": "a/train-*, b/*/train-[1-9]"})
    assert absolute["training_data_path"] == f"{tmp_path}/a/train-*,{tmp_path}/b/*/train-[1-9]"
    assert read_only == (f"{tmp_path}/a", f"{tmp_path}/b")


def test_a_folder_inside_another_mount_is_not_mounted_again(tmp_path):
    job = tmp_path / "job"
    parameters = {
        "job_dir": str(job),
        "train_csv": str(job / "data" / "digits.csv"),
        "images": str(tmp_path / "photos"),
        "champion": str(tmp_path / "photos" / "model"),
        "deploy_dir": str(tmp_path / "serving"),
    }
    _, read_only, writable = mounts_for(parameters, (str(tmp_path / "more"),))
    assert read_only == (str(tmp_path / "more"), str(tmp_path / "photos"))
    assert writable == (str(job), str(tmp_path / "serving"))


@pytest.mark.parametrize(("network", "is_seen"), [("none", False), ("bridge", True)])
def test_a_container_with_a_network_has_the_settings_of_buckets(monkeypatch, network, is_seen):
    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_ENDPOINT_URL": "http://minio:9000"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # It replaces this function for the rest of the process.
    monkeypatch.setattr("kfp.local.docker_task_handler.run_docker_container", None)
    environment = docker_runner(ContainerSettings((), (), network)).container_run_args["environment"]
    assert (settings.items() <= environment.items()) == is_seen
    assert any(name.startswith("AWS_") for name in environment) == is_seen
