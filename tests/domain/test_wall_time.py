from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidField
from control_plane.domain.wall_time import moment

NOW = datetime(2026, 11, 19, 9, 30, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-11-17 14:05", "UTC", datetime(2026, 11, 17, 14, 5, tzinfo=UTC)),
        ("2026-11-17T14:05:30", "UTC", datetime(2026, 11, 17, 14, 5, 30, tzinfo=UTC)),
        ("2026-11-17 14:05", "America/Los_Angeles", datetime(2026, 11, 17, 22, 5, tzinfo=UTC)),
        ("2026-11-17T14:05+01:00", "America/Los_Angeles", datetime(2026, 11, 17, 13, 5, tzinfo=UTC)),
        ("2026-11-17T14:05Z", "UTC", datetime(2026, 11, 17, 14, 5, tzinfo=UTC)),
        ("tuesday 14:05", "UTC", datetime(2026, 11, 17, 14, 5, tzinfo=UTC)),
        ("Tue 14:05", "UTC", datetime(2026, 11, 17, 14, 5, tzinfo=UTC)),
        ("thursday 09:30", "UTC", NOW),
        ("thursday 9:31", "UTC", datetime(2026, 11, 12, 9, 31, tzinfo=UTC)),
        ("8:00", "UTC", datetime(2026, 11, 19, 8, tzinfo=UTC)),
        ("14:05", "UTC", datetime(2026, 11, 18, 14, 5, tzinfo=UTC)),
        ("01:00", "America/Los_Angeles", datetime(2026, 11, 19, 9, 0, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read_as_people_write_it(text: str, zone: str, expected: datetime) -> None:
    assert moment(text, zone, now=NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-17",
        "2026-13-17 14:05",
        "2026-11-17 25:05",
        "25:05",
        "t 14:05",
        "noday 14:05",
        "0001-01-01T00:00+14:00",
    ],
)
def test_what_is_no_moment_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^at: must be a moment like"):
        moment(text, now=NOW)


def test_a_plus_that_a_url_turned_into_a_space_is_explained() -> None:
    with pytest.raises(InvalidField, match="%2B"):
        moment("2026-11-17T14:05 01:00", now=NOW)


def test_a_time_that_the_clocks_skipped_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"^at: 2026-03-29 02:30 was skipped by the clocks of Europe/Berlin"):
        moment("2026-03-29 02:30", "Europe/Berlin", now=NOW)


def test_a_time_that_came_twice_asks_which_is_meant() -> None:
    with pytest.raises(InvalidField, match=r"write 2026-10-25 02:30\+0200 or 2026-10-25 02:30\+0100"):
        moment("2026-10-25 02:30", "Europe/Berlin", now=NOW)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe", "/etc/passwd", "../zones", "UTC\0"])
def test_an_unknown_zone_is_refused_by_its_field(zone: str) -> None:
    with pytest.raises(InvalidField, match=r"^zone: must be a time zone"):
        moment("14:05", zone, now=NOW)


@given(st.text(max_size=40))
def test_whatever_is_written_is_a_moment_or_a_refusal(text: str) -> None:
    try:
        assert moment(text, now=NOW).tzinfo is UTC
    except InvalidField as error:
        assert error.field == "at"  # noqa: PT017
