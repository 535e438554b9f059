"""A wrong value that is typed into the form ends the run in its first step, with a message that names it."""

import pytest

from tests.cluster.installation import FIRST_STEP_SECONDS, step_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * FIRST_STEP_SECONDS)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer_type", "sgdd"),
        ("max_steps", -5),
        ("max_steps", 4.5),
        ("train_cpu", "lots"),
        ("train_node_selector", {"a": 1}),
        ("train_tolerations", [{"key": "a", "operator": "Sometimes"}]),
        ("images", ""),
        ("images", "no_such_folder"),
    ],
)
def test_a_wrong_value_ends_the_run_in_the_first_step(installation, start, job, name, value):
    values = {"images": f"{installation.folder}/digits", name: value}
    if value == "no_such_folder":
        values["images"] = f"{installation.folder}/no_such_folder"
    check_ends_in_first_step(installation, job, start(**values), name if value != "no_such_folder" else value)


@pytest.mark.parametrize("uploaded", ["image_classification_tune"], indirect=True)
def test_a_search_without_a_space_ends_the_run_in_the_first_step(installation, start, job):
    run_id = start(images=f"{installation.folder}/digits")
    check_ends_in_first_step(installation, job, run_id, "hyperparameters")


def check_ends_in_first_step(installation, job, run_id, named):
    assert installation.wait_until_ended(job, FIRST_STEP_SECONDS) == "FAILED"
    # A pod that was tried again is the same step's.
    assert len(set(map(step_of, installation.pods(run_id)))) == 1
    shown = installation.imgpipe("stream-logs", job)
    assert named in shown.stdout, shown.stdout
