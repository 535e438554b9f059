"""All steps write below a mounted bucket, e.g. /gcs on Vertex AI, which does not rename folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import IMGPIPE
from tests.end_to_end.runs import SMALL, run_imgpipe

SHIM = Path(__file__).parents[1] / "servers" / "mounted_bucket"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = tmp_path / "gcs" / "bucket"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MOUNTED_BUCKET", str(folder))
    monkeypatch.setenv("MOUNTED_BUCKET_REFUSALS", str(tmp_path / "refusals"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SHIM), os.environ.get("PYTHONPATH", "")]))
    return folder


def refusals(bucket):
    return (bucket.parents[1] / "refusals").read_text(encoding="utf-8").splitlines()


def left_over(bucket):
    return [path for path in bucket.rglob(".*") if path.name.endswith((".partial", ".old"))]


def test_the_stand_in_refuses_what_a_mounted_bucket_refuses(bucket):
    (bucket / "folder").mkdir()
    (bucket / "folder" / "file").touch()
    code = (
        "import os, pathlib, shutil\n"
        "def refused(function, *arguments):\n"
        "    try: function(*arguments)\n"
        "    except OSError as error: return error.strerror\n"
        f"os.chdir({str(bucket)!r})\n"
        "print(refused(os.rename, 'folder', 'other'), refused(pathlib.Path('folder').replace, 'other'),\n"
        "    refused(os.link, 'folder/file', 'link'), refused(os.chmod, 'folder/file', 0o600),\n"
        "    refused(os.utime, 'folder/file', (0, 0)),\n"
        "    refused(os.rename, 'folder/file', '/tmp/file'), sep='\\n')\n"
        "os.utime('folder/file')\n"
        "os.replace('folder/file', 'folder/moved')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "Too many open files",
        "Too many open files",
        "Function not implemented",
        "Operation not permitted",
        "Operation not permitted",
        "Invalid cross-device link",
    ]
    assert (bucket / "folder" / "moved").is_file()


def test_every_step_of_a_run_writes_to_a_mounted_bucket(bucket, coloured_folder):
    deploy_dir, data = bucket / "serving" / "colours", bucket / "data"
    arguments = (
        *("--images", str(coloured_folder), "--output-dir", str(data), "--train-batch-size", "8"),
        *("--deploy-target", "local", "--deploy-dir", str(deploy_dir), *SMALL),
    )
    run = run_imgpipe(bucket / "job", *arguments)
    assert run.status == 0, run.shown
    assert (data / "manifest.json").is_file()
    model = Path(run.summary["model"])
    for folder in (model, run.artifact("publish", "exported_model"), deploy_dir / "1"):
        assert (folder / "saved_model.pb").is_file()
        assert (folder / "variables" / "variables.index").is_file()
    # The exported model, the one in job_dir and the deployed one.
    assert sum(line.startswith("rename") for line in refusals(bucket)) >= 3
    predictions = bucket / "predictions"
    result = subprocess.run(
        [
            *(IMGPIPE, "predict", "--model", str(model), "--images", str(coloured_folder)),
            *("--output-dir", str(predictions)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(predictions.glob("predictions-*"))
    assert left_over(bucket) == []


@pytest.mark.proof
def test_a_search_and_the_models_of_its_trials_are_in_a_mounted_bucket(bucket, coloured_folder):
    job_dir = bucket / "tuned"
    result = subprocess.run(
        [
            *(IMGPIPE, "tune", "--job-dir", str(job_dir), "--images", str(coloured_folder)),
            *("--train-batch-size", "8", "--tune", "initial_learning_rate=0.01,0.02", *SMALL),
            *("--max-trials", "2"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads((job_dir / "trials.json").read_text())["trials"]) == 2
    for folder in ("model", "model/trial_1", "model/trial_2"):
        assert (job_dir / folder / "saved_model.pb").is_file()
    # The models of the trials were not copied.
    assert any(line.startswith("rename") for line in refusals(bucket))
    assert left_over(bucket) == []
