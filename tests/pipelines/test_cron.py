"""Invalid cron expressions are rejected with the wrong field."""

from datetime import UTC, datetime

import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.cron import check_cron, next_time


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
        ("daily", "1 field, not five"),
        ("61 3 * * *", "'61' is not a minute"),
        ("*/0 3 * * *", "'*/0' is not a minute: the step is 0"),
        ("0 3-1 * * *", "'3-1' is not an hour: the range ends before it starts"),
        ("0 3 0 * *", "'0' is not a day of month"),
        ("0 3 * 13 *", "'13' is not a month"),
        ("0 3 * * 8", "'8' is not a day of week"),
        ("0 3 * * MOM", "'MOM' is not a day of week"),
        ("0 3 * * THURSDAY", "'THURSDAY' is not a day of week"),
        ("0 3 * * MON-9", "'MON-9' is not a day of week"),
        ("0 3 * * 7-9", "'7-9' is not a day of week"),
        ("0 3 * * JAN", "'JAN' is not a day of week"),
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


@pytest.mark.parametrize(
    ("cron", "numeric"),
    [
        ("0 3 * * MON", "0 3 * * 1"),
        ("0 3 * jan,Feb sun", "0 3 * 1,2 0"),
        ("0 3 * * 7", "0 3 * * 0"),
        ("0 3 * * 7-7", "0 3 * * 0"),
        ("0 3 * * SUN-TUE", "0 3 * * 0-2"),
        ("0 3 * * FRI-SUN", "0 3 * * 5,6,0"),
        ("0 3 * * 1-7/2,MON-WED", "0 3 * * 1,3,5,0,1-3"),
        ("TZ=UTC 0 3 * * 7", "TZ=UTC 0 3 * * 0"),
    ],
)
def test_names_of_days_and_months_and_7_become_numbers(cron, numeric):
    assert check_cron(cron, zone_allowed=True) == numeric


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", "2026-11-29T03:00:00Z"),
        ("30 2 * * *", "2026-11-30T02:30:00Z"),
        ("0 3 * * 1", "2026-11-30T03:00:00Z"),
        ("*/15 * * * *", "2026-11-29T02:45:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        # Either day field, as neither is a star.
        ("0 3 1 * 3", "2026-12-01T03:00:00Z"),
        ("0 3 * *", ""),
        ("every day", ""),
    ],
)
def test_the_next_time(cron, expected):
    assert next_time(cron, datetime(2026, 11, 29, 2, 30, 0, tzinfo=UTC)) == expected
