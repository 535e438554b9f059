"""When a schedule says that it runs: what cannot be is refused with the field."""

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
        # A step beyond the last number leaves the first.
        "0 */24 * * *",
        "*/60 * * * *",
        "0 3 * * */7",
        # Either of the two day fields may fit: Mondays in February.
        "0 3 31 2 1",
    ],
)
def test_what_comes_is_taken(cron):
    check_cron(cron, zone_allowed=False)


@pytest.mark.parametrize("prefix", ["TZ", "CRON_TZ"])
def test_a_time_zone_is_taken_where_the_target_knows_zones(prefix):
    cron = f"{prefix}=America/New_York 0 3 * * 1"
    check_cron(cron, zone_allowed=True)
    with pytest.raises(InvalidArgumentError, match="not support a time zone in a schedule"):
        check_cron(cron, zone_allowed=False)


def test_a_time_zone_that_is_none_is_refused_with_the_nearest_one():
    with pytest.raises(
        InvalidArgumentError, match="the time zone 'America/New_Yorck' does not exist"
    ) as caught:
        check_cron("TZ=America/New_Yorck 0 3 * * 1", zone_allowed=True)
    assert "TZ=America/New_York" in caught.value.remedy


def test_what_follows_a_time_zone_is_checked():
    with pytest.raises(InvalidArgumentError, match="4 fields"):
        check_cron("TZ=UTC 0 3 * *", zone_allowed=True)


@pytest.mark.parametrize(
    ("cron", "words"),
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
def test_what_is_wrong_or_never_comes_is_refused_with_its_field(cron, words):
    with pytest.raises(InvalidArgumentError) as caught:
        check_cron(cron, zone_allowed=True)
    assert words in caught.value.problem
    assert caught.value.remedy
