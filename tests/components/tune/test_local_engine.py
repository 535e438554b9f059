import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imgpipe.components.common.errors import (
    InternalError,
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.tune.study import read_trials
from imgpipe.components.tune.trial_process import can_fork_trials
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, best_trial
from tests.waiting import wait_until

from .synthetic import STEPS, search

ROOT = Path(__file__).parents[3]
EXIT_INTERRUPTED, EXIT_OUTPUT = 75, 73


def run(job_dir, **settings):
    return search(job_dir, **settings).run(lambda _: None)


def plan(job_dir, **faults):
    (job_dir / "trials").mkdir(parents=True, exist_ok=True)
    (job_dir / "trials" / "plan.json").write_text(json.dumps(faults))


def runs(job_dir, trial):
    """The process ID, threads, GPUs and first step of each start of a trial."""
    return [line.split() for line in (job_dir / "trials" / str(trial) / "runs.txt").read_text().splitlines()]


def start(job_dir, **settings):
    """Starts a search in its own process."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.components.tune.synthetic",
            json.dumps({"job_dir": str(job_dir), **settings}),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("warm", [True, False], ids=["forked", "spawned"])
def test_six_trials_in_parallel_are_stopped_early_and_ranked(tmp_path, warm):
    # Slow enough that the search receives each evaluation before the next, even on a busy machine.
    plan(tmp_path, pause=0.1)
    trials = run(tmp_path, max_trials=6, max_parallel_trials=3, warm=warm)
    assert [trial.id for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert {trial.state for trial in trials} == {SUCCEEDED}
    stopped = [trial for trial in trials if trial.stop_reason]
    assert stopped
    for trial in stopped:
        assert trial.steps < STEPS
        assert trial.stop_reason.startswith(("successive halving: ", "median rule: "))
    best = best_trial(trials)
    assert not best.stop_reason
    assert best.steps == STEPS
    assert len({runs(tmp_path, trial.id)[0][0] for trial in trials} | {str(os.getpid())}) == 7
    assert (tmp_path / "model" / f"trial_{best.id}" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("fault", "problem", "exit_code"),
    [
        ("crash", "RuntimeError: it crashed, as planned", 70),
        ("segfault", "ended by SIGSEGV", -signal.SIGSEGV),
        ("killed", "the machine may have run out of memory", -signal.SIGKILL),
        ("nan", "not a number any more", 76),
        ("hang", "it hung: no output for 1 s", -signal.SIGKILL),
    ],
)
def test_one_failed_trial_does_not_affect_the_others(tmp_path, fault, problem, exit_code):
    plan(tmp_path, **{"2": fault})
    trials = run(tmp_path, max_trials=4, max_parallel_trials=2, silence=1 if fault == "hang" else 60)
    assert len(trials) == 4
    [failed] = [trial for trial in trials if trial.state == FAILED]
    assert (failed.id, failed.exit_code) == (2, exit_code)
    assert problem in failed.problem
    assert any(f"about to inject the fault {fault}" in line for line in failed.last_lines)
    assert [evaluation["step"] for evaluation in failed.evaluations] == [10]
    # A trial that was killed from outside is restarted once.
    assert len(runs(tmp_path, 2)) == (2 if fault == "killed" else 1)


def test_too_many_failed_trials_end_the_search(tmp_path):
    plan(tmp_path, **{str(number): "crash" for number in (1, 3, 4, 5, 6)})
    with pytest.raises(InternalError, match=r"2 of 3 trials failed \(limit 2\)"):
        run(tmp_path, max_trials=6, max_failed_trials=2)
    trials = read_trials(tmp_path / "study")
    assert [trial.state for trial in trials] == [FAILED, SUCCEEDED, FAILED]


def test_an_error_of_every_trial_ends_the_search_after_the_first(tmp_path):
    plan(tmp_path, **{str(number): "data" for number in range(1, 7)})
    with pytest.raises(InvalidDataError, match="an image cannot be decoded"):
        run(tmp_path, max_trials=6)
    assert len(read_trials(tmp_path / "study")) == 1


def test_cores_and_gpus_are_split_across_trials(tmp_path, monkeypatch):
    monkeypatch.setattr("imgpipe.components.tune.shares.usable_threads", lambda _limit: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b,5")
    plan(tmp_path, pause=0.05)
    trials = run(tmp_path, max_trials=3, max_parallel_trials=3, trial_early_stopping="off")
    given = [runs(tmp_path, trial.id)[0][1:3] for trial in trials]
    assert sorted(given) == [["2", "5"], ["3", "0"], ["3", "GPU-b"]]


def test_at_most_max_parallel_trials_run_in_parallel(tmp_path):
    plan(tmp_path, pause=0.05)
    seen = []
    search(tmp_path, max_trials=5, max_parallel_trials=2).run(
        lambda trials: seen.append(sum(trial.state == RUNNING for trial in trials))
    )
    assert max(seen) == 2


def test_a_grid_search_ends_after_the_last_point(tmp_path):
    trials = run(
        tmp_path,
        tune="initial_learning_rate=0.01,0.02; train_batch_size=16,32",
        max_trials=9,
        max_parallel_trials=3,
        search_algorithm="grid",
    )
    assert {tuple(trial.values.values()) for trial in trials} == {
        (0.01, 16),
        (0.01, 32),
        (0.02, 16),
        (0.02, 32),
    }
    assert len(trials) == 4


def test_a_finished_search_runs_only_additional_trials(tmp_path):
    first = run(tmp_path, max_trials=3)
    assert run(tmp_path, max_trials=3) == first
    more = run(tmp_path, max_trials=4)
    assert more[:3] == first
    assert len(more) == 4
    assert all(len(runs(tmp_path, trial.id)) == 1 for trial in more)


def test_another_search_in_the_same_folder_is_rejected(tmp_path):
    run(tmp_path, max_trials=1)
    with pytest.raises(InvalidArgumentError, match="the study belongs to another search: params was"):
        run(tmp_path, max_trials=1, tune="initial_learning_rate=log:0.001:0.3")


def test_trials_of_an_earlier_search_are_not_counted(tmp_path):
    run(tmp_path / "first", max_trials=4)
    trials = run(tmp_path / "second", max_trials=2, resume_previous_job_id="first")
    assert [trial.id for trial in trials] == [1, 2]
    again = run(tmp_path / "second", max_trials=3, resume_previous_job_id=str(tmp_path / "first"))
    assert [trial.id for trial in again] == [1, 2, 3]
    with pytest.raises(MissingInputError, match="there is no study in"):
        run(tmp_path / "third", max_trials=2, resume_previous_job_id="zeroth")


def test_random_values_do_not_depend_on_interruptions_or_parallelism(tmp_path):
    settings = {"max_trials": 5, "search_algorithm": "random", "trial_early_stopping": "off"}
    whole = run(tmp_path / "whole", **settings)
    parallel = run(tmp_path / "parallel", max_parallel_trials=3, **settings)
    run(tmp_path / "cut", **{**settings, "max_trials": 2})
    cut = run(tmp_path / "cut", **settings)
    values = [[trial.values for trial in trials] for trials in (whole, parallel, cut)]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("victim", ["parent", "child", "both"])
@pytest.mark.parametrize(
    "warm",
    [
        pytest.param(True, id="forked"),
        pytest.param(False, id="spawned", marks=pytest.mark.proof),
    ],
)
def test_a_killed_search_resumes(tmp_path, victim, warm):
    settings = {"max_trials": 4, "max_parallel_trials": 2, "trial_early_stopping": "off", "warm": warm}
    plan(tmp_path, pause=0.3)
    process = start(tmp_path, **settings)
    checkpoints = [tmp_path / "trials" / number / "checkpoint" for number in ("1", "2")]
    wait_until(lambda: all(path.exists() for path in checkpoints), process=process)
    children = [int(runs(tmp_path, trial)[0][0]) for trial in (1, 2)]
    if victim in ("parent", "both"):
        process.send_signal(signal.SIGKILL)
        process.wait()
    if victim in ("child", "both"):
        os.kill(children[0], signal.SIGKILL)
    if victim == "child":
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert "resumes from its checkpoints" in output
    else:
        # Trials without a search exit by themselves, and the study is unlocked.
        wait_until(lambda: not any(map(alive, children)))
        plan(tmp_path, pause=0.0)
        output, _ = (again := start(tmp_path, **settings)).communicate(timeout=60)
        assert again.returncode == 0, output
    trials = read_trials(tmp_path / "study")
    assert [trial.state for trial in trials] == [SUCCEEDED] * 4
    for trial in trials:
        assert [evaluation["step"] for evaluation in trial.evaluations] == [10, 20, 30, 40]
    restarted = [runs(tmp_path, trial) for trial in (1, 2) if len(runs(tmp_path, trial)) > 1]
    assert len(restarted) >= (1 if victim == "child" else 2)
    assert all(int(second[4]) > 0 for _, second in restarted)


def test_a_trial_that_finished_after_its_search_was_killed_is_not_repeated(tmp_path):
    plan(tmp_path, **{"1": "linger"})
    process = start(tmp_path, max_trials=2)
    wait_until((tmp_path / "trials" / "1" / "result.json").exists, process=process)
    [(child, *_)] = runs(tmp_path, 1)
    for pid in (process.pid, int(child)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    trials = run(tmp_path, max_trials=2)
    assert [trial.state for trial in trials] == [SUCCEEDED] * 2
    assert len(runs(tmp_path, 1)) == 1


def test_a_stopped_search_leaves_checkpoints_and_no_processes(tmp_path):
    # Slow enough that no trial ends before the other has started, even on a busy machine.
    plan(tmp_path, pause=5)
    process = start(tmp_path, max_trials=4, max_parallel_trials=2, trial_early_stopping="off")
    checkpoints = [tmp_path / "trials" / number / "checkpoint" for number in ("1", "2")]
    wait_until(lambda: all(path.exists() for path in checkpoints), process=process)
    children = [int(runs(tmp_path, trial)[0][0]) for trial in (1, 2)]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, output
    assert "start it again with the same job_dir" in output
    assert not any(alive(pid) for pid in children)
    assert [trial.state for trial in read_trials(tmp_path / "study")] == [RUNNING] * 2


def test_a_study_in_use_is_rejected(tmp_path):
    plan(tmp_path, pause=0.3)
    first = start(tmp_path, max_trials=2)
    wait_until((tmp_path / "trials" / "1" / "runs.txt").exists, process=first)
    with pytest.raises(OutputError, match=f"another tuner .process {first.pid}. is using the study"):
        run(tmp_path, max_trials=2)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert len(run(tmp_path, max_trials=2)) == 2


@pytest.mark.parametrize("what", ["folder", "file", "another file"])
def test_a_study_that_disappears_ends_the_search_with_the_reason(tmp_path, what):
    plan(tmp_path, pause=0.3)
    process = start(tmp_path, max_trials=3, max_parallel_trials=2)
    wait_until((tmp_path / "trials" / "1" / "checkpoint").exists, process=process)
    children = [int(runs(tmp_path, 1)[0][0])]
    journal = tmp_path / "study" / "journal.log"
    if what == "folder":
        (tmp_path / "study").rename(tmp_path / "elsewhere")
    elif what == "file":
        journal.rename(tmp_path / "elsewhere.log")
    else:
        shutil.copy(journal, tmp_path / "copy")
        os.replace(tmp_path / "copy", journal)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_OUTPUT, output
    assert "can no longer be used" in output
    assert not any(alive(pid) for pid in children)
    if what == "folder":
        (tmp_path / "elsewhere").rename(tmp_path / "study")
        plan(tmp_path, pause=0.0)
        assert [trial.state for trial in run(tmp_path, max_trials=3, max_parallel_trials=2)] == [
            SUCCEEDED
        ] * 3


def test_an_incomplete_last_line_of_the_study_is_removed(tmp_path):
    first = run(tmp_path, max_trials=2)
    with (tmp_path / "study" / "journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x')
    more = run(tmp_path, max_trials=3)
    assert list(more[:2]) == list(first)
    assert len(more) == 3


def test_a_process_that_has_used_tensorflow_is_not_forked():
    program = (
        "from imgpipe.components.tune.trial_process import can_fork_trials\n"
        "from imgpipe.components.tune.trial_run import warm_up\n"
        "warm_up()\n"
        "before = can_fork_trials()\n"
        "from imgpipe.components.common.tf_import import tf\n"
        "tf.constant(1)\n"
        "print(before, can_fork_trials())\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == [str(sys.platform == "linux"), "False"]
    assert can_fork_trials() in (True, False)
