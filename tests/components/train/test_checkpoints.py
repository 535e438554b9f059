import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.common.tf_import import keras
from imgpipe.components.storage import parse_location
from imgpipe.components.train.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    check_same_training,
    from_arrays,
    read_checkpoint_weights,
    to_arrays,
)


def checkpoint(step, **state):
    return Checkpoint(step, {"model/00000/kernel": np.full((2, 3), step, np.float32)}, state)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    arrays = {
        "model/00000/block/kernel": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "model/00001/seed": np.array([1, 2], np.uint32),
        "optimizer/00000/iteration": np.array(7, np.int64),
    }
    state = {"losses": [0.1, 1 / 3], "evaluations": [{"step": 5}], "text": "grün"}
    folder = CheckpointFolder(parse_location(tmp_path / "new" / "checkpoints"), keep=2)
    folder.write(Checkpoint(7, arrays, state))
    read = folder.latest()
    assert (read.step, read.state) == (7, state)
    assert read.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(read.arrays[name], array)


def test_the_last_checkpoints_and_their_best_weights_are_kept(tmp_path):
    folder = CheckpointFolder(parse_location(tmp_path), keep=2)
    for step, best in [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4)]:
        if best == step:
            folder.write_best(step, {}, {"complete": True})
        folder.write(checkpoint(step, best_step=best))
        if step == 4:
            # Step 3's best is still needed.
            assert names(tmp_path) == [
                f"{kind}-0000000{n}.npz" for kind, n in [("best", 2), ("best", 4), ("step", 3), ("step", 4)]
            ]
    assert names(tmp_path) == ["best-00000004.npz", "step-00000005.npz", "step-00000006.npz"]


def test_other_files_are_kept(tmp_path):
    for name in ("notes.txt", "step-1.npz", "step-00000001.npz.bak", "model-00000001.npz"):
        (tmp_path / name).write_text("mine")
    folder = CheckpointFolder(parse_location(tmp_path), keep=1)
    for step in (1, 2, 3):
        folder.write(checkpoint(step))
    assert len(names(tmp_path)) == 5
    assert folder.latest().step == 3


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped bit", "other format", "no state"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, capsys, damage):
    folder = CheckpointFolder(parse_location(tmp_path), keep=2)
    folder.write(checkpoint(1))
    folder.write(checkpoint(2))
    path = tmp_path / "step-00000002.npz"
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bit":
        # In the middle of the kernel's values, which are all equal.
        index = content.index(np.full(6, 2, np.float32).tobytes()) + 9
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
    elif damage == "other format":
        path.write_text("hello")
    else:
        np.savez(path, kernel=np.zeros(2))
    assert folder.latest().step == 1
    assert "step-00000002.npz' in " in capsys.readouterr().out


@pytest.mark.parametrize("keep", [1, 2])
def test_new_checkpoints_are_kept_when_later_ones_are_damaged(tmp_path, keep):
    folder = CheckpointFolder(parse_location(tmp_path), keep=keep)
    folder.write_best(900, {}, {"complete": True})
    folder.write(checkpoint(1000, best_step=900))
    (tmp_path / "step-00001000.npz").write_bytes(b"")
    again = CheckpointFolder(parse_location(tmp_path), keep=keep)
    assert again.latest() is None
    again.write_best(25, {}, {"complete": True})
    again.write(checkpoint(25, best_step=25))
    assert again.latest().step == 25
    assert names(tmp_path) == ["best-00000025.npz", "step-00000025.npz"]


def test_a_checkpoint_with_missing_best_weights_is_skipped(tmp_path):
    folder = CheckpointFolder(parse_location(tmp_path), keep=2)
    folder.write_best(1, {}, {"complete": True})
    folder.write(checkpoint(1, best_step=1))
    folder.write_best(2, {}, {"complete": True})
    folder.write(checkpoint(2, best_step=2))
    (tmp_path / "best-00000002.npz").unlink()
    assert folder.latest().step == 1


def test_an_empty_or_missing_folder_has_no_latest_checkpoint(tmp_path):
    assert CheckpointFolder(parse_location(tmp_path / "absent"), keep=1).latest() is None
    assert CheckpointFolder(parse_location(tmp_path), keep=1).latest() is None


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the checkpoint"):
        CheckpointFolder(parse_location(tmp_path / "file"), keep=1).write(checkpoint(1))


def test_a_checkpoint_of_another_training_is_rejected_with_all_differences(tmp_path):
    previous = {"initial_learning_rate": 0.1, "model_type": "resnet-18", "data_digest": "abc", "removed": 1}
    current = {"initial_learning_rate": 0.2, "model_type": "resnet-18", "data_digest": "def", "new": True}
    check_same_training(checkpoint(1, training=previous), previous, str(tmp_path))
    with pytest.raises(InvalidArgumentError) as caught:
        check_same_training(checkpoint(1, training=previous), current, str(tmp_path))
    message = str(caught.value)
    for part in (
        "data_digest was 'abc', is 'def'",
        "removed was 1, is absent",
        "initial_learning_rate was 0.1, is 0.2",
        "new was absent, is True",
        str(tmp_path),
        "set another job_dir",
    ):
        assert part in message
    assert "model_type" not in message


def test_values_are_restored_in_their_order():
    variables = [keras.Variable(np.float32(number), name=f"v{number}") for number in range(12)]
    values = [variable.numpy() for variable in variables]
    arrays = to_arrays("average", variables[:1], [np.float32(-1)]) | to_arrays("model", variables, values)
    assert from_arrays("model", arrays) == values
    assert from_arrays("optimizer", arrays) == []


def test_the_best_weights_are_named_by_the_paths_of_their_variables(tmp_path):
    variables = [keras.Variable(np.zeros(2, np.float32), name=name) for name in ("kernel", "bias")]
    values = [np.array([1, 2], np.float32), np.array([3, 4], np.float32)]
    folder = CheckpointFolder(parse_location(tmp_path), keep=1)
    folder.write_best(5, to_arrays("model", variables, values), {"complete": True})
    folder.write(checkpoint(9, best_step=5))
    weights = read_checkpoint_weights(parse_location(tmp_path))
    assert weights.keys() == {variable.path for variable in variables}
    np.testing.assert_array_equal(weights[variables[1].path], values[1])


def test_a_folder_without_weights_or_with_only_the_last_layer_is_rejected(tmp_path):
    with pytest.raises(MissingInputError, match="no checkpoint of an evaluated model"):
        read_checkpoint_weights(parse_location(tmp_path))
    folder = CheckpointFolder(parse_location(tmp_path), keep=1)
    folder.write_best(1, {}, {"complete": False})
    folder.write(checkpoint(1, best_step=1))
    with pytest.raises(MissingInputError, match="contains only the last layer"):
        read_checkpoint_weights(parse_location(tmp_path))


def test_checkpoints_in_cloud_storage_are_written_read_and_removed(cloud):
    folder = CheckpointFolder(parse_location("gs://photos/job/checkpoints"), keep=1)
    assert folder.latest() is None
    for step in (1, 2):
        folder.write_best(step, {}, {"complete": True})
        folder.write(checkpoint(step, best_step=step))
    assert folder.latest().step == 2
    np.testing.assert_array_equal(folder.latest().arrays["model/00000/kernel"], np.full((2, 3), 2))
    assert sorted(cloud.contents("job/checkpoints/")) == ["best-00000002.npz", "step-00000002.npz"]
