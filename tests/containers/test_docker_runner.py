"""Steps in containers: their restrictions, their failures, and the same results as in processes."""

import json
import os
import re
import signal
import subprocess

import docker
import pytest
from kfp import compiler, dsl

from containers.docker import docker as docker_command
from imgpipe.components.common.dataset import read_manifest
from imgpipe.pipelines.targets.local import run as run_pipeline
from imgpipe.pipelines.targets.local_docker import JOB_DIR_LABEL, ContainerSettings, run_container
from tests.command_line import IMGPIPE
from tests.end_to_end.runs import run_imgpipe
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]


def compile_script(script, image, file):
    """Compiles a pipeline of one container that runs a shell script."""

    @dsl.container_component
    def step():
        return dsl.ContainerSpec(image=image, command=["sh", "-c"], args=[script])

    @dsl.pipeline(name="one-step")
    def pipeline():
        step().set_caching_options(False)

    compiler.Compiler().compile(pipeline, str(file))
    return file


def containers_of(job_dir):
    """Returns the ids of a run's containers."""
    label = f"--filter=label={JOB_DIR_LABEL}={job_dir}"
    return docker_command("ps", "--all", "--quiet", label).split()


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "file").write_text("seen")
    return ContainerSettings([str(tmp_path / "seen")], [], job_dir=str(tmp_path))


def test_every_container_that_fails_immediately_is_a_failure(images, settings, tmp_path, capfd):
    file = compile_script("exit 3", images["data"], tmp_path / "fails.yaml")
    failures = 0
    for number in range(30):
        try:
            run_pipeline(file, {}, tmp_path / str(number), settings)
        except RuntimeError:
            failures += 1
    assert failures == 30
    assert containers_of(tmp_path) == []


def test_the_output_of_a_container_is_shown_to_the_last_line(images, settings, tmp_path, capfd):
    file = compile_script(
        "seq 5000; printf 'größer 青\\n'; printf last", images["data"], tmp_path / "prints.yaml"
    )
    run_pipeline(file, {}, tmp_path / "artifacts", settings)
    shown = capfd.readouterr().out
    assert [line.strip() for line in shown.splitlines() if line.strip().isdigit()] == [
        str(n) for n in range(1, 5001)
    ]
    assert "größer 青" in shown
    assert "last" in shown


def test_the_last_line_of_a_short_container_is_shown(images, capfd):
    client = docker.from_env()
    # The engine sometimes ends the stream before the last line: one run would not show it.
    for _ in range(15):
        assert run_container(client, images["data"], ["sh", "-c", "seq 5000; printf last"], {}) == 0
        assert capfd.readouterr().out.split() == [*(str(n) for n in range(1, 5001)), "last"]
    client.close()


def test_a_step_has_no_network_no_privileges_and_only_its_mounts(images, settings, tmp_path, capfd):
    script = (
        f"id -u; grep CapEff /proc/self/status; ls /sys/class/net; cat {tmp_path}/seen/file; echo; "
        f"touch {tmp_path}/seen/new /opt/new /etc/new || true; touch /tmp/new && echo written; "
        f"ls {tmp_path}; grep NoNewPrivs /proc/self/status"
    )
    run_pipeline(
        compile_script(script, images["data"], tmp_path / "lists.yaml"), {}, tmp_path / "artifacts", settings
    )
    shown = capfd.readouterr().out
    words = shown.split()
    assert "65534" in words
    assert "CapEff:\t0000000000000000" in shown
    assert "NoNewPrivs:\t1" in shown
    assert "lo" in words
    assert "eth0" not in words
    assert "seen" in words
    assert shown.count("Read-only file system") == 3
    assert "written" in words
    # The pipeline's file is in the same folder, which is not mounted.
    assert "lists.yaml" not in words


def test_a_missing_engine_is_reported_before_anything_is_written(images, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    result = run_imgpipe(tmp_path / "job", "--runner", "docker")
    assert result.status == 69
    assert "the Docker engine does not respond" in result.shown
    assert not (tmp_path / "job").exists()


def test_stopping_a_run_stops_its_container(images, tmp_path):
    process = subprocess.Popen(
        [
            *(IMGPIPE, "run", "--runner", "docker"),
            *("--job-dir", str(tmp_path / "job"), "--max-steps", "100000"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "job" / "run.log"
    progress = '"event": "progress", "message": "train: '
    wait_until(lambda: log.exists() and progress in log.read_text(), 300, process=process)
    assert len(containers_of(tmp_path / "job")) == 1
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    assert containers_of(tmp_path / "job") == []
    # The step received SIGTERM, and left a checkpoint for a later run.
    assert re.search(
        r'"event": "step_failed", "message": "train: .* at step [\d,]+ of 100,000', log.read_text()
    )


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    """Deterministic runs of the digits in processes and in containers, deployed to a folder."""
    results = {}
    for runner in ("process", "docker"):
        folder = tmp_path_factory.mktemp(runner)
        results[runner] = run_imgpipe(
            folder / "job",
            *("--runner", runner, "--deterministic", "true"),
            *("--deploy-target", "local", "--deploy-dir", str(folder / "serving")),
        )
        assert results[runner].status == 0, results[runner].shown
    return results


def test_containers_write_the_same_shards_as_processes(runs):
    shards = [
        {
            name: split.shards
            for name, split in read_manifest(run.artifact("convert", "dataset")).splits.items()
        }
        for run in runs.values()
    ]
    assert shards[0] == shards[1]
    assert all(shard.sha256 for split in shards[0].values() for shard in split)


def test_containers_have_the_same_accuracy_as_processes(runs):
    accuracies = {run.summary["top_1_accuracy"] for run in runs.values()}
    assert len(accuracies) == 1
    assert accuracies.pop() >= 0.97


def test_containers_train_the_same_weights_as_processes(runs):
    from imgpipe.components.common.tf_import import tf

    readers = [
        tf.train.load_checkpoint(str(run.folder / "model/variables/variables")) for run in runs.values()
    ]
    names = [name for name in readers[0].get_variable_to_shape_map() if "classifier_variables" in name]
    assert names
    for name in names:
        in_process, in_container = (reader.get_tensor(name) for reader in readers)
        assert (in_process == in_container).all(), name


def test_containers_leave_the_same_files_as_processes(runs):
    def files_of(run):
        return sorted(path.name for path in run.folder.iterdir() if not path.name.startswith("."))

    assert files_of(runs["process"]) == files_of(runs["docker"])
    for run in runs.values():
        assert (run.folder.parent / "serving" / "1" / "saved_model.pb").is_file()
        assert json.loads((run.folder / "model" / "provenance.json").read_text())["model_type"]
