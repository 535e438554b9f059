"""The command: what it writes, and what it refuses before it computes."""

import csv
import json
import socket
import subprocess

import numpy as np
import pytest

import imgpipe as api
from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.audit.audit import audit, audit_images
from imgpipe.components.audit.findings import findings_csv
from imgpipe.components.audit.inspection import inspect_images
from imgpipe.components.audit.report import audit_report
from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import OutputError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from tests.command_line import IMGPIPE
from tests.components.audit.pictures import data_set, encoded, picture, write_random_weights

# The last one is a copy too.
WRONG = {"a/3.jpg", "b/30.jpg", "a/<b>1.jpg"}


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    """A data set with two wrong labels, a copy and a name that is HTML, and features that show the labels."""
    files = {f"{'ab'[n >= 20]}/{n}.jpg": encoded(picture(n)) for n in range(40)}
    files["a/<b>1.jpg"] = encoded(picture(1).resize((120, 120)))
    folder = data_set(tmp_path_factory.mktemp("flawed"), files)
    inspection = inspect_images(read_manifest(folder), folder, 10**9)
    draw = np.random.default_rng(0)
    shown = [("b" in image.path[:1]) != (image.path in WRONG) for image in inspection.images]
    features = draw.normal(0, 0.5, (len(shown), 16)) + np.where(np.array(shown)[:, None], 1, -1)
    return folder, inspection, audit_images(inspection, [features.astype(np.float32)])


def test_the_table_lists_findings_with_suggestions_and_no_action(flawed):
    _, inspection, result = flawed
    rows = list(csv.DictReader(findings_csv(inspection, result.findings).splitlines()))
    assert {row["path"]: row["suggestion"] for row in rows if row["finding"] == "wrong label"} == {
        "a/3.jpg": "relabel:b",
        "b/30.jpg": "relabel:a",
        "a/<b>1.jpg": "",
    }
    assert [row["path"] for row in rows if row["finding"].startswith("copy")] == ["a/<b>1.jpg"]
    assert not any(row["action"] for row in rows)
    assert list(rows[0])[:5] == ["path", "finding", "score", "suggestion", "action"]
    # Excel leaves out empty cells at the end of rows.
    assert all(list(row.values())[-1] for row in rows)


def test_the_decided_table_makes_the_data_set_right(flawed, tmp_path):
    folder, inspection, result = flawed
    rows = list(csv.DictReader(findings_csv(inspection, result.findings).splitlines()))
    with (tmp_path / "decisions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "action": row["suggestion"]} for row in rows)
    images = str(folder.parent / "images")
    arguments = ConvertArguments(images=images, decisions=str(tmp_path / "decisions.csv"))
    manifest = convert(arguments, tmp_path / "data")
    counts = np.sum([split.images_per_label for split in manifest.splits.values()], axis=0)
    assert (counts.tolist(), manifest.made_by["dropped"]) == ([20, 20], 1)


def test_the_page_shows_the_findings_and_escapes_names(flawed):
    folder, inspection, result = flawed
    page = audit_report(read_manifest(folder), folder, inspection, result)
    assert page.count("data:image/jpeg") == 5
    assert "suggestion: relabel:b" in page
    assert "<b>1.jpg" not in page


@pytest.mark.parametrize("counts", [{"a": 12}, {"a": 12, "b": 2}])
def test_labels_that_cannot_be_judged_are_named(counts, tmp_path):
    files = {f"{label}/{n}.jpg": encoded(picture(n)) for label in counts for n in range(counts[label])}
    folder = data_set(tmp_path, files)
    inspection = inspect_images(read_manifest(folder), folder, 10**9)
    result = audit_images(inspection, [np.eye(len(files), 16, dtype=np.float32)])
    assert result.not_judged == tuple(counts)
    assert f"Not judged: {', '.join(counts)}." in audit_report(
        read_manifest(folder), folder, inspection, result
    )


def test_a_table_with_actions_is_not_overwritten(flawed, tmp_path):
    (tmp_path / "decisions.csv").write_text("path,action\na/3.jpg,drop\n")
    with pytest.raises(OutputError, match="1 action"):
        audit(flawed[0], tmp_path, AuditArguments())


def test_an_output_that_cannot_be_written_is_reported_before_the_network_is_loaded(flawed, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        audit(flawed[0], tmp_path / "file", AuditArguments())


def test_a_table_with_actions_is_reported_before_the_conversion(flawed, tmp_path):
    (tmp_path / "decisions.csv").write_text("path;action\na/3.jpg;drop\n")
    command = [IMGPIPE, "audit", "--images", str(flawed[0].parent / "images"), "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 73
    assert "has 1 action" in " ".join(result.stderr.split())
    assert [file.name for file in tmp_path.iterdir()] == ["decisions.csv"]


def test_missing_weights_are_reported_before_the_conversion(flawed, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    command = [
        IMGPIPE,
        "audit",
        "--images",
        str(flawed[0].parent / "images"),
        "--output",
        str(tmp_path / "out"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 69
    text = " ".join(result.stderr.split())
    assert "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5" in text
    assert "from a machine with internet access" in text
    assert "weights to none" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "data", "--images", "flowers"], "--images is given together with --dataset"),
        ([], "no input is given"),
        (["--images", "flowers", "--audit-model-type", "resnet-18"], "audit-model-type"),
    ],
)
def test_wrong_arguments_are_refused(flags, message, tmp_path):
    result = subprocess.run(
        [IMGPIPE, "audit", *flags], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 64
    assert message in " ".join(result.stderr.split())


@pytest.mark.proof
def test_the_command_and_the_python_function_find_the_same(flawed, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(write_random_weights(tmp_path / "keras")))
    images = str(flawed[0].parent / "images")
    command = [IMGPIPE, "audit", "--images", images, "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = api.audit(tmp_path / "out" / "data", output=tmp_path / "python", progress=False)
    assert found.decisions.read_bytes() == (tmp_path / "out" / "decisions.csv").read_bytes()
    assert [row["path"] for row in found.findings if row["finding"].startswith("copy")] == ["a/<b>1.jpg"]
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["shortcuts"] == list(found.shortcuts)


@pytest.mark.parametrize("images", [2, 12])
@pytest.mark.parametrize("multi_label", [False, True])
def test_small_data_sets_of_small_images_are_audited(tmp_path, images, multi_label):
    labels = ["a", "b"]
    for number in range(images):
        picture(number, 16).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{labels[number % 2]}\n" for number in range(images)]
    (tmp_path / "list.csv").write_text("".join(rows))
    source = str(tmp_path / "list.csv")
    arguments = ConvertArguments(train_csv=source, validation_csv=source, multi_label=multi_label)
    manifest = convert(arguments, tmp_path / "data")
    inspection = inspect_images(manifest, tmp_path / "data", 10**9)
    features = np.random.default_rng(0).normal(size=(2 * images, 8)).astype(np.float32)
    result = audit_images(inspection, [features], multi_label=multi_label)
    # Each image is in both splits.
    assert result.counts["copy in another split"] == images
    page = audit_report(manifest, tmp_path / "data", inspection, result)
    assert "Data audit" in page
    summary = result.to_json(manifest.labels)
    unsearched = {"wrong label", "label given away", "what more images would buy"} if multi_label else set()
    assert set(summary["not_searched"]) == unsearched
    assert summary["searched"][-1] == ("copy" if multi_label else "what more images would buy")
    assert ("Not searched" in page) == multi_label
    assert ("labels given away" in page) != multi_label
