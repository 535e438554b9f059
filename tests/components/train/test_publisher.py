import json

import pytest

from imgpipe.components.train import publisher as module
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.train import train

from .job import small_training

EVALUATION = Evaluation(step=5, top_1_accuracy=0.5, top_5_accuracy=1.0, loss=1.0, train_loss=1.0)


@pytest.fixture
def clock(monkeypatch):
    """The publisher's clock in seconds; the test advances it."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_publishing_takes_at_most_a_tenth_of_the_time(clock):
    def write(folder, evaluations, best):
        clock[0] += 30

    publisher = Publisher(write, lambda _: None)
    assert not publisher.is_due()
    # The first time is estimated to take 10 seconds; afterwards it is known to take 30.
    clock[0] += 100
    assert publisher.is_due()
    publisher.publish([EVALUATION], EVALUATION)
    clock[0] = 1000 + 599
    assert not publisher.is_due()
    clock[0] = 1000 + 600
    assert publisher.is_due()


def test_the_folder_is_removed_after_publishing():
    published = []

    def write(folder, evaluations, best):
        folder.mkdir()
        (folder / "saved_model.pb").write_text(str(best.step))

    def publish(folder):
        published.append((folder, (folder / "saved_model.pb").read_text()))

    Publisher(write, publish).publish([EVALUATION], EVALUATION)
    ((folder, content),) = published
    assert content == "5"
    assert not folder.exists()


def test_each_better_model_is_published_if_time_allows(coloured_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_TIME_FRACTION", 1e9)
    published = []

    def publish(folder):
        assert (folder / "saved_model.pb").is_file()
        provenance = json.loads((folder / "provenance.json").read_text())
        published.append((provenance["best_step"], len(provenance["evaluations"])))

    arguments = small_training(max_steps=4, train_steps_per_eval=1, ema=0.5)
    result = train(arguments, coloured_dataset(tmp_path / "data"), tmp_path / "model", publish=publish)
    better, best = [], -1.0
    for number, evaluation in enumerate(result.evaluations, start=1):
        if evaluation.top_1_accuracy > best:
            best = evaluation.top_1_accuracy
            better.append((evaluation.step, number))
    assert published == better
