"""Estimates of time and cost: from sourced figures, and none made up."""

import pytest
from click.testing import CliRunner

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.pipelines.cli import imgpipe
from imgpipe.pipelines.estimates import TABLES, estimate, read_prices, read_throughputs
from imgpipe.pipelines.machines import Machine

PRICES = """
prices:
- {name: n1-standard-8, per_hour: 2, currency: EUR, source: a contract, date: "2026-11-01"}
- {name: NVIDIA_TESLA_T4, per_hour: 1, currency: EUR, region: us-central1,
   source: a contract, date: "2026-11-01"}
- {name: n1-standard-8, per_hour: 0.5, currency: EUR, strategy: spot, source: a contract, date: "2026-11-01"}
- {name: TPU_V2, per_hour: 0.25, currency: EUR, source: a contract, date: "2026-11-01"}
"""
RATES = """
throughputs:
- {model_type: resnet-50, hardware: NVIDIA_TESLA_T4, image_size: 224, images_per_second: 100, factor: 2,
   source: our run, date: "2026-11-02"}
- {model_type: resnet-50, hardware: cpu, vcpus: 2, image_size: 224, images_per_second: 10, factor: 1,
   source: our run, date: "2026-11-02"}
- {model_type: resnet-50, hardware: TPU_V2, image_size: 224, images_per_second: 100, factor: 1,
   source: our run, date: "2026-11-02"}
"""
# 360,000 images.
TRAINING = TrainingArguments(max_steps=3600, train_batch_size=100, model_type="resnet-50")
T4 = Machine("n1-standard-8", "NVIDIA_TESLA_T4", 1)


def estimated(machine, replicas=1, training=TRAINING, prices=PRICES, rates=RATES, **settings):
    return estimate(
        training,
        [(machine, replicas)],
        read_prices(prices, where="prices"),
        read_throughputs(rates, where="rates"),
        **settings,
    )


def test_time_and_cost_have_the_figures_uncertainty_and_name_their_sources():
    told = estimated(T4, region="us-central1")
    assert told.hours == pytest.approx((0.5, 2))
    assert told.cost == pytest.approx((1.5, 6))
    assert "0.5 to 2 hours, 1.5 to 6 EUR" in str(told)
    assert "within a factor of 2: our run, 2026-11-02" in str(told)
    assert "prices: a contract, 2026-11-01" in str(told)


def test_several_accelerators_help_at_best_as_much_as_their_number_and_at_worst_nothing():
    told = estimated(Machine("n1-standard-8", "NVIDIA_TESLA_T4", 4), region="us-central1")
    assert told.hours == pytest.approx((0.125, 2))
    assert told.cost == pytest.approx((0.125 * 6, 2 * 6))


def test_processors_are_counted_in_units_of_the_measured_ones():
    assert estimated(Machine("n1-standard-8")).hours == pytest.approx((2.5, 10))


def test_work_grows_with_the_number_of_pixels():
    training = TrainingArguments(max_steps=3600, train_batch_size=100, model_type="resnet-50", image_size=448)
    assert estimated(T4, training=training).hours == pytest.approx((2, 8))


def test_tpu_cores_have_the_price():
    assert estimated(Machine("cloud-tpu", "TPU_V2", 8)).cost == pytest.approx((0.25, 2))


@pytest.mark.parametrize(
    ("machine", "settings", "words"),
    [
        (T4, {"region": "europe-west4"}, "no price of NVIDIA_TESLA_T4 (standard) in europe-west4"),
        (T4, {"strategy": "spot", "region": "us-central1"}, "no price of NVIDIA_TESLA_T4 (spot)"),
        (Machine("n1-standard-16"), {}, "no price of n1-standard-16"),
        (T4, {"rates": "throughputs: []"}, "no measured rate of resnet-50 on NVIDIA_TESLA_T4"),
        (T4, {"prices": "prices: []"}, "no price of n1-standard-8"),
    ],
)
def test_what_is_not_known_is_said_and_not_made_up(machine, settings, words):
    told = estimated(machine, **settings)
    assert told.cost is None
    assert words in str(told)
    assert "cost unknown" in str(told)


def test_amounts_of_two_currencies_are_not_added():
    prices = PRICES.replace("per_hour: 1, currency: EUR", "per_hour: 1, currency: USD")
    assert "EUR and USD" in str(estimated(T4, prices=prices, region="us-central1"))


@pytest.mark.parametrize("missing", ["source", "date", "currency", "name", "per_hour"])
def test_a_figure_without_source_or_date_is_refused(missing):
    row = {"name": "a", "per_hour": "1", "currency": "USD", "source": "b", "date": "c"}
    del row[missing]
    text = "prices: [{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}]"
    with pytest.raises(InvalidArgumentError, match=missing):
        read_prices(text, where="prices.yaml")


def test_every_shipped_figure_has_source_and_date():
    assert read_prices((TABLES / "prices.yaml").read_text(), where="prices") == ()
    for rate in read_throughputs((TABLES / "throughputs.yaml").read_text(), where="rates"):
        assert "measured by" in rate.source
        assert rate.date
        assert rate.factor > 1


def test_a_submission_tells_its_estimate_with_the_users_own_prices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices.yaml").write_text(PRICES)
    (tmp_path / "rates.yaml").write_text(RATES)
    words = ["--training_data_path=gs://b/t", "--validation_data_path=gs://b/v", "--job-dir=gs://b/j"]
    line = [
        "submit",
        "job_1",
        "--target",
        "vertex",
        "--region",
        "us-central1",
        "--dry-run",
        "--scale-tier",
        "BASIC_GPU",
    ]
    tables = ["--prices", "prices.yaml", "--throughputs", "rates.yaml"]
    training = ["--max_steps=3600", "--train_batch_size=100", "--model_type=resnet-50"]
    told = CliRunner().invoke(imgpipe, [*line, *tables, "--", *words, *training])
    assert "estimate: 0.5 to 2 hours, 1.5 to 6 EUR" in told.stderr
    unknown = CliRunner().invoke(imgpipe, [*line, "--", *words, *training])
    assert "estimate: time unknown, cost unknown" in unknown.stderr
