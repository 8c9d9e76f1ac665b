"""Recurring windows against the wall clock that people read them on."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidField
from control_plane.domain.freeze import Calendar, Freeze, Window
from control_plane.registry import calendars
from tests.builders import NOON

NEW_YORK = ZoneInfo("America/New_York")
CHANGES = {  # days on which the clocks change, on their own wall clock
    ZoneInfo(zone): [datetime.fromisoformat(day) for day in days]
    for zone, days in {
        "America/New_York": ("2026-03-08", "2026-11-01"),
        "Europe/Berlin": ("2026-03-29", "2026-10-25"),
        "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),  # by half an hour
        "America/Santiago": ("2026-04-04", "2026-09-06"),  # at midnight
        "Africa/Casablanca": ("2026-02-15", "2026-03-22"),  # winter time in Ramadan
        "Pacific/Apia": ("2011-12-30",),  # a day was skipped: the date line moved
        "Asia/Kathmandu": ("2026-03-08",),  # never
    }.items()
}
DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
MOST_SHIFT = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Weekly:
    """A weekly calendar, and the same rule told without any library."""

    zone: ZoneInfo
    first: datetime  # on the wall clock
    days: tuple[int, ...]
    duration: timedelta

    def freeze(self) -> Freeze:
        rule = f"FREQ=WEEKLY;BYDAY={','.join(DAYS[day] for day in self.days)}"
        starts_at = calendars.moment_of(self.first, self.zone, "starts_at")
        return a_freeze(rule, duration=self.duration, zone=self.zone.key, starts_at=starts_at)

    def reads_frozen(self, moment: datetime) -> bool:
        """Whether the wall clock shows a time within an occurrence."""
        shown = moment.astimezone(self.zone).replace(tzinfo=None)
        begins = [
            datetime.combine(shown.date() - timedelta(days=back), self.first.time())
            for back in range(self.duration.days + 2)
        ]
        return any(
            begin.weekday() in self.days and self.first <= begin <= shown < begin + self.duration for begin in begins
        )


def a_freeze(
    recurrence: str,
    *,
    duration: timedelta,
    zone: str = "America/New_York",
    starts_at: datetime = NOON,
    ends_at: datetime | None = None,
) -> Freeze:
    calendar = Calendar(recurrence=recurrence, duration_seconds=duration.total_seconds(), time_zone=zone)
    calendars.check(calendar, starts_at)
    return Freeze(
        freeze_id=1,
        surface=None,
        starts_at=starts_at,
        ends_at=ends_at,
        calendar=calendar,
        owner="ann",
        reason="test",
        bypass_group="",
        created_at=starts_at - timedelta(days=30),
        created_by="ann",
    )


def in_new_york(wall: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(wall).replace(tzinfo=NEW_YORK, fold=fold).astimezone(UTC)


@st.composite
def weeklies(draw: st.DrawFn) -> Weekly:
    """From some days before a change of the clocks on, without and with occurrences that overlap."""
    zone = draw(st.sampled_from(list(CHANGES)))
    change = draw(st.sampled_from(CHANGES[zone]))
    minute = draw(st.integers(0, 24 * 4 - 1)) * 15
    day = change - timedelta(days=draw(st.integers(2, 12)))
    days = draw(st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True))
    duration = timedelta(minutes=15 * draw(st.integers(1, 4 * 60)))
    return Weekly(zone=zone, first=day + timedelta(minutes=minute), days=tuple(days), duration=duration)


def near_the_change(weekly: Weekly, quarters: int) -> datetime:
    """So many quarters of an hour away from the midnight before it, in UTC."""
    change = min(CHANGES[weekly.zone], key=lambda day: abs(day - weekly.first)).replace(tzinfo=UTC)
    return change + timedelta(minutes=15 * quarters)


FOUR_DAYS = st.integers(-2 * 96, 2 * 96)


@settings(deadline=None, max_examples=200)
@given(weeklies(), st.lists(FOUR_DAYS, min_size=1, max_size=20))
def test_a_freeze_stands_whenever_the_wall_clock_shows_it_and_else_only_where_the_clocks_change(
    weekly: Weekly, quarters: list[int]
) -> None:
    freeze = weekly.freeze()

    for moment in (near_the_change(weekly, quarter) for quarter in quarters):
        stands = calendars.window_at(freeze, moment) is not None
        if weekly.reads_frozen(moment):
            assert stands, moment
        elif stands:
            offsets = {(moment + shift).astimezone(weekly.zone).utcoffset() for shift in (-MOST_SHIFT, MOST_SHIFT)}
            assert len(offsets) == 2, moment


@settings(deadline=None, max_examples=200)
@given(weeklies(), FOUR_DAYS)
def test_what_stands_stands_until_it_says_and_not_a_moment_longer(weekly: Weekly, quarter: int) -> None:
    freeze = weekly.freeze()
    moment = near_the_change(weekly, quarter)
    window = calendars.window_at(freeze, moment)

    if window is None:
        after = calendars.next_start(freeze, moment)
        assert after is not None
        assert calendars.window_at(freeze, after) is not None
        assert calendars.window_at(freeze, after - timedelta(seconds=1)) is None
    elif window.ends_at is not None:
        assert calendars.window_at(freeze, window.ends_at) is None
        last = calendars.window_at(freeze, window.ends_at - timedelta(seconds=1))
        assert last is not None
        assert last.ends_at == window.ends_at
    else:
        assert weekly.duration >= timedelta(days=1), "only occurrences that join have no end in sight"


@pytest.mark.parametrize(
    ("begin", "hours", "expected"),
    [
        ("2026-03-08T01:30", 1, ("2026-03-08T06:30", "2026-03-08T07:30")),  # ends in the hour that is skipped
        ("2026-03-08T02:30", 1, ("2026-03-08T06:30", "2026-03-08T07:30")),  # begins in it
        ("2026-03-07T22:00", 10, ("2026-03-08T03:00", "2026-03-08T12:00")),  # nine hours by a stop-watch
        ("2026-11-01T01:30", 1, ("2026-11-01T05:30", "2026-11-01T07:30")),  # begins when it is 1:30 first
        ("2026-11-01T00:30", 1, ("2026-11-01T04:30", "2026-11-01T06:30")),  # ends when it is 1:30 again
        ("2026-10-31T22:00", 10, ("2026-11-01T02:00", "2026-11-01T13:00")),  # eleven hours by a stop-watch
    ],
)
def test_an_hour_that_the_clocks_skip_or_repeat_never_makes_a_freeze_shorter(
    begin: str, hours: int, expected: tuple[str, str]
) -> None:
    at = datetime.fromisoformat(begin)
    starts_at = in_new_york(f"{(at - timedelta(days=3)).date()}T{at.time()}")
    freeze = a_freeze("FREQ=DAILY", duration=timedelta(hours=hours), starts_at=starts_at)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in expected)

    assert calendars.window_at(freeze, first) == Window(starts_at=first, ends_at=last)
    assert calendars.window_at(freeze, first - timedelta(seconds=1)) is None
    assert calendars.window_at(freeze, last) is None


def test_occurrences_that_overlap_are_one_time_until_the_last_ends() -> None:
    thursdays_and_fridays = a_freeze(
        "FREQ=WEEKLY;BYDAY=TH,FR;BYHOUR=9;BYMINUTE=0", duration=timedelta(hours=30), zone="UTC"
    )
    friday = datetime(2026, 3, 6, tzinfo=UTC)

    window = calendars.window_at(thursdays_and_fridays, friday)

    assert window == Window(starts_at=friday - timedelta(hours=15), ends_at=friday + timedelta(hours=39))


def test_occurrences_without_a_gap_have_no_end_in_sight() -> None:
    freeze = a_freeze("FREQ=DAILY", duration=timedelta(days=1))

    window = calendars.window_at(freeze, NOON + timedelta(days=9))

    assert window is not None
    assert window.ends_at is None


@pytest.mark.parametrize(
    ("rule", "stands_on"),
    [
        ("FREQ=MONTHLY;BYMONTHDAY=-1", ["2026-03-31", "2026-04-30"]),
        ("FREQ=MONTHLY;BYDAY=+1FR", ["2026-03-06", "2026-04-03"]),
        ("FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=24,25", ["2026-12-24", "2026-12-25"]),
        ("RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=WE;WKST=SU", ["2026-03-04", "2026-03-18"]),
        ("freq=daily;count=2", ["2026-03-03", "2026-03-04"]),
        ("FREQ=DAILY;UNTIL=20260304T120000", ["2026-03-03", "2026-03-04"]),
        ("FREQ=DAILY;UNTIL=20260304T170000Z", ["2026-03-03", "2026-03-04"]),  # 12:00 in New York
        ("FREQ=DAILY;UNTIL=20260304T165959Z", ["2026-03-03"]),
    ],
)
def test_rules_are_read_as_icalendar_means_them(rule: str, stands_on: list[str]) -> None:
    freeze = a_freeze(rule, duration=timedelta(hours=1), starts_at=in_new_york("2026-03-03T12:00"))
    found: list[datetime] = []
    moment: datetime | None = freeze.starts_at - timedelta(seconds=1)
    while moment is not None and len(found) < 2:
        moment = calendars._next_occurrence(freeze.calendar, freeze.starts_at, moment) if freeze.calendar else None
        found += [moment.astimezone(NEW_YORK)] if moment is not None else []

    assert [str(at.date()) for at in found] == stands_on
    assert {at.time() for at in found} == {time(12)}


def test_a_calendar_that_began_years_ago_is_read_as_fast_as_one_of_today() -> None:
    """What a check costs counts: the tick asks for every rollout."""
    freeze = a_freeze("FREQ=DAILY;BYHOUR=9,17;BYMINUTE=0", duration=timedelta(hours=1), starts_at=NOON)
    in_nine_years = datetime(2035, 3, 5, 9, 30, tzinfo=NEW_YORK).astimezone(UTC)
    calendars.window_at(freeze, in_nine_years)

    before = datetime.now(UTC)
    for _ in range(50):
        assert calendars.window_at(freeze, in_nine_years) is not None
    assert datetime.now(UTC) - before < timedelta(seconds=5)


@settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"FREQ=(DAILY|WEEKLY|MONTHLY|YEARLY)(;[A-Z]{3,8}=[A-Z0-9,+-]{1,6}){0,3}"))
def test_no_rule_breaks_the_reader(rule: str) -> None:
    """What is let through can be computed; what is not is named."""
    try:
        freeze = a_freeze(rule, duration=timedelta(hours=1), zone="Europe/Berlin")
    except InvalidField as refusal:
        named = refusal.field
    else:
        named = "recurrence"
        assert calendars.next_start(freeze, NOON - timedelta(seconds=1)) is not None
    assert named == "recurrence"
