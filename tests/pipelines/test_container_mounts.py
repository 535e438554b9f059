"""What containers see of this machine."""

import pytest
import yaml

from imgpipe.pipelines.container_mounts import seen_from_containers
from imgpipe.pipelines.targets.local import COMPILED

# Arguments that are words, names or whole texts.
NO_PATHS = {
    *("augmentation", "class_weights", "evaluation_split", "export_formats", "freeze", "hyperparameters"),
    *("learning_rate_decay_type", "mixed_precision", "model_type", "optimizer_arguments", "optimizer_type"),
    *("search_algorithm", "stepwise_learning_rate_levels", "stepwise_learning_rate_steps"),
    *("trial_early_stopping", "tune", "weights"),
    # Of a deployment, which containers without a network do into a folder alone.
    *("deploy_name", "deploy_target", "namespace", "project", "region", "serving_image", "serving_url"),
    *("serving_machine_type", "serving_service_account", "vertex_endpoint"),
}


@pytest.mark.parametrize("name", ["", "_tune", "_retrain"])
def test_each_text_that_a_pipeline_takes_is_a_place_or_is_known_to_be_none(name, tmp_path):
    text = (COMPILED / "local" / f"image_classification{name}.yaml").read_text()
    inputs = next(yaml.safe_load_all(text))["root"]["inputDefinitions"]["parameters"]
    texts = {name for name, kind in inputs.items() if kind["parameterType"] == "STRING"}
    for parameter in texts - NO_PATHS:
        (tmp_path / parameter).mkdir(exist_ok=True)
        _, places = seen_from_containers({parameter: str(tmp_path / parameter)})
        assert places.read + places.written == (str(tmp_path / parameter),), parameter


def test_a_list_is_seen_with_the_folder_that_its_images_are_named_from(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.csv").write_text("a.png,a\n")
    _, places = seen_from_containers({"train_csv": str(tmp_path / "lists" / "train.csv")})
    assert places.read == (str(tmp_path / "lists"),)
    assert places.written == ()


def test_relative_paths_become_absolute_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    given = {"images": "photos", "train_csv": "gs://bucket/train.csv", "champion": "auto", "max_steps": 3}
    seen, places = seen_from_containers({**given, "validation_csv": ""})
    assert seen == {**given, "images": str(tmp_path / "photos"), "validation_csv": ""}
    assert places.read == (str(tmp_path / "photos"),)


def test_patterns_are_seen_with_the_folder_in_which_they_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    seen, places = seen_from_containers({"training_data_path": "a/train-*, b/*/train-[1-9]"})
    assert seen["training_data_path"] == f"{tmp_path}/a/train-*,{tmp_path}/b/*/train-[1-9]"
    assert places.read == (f"{tmp_path}/a", f"{tmp_path}/b")


def test_a_folder_is_seen_once_and_what_is_written_to_is_not_seen_read_only(tmp_path):
    job = tmp_path / "job"
    parameters = {
        "job_dir": str(job),
        "train_csv": str(job / "data" / "digits.csv"),
        "images": str(tmp_path / "photos"),
        "champion": str(tmp_path / "photos" / "model"),
        "deploy_dir": str(tmp_path / "serving"),
    }
    _, places = seen_from_containers(parameters, (str(tmp_path / "more"),))
    assert places.read == (str(tmp_path / "more"), str(tmp_path / "photos"))
    assert places.written == (str(job), str(tmp_path / "serving"))
