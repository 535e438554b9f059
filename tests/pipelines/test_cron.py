"""Invalid cron expressions are rejected with the wrong field."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.cron import check_cron


@pytest.mark.parametrize(
    "cron",
    [
        "0 3 * * *",
        "*/15 0-6,18-23 1,15 * 1-5",
        "0 3 29 2 *",
        "0 3 31 1-2 *",
        "5/10 0 * * 0",
        # With a step beyond the last number, only the first number matches.
        "0 */24 * * *",
        "*/60 * * * *",
        "0 3 * * */7",
        # Days that match either day field: Mondays in February.
        "0 3 31 2 1",
    ],
)
def test_a_valid_expression_is_accepted(cron):
    check_cron(cron, zone_allowed=False)


@pytest.mark.parametrize("prefix", ["TZ", "CRON_TZ"])
def test_a_time_zone_is_accepted_if_the_target_supports_it(prefix):
    cron = f"{prefix}=America/New_York 0 3 * * 1"
    check_cron(cron, zone_allowed=True)
    with pytest.raises(InvalidArgumentError, match="not support a time zone in a schedule"):
        check_cron(cron, zone_allowed=False)


def test_an_unknown_time_zone_is_rejected_with_a_suggestion():
    with pytest.raises(
        InvalidArgumentError, match="the time zone 'America/New_Yorck' does not exist"
    ) as caught:
        check_cron("TZ=America/New_Yorck 0 3 * * 1", zone_allowed=True)
    assert "TZ=America/New_York" in caught.value.remedy


def test_the_fields_after_a_time_zone_are_checked():
    with pytest.raises(InvalidArgumentError, match="4 fields"):
        check_cron("TZ=UTC 0 3 * *", zone_allowed=True)


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 3 * *", "4 fields"),
        ("", "0 fields"),
        ("0 0 3 * * *", "6 fields"),
        ("daily", "1 fields"),
        ("61 3 * * *", "'61' is not a minute"),
        ("*/0 3 * * *", "'*/0' is not a minute: the step is 0"),
        ("0 3-1 * * *", "'3-1' is not an hour: the range ends before it starts"),
        ("0 3 0 * *", "'0' is not a day of month"),
        ("0 3 * 13 *", "'13' is not a month"),
        ("0 3 * * 7", "'7' is not a day of week"),
        ("0 3 * * MON", "'MON' is not a day of week"),
        ("0 3 1, * *", "'' is not a day of month"),
        ("0 ٣ * * *", "is not an hour"),
        ("0 3 31 2 *", "never occurs: no month of '2' has a day of month '31'"),
        ("0 3 31 4,6,9 *", "no month of '4,6,9' has a day of month '31'"),
        ("0 3 30-31 2 */2", "no month of '2' has a day of month '30-31'"),
    ],
)
def test_an_invalid_expression_or_impossible_date_is_rejected(cron, message):
    with pytest.raises(InvalidArgumentError) as caught:
        check_cron(cron, zone_allowed=True)
    assert message in caught.value.problem
    assert caught.value.remedy
