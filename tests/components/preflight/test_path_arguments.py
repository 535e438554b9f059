"""Path arguments are declared with a kind, and their values are split into paths."""

import importlib
import pkgutil
import re
from dataclasses import fields, is_dataclass

import pytest

import imgpipe.components
from imgpipe.components.common.arguments import Kind, flat_fields
from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.preflight.inputs import check_inputs
from imgpipe.components.preflight.path_arguments import path_arguments, paths_in
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.serving_model.arguments import ServingModelArguments
from tests.servers.faulty_bucket import BUCKET

# Text arguments that are not paths.
OTHER_TEXT = {
    *("columns", "export_formats", "freeze", "hyperparameters", "optimizer_arguments", "tune"),
    *("stepwise_learning_rate_levels", "stepwise_learning_rate_steps"),
    *("deploy_name", "namespace", "project", "region", "serving_image", "serving_url"),
    *("serving_machine_type", "serving_service_account", "vertex_endpoint"),
    "serving_accelerator_type",
}


def test_every_text_argument_has_a_kind_or_is_listed_as_other_text():
    inputs = flat_fields((*TUNE_PIPELINE_ARGUMENTS, ServingModelArguments))
    texts = {
        name
        for name, field in inputs.items()
        if field.default == "" or (field.type is str and not field.metadata["choices"])
    }
    with_kind = {name for name in texts if inputs[name].metadata["kind"]}
    assert with_kind | OTHER_TEXT == texts
    assert not with_kind & OTHER_TEXT


def test_every_argument_with_the_name_of_a_path_has_a_kind():
    modules = [
        importlib.import_module(f"imgpipe.components.{package.name}.arguments")
        for package in pkgutil.iter_modules(imgpipe.components.__path__)
        if importlib.util.find_spec(f"imgpipe.components.{package.name}.arguments")
    ]
    without_kind = {
        f"{value.__name__}.{field.name}"
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value)
        for field in fields(value)
        if re.search(r"(?<!_per)_(dir|csv|path|file|folder|list)$|^(images|model|records)$", field.name)
        # Other dataclasses than those of arguments have no metadata.
        if not field.metadata.get("kind", "none")
    }
    # A JSON object of container images, set by the compiler.
    assert without_kind == {"RunArguments.images"}


@pytest.mark.parametrize(
    ("name", "value", "paths"),
    [
        ("images", "cats,dogs", ["cats,dogs"]),
        ("images", "a/*.jpg, b/*.jpg", ["a/*.jpg", "b/*.jpg"]),
        ("training_data_path", "a,b", ["a", "b"]),
        ("job_dir", "lr=0.1,bs=32", ["lr=0.1,bs=32"]),
        ("champion", "auto", []),
        ("champion", "models/1", ["models/1"]),
        ("train_csv", "", []),
    ],
)
def test_only_patterns_are_lists(name, value, paths):
    assert paths_in(name, value) == paths


def test_arguments_are_selected_by_kind():
    assert path_arguments(Kind.OUTPUT_FOLDER) == ["output_dir", "job_dir", "deploy_dir"]


@pytest.mark.parametrize("path", ["tf", "tf/model.ckpt-7", "tf/model.ckpt-7.index"])
@pytest.mark.parametrize("store", ["local", "gs"])
def test_a_checkpoint_of_the_original_algorithm_is_refused_before_a_machine_is_rented(
    path, store, tmp_path, cloud
):
    names = [f"model.ckpt-7{end}" for end in (".index", ".meta", ".data-00000-of-00001")]
    for name in ("checkpoint", *names):
        cloud.put(f"tf/{name}", b"x")
        (tmp_path / "tf").mkdir(exist_ok=True)
        (tmp_path / "tf" / name).touch()
    root = tmp_path if store == "local" else f"gs://{BUCKET}"
    with pytest.raises(MissingInputError, match="is a checkpoint of TensorFlow") as caught:
        check_inputs({"pretrained_checkpoint_path": f"{root}/{path}"})
    assert "weights=imagenet" in caught.value.remedy
