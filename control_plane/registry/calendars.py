"""When freezes stand: iCalendar rules (RFC 5545) read on the wall clock of an IANA time zone.

Where the clocks skip or repeat the hour in which an occurrence begins or ends, the longer reading holds: a freeze
is never cut short by a change of the clocks, and never falls out because its hour does not exist.
"""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil.rrule import rrule, rrulestr

from control_plane.domain.errors import InvalidField
from control_plane.domain.freeze import Calendar, Freeze, Window

logger = logging.getLogger(__name__)

SLACK = timedelta(days=1)  # more than any time zone was ever shifted by
MAX_DURATION_SECONDS = 366 * 86_400.0
MAX_RULE_CHARACTERS = 500
MAX_STARTS_A_DAY = 24
YEARS = range(1970, 2200)
MAX_JOINED = 400  # occurrences without a gap between them; beyond, no end is in sight
UNREADABLE = (InvalidField, ValueError, ArithmeticError, LookupError)

DAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
UNTIL = re.compile(r"\d{8}T\d{6}Z?")
LARGEST_ORDINAL = {"DAILY": 0, "WEEKLY": 0, "MONTHLY": 5, "YEARLY": 52}  # the 5 of BYDAY=5FR
NUMBERS = {  # smallest, largest, and whether it may count from the end
    "INTERVAL": (1, 999, False),
    "COUNT": (1, 10_000, False),
    "BYMONTH": (1, 12, False),
    "BYHOUR": (0, 23, False),
    "BYMINUTE": (0, 59, False),
    "BYMONTHDAY": (1, 31, True),
    "BYYEARDAY": (1, 366, True),
    "BYWEEKNO": (1, 53, True),
    "BYSETPOS": (1, 366, True),
}
OF_LONG_PERIODS = frozenset({"BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS"})  # with DAILY, a search without end
KNOWN = ("FREQ", *NUMBERS, "BYDAY", "WKST", "UNTIL")


def check(calendar: Calendar, starts_at: datetime) -> None:
    """Refuse what recurs never, too often, or not at all in the terms of RFC 5545.

    Raises:
        InvalidField: of `recurrence`, `duration` or `time_zone`.
    """
    zone_of(calendar.time_zone)
    if not 0 < calendar.duration_seconds <= MAX_DURATION_SECONDS:
        raise InvalidField("duration", "must be longer than nothing and at most 366 days")
    _check_parts(_parts(calendar.recurrence))
    if next(_windows(calendar, starts_at, starts_at), None) is None:
        raise InvalidField("recurrence", f"never occurs from {starts_at:%Y-%m-%d %H:%M} on: {calendar.recurrence!r}")


def window_at(freeze: Freeze, moment: datetime) -> Window | None:
    """The time around `moment` in which this freeze stands; None if it does not.

    A calendar that cannot be read, for its time zone is unknown here, say, is taken to stand: what grows can wait.
    A clock that shows a time before the freeze was declared is behind: no freeze waits for it.
    """
    moment = max(moment, freeze.created_at)
    whole = Window(starts_at=freeze.starts_at, ends_at=freeze.ends_at)
    if freeze.lifted_at is not None or not whole.holds(moment):
        return None
    if freeze.calendar is None:
        return whole
    try:
        window = _occurrence_at(freeze.calendar, freeze.starts_at, moment)
    except UNREADABLE as error:
        logger.warning("freeze %s cannot be read and is taken to stand: %s", freeze.freeze_id, error)
        return whole
    if window is None or freeze.ends_at is None:
        return window
    ends_at = freeze.ends_at if window.ends_at is None else min(window.ends_at, freeze.ends_at)
    return Window(starts_at=window.starts_at, ends_at=ends_at)


def next_start(freeze: Freeze, after: datetime) -> datetime | None:
    """When it will stand next, if it does not stand yet; None if it will not any more."""
    if freeze.lifted_at is not None or (freeze.ends_at is not None and freeze.ends_at <= after):
        return None
    if freeze.calendar is None:
        return freeze.starts_at if freeze.starts_at > after else None
    try:
        found = _next_occurrence(freeze.calendar, freeze.starts_at, after)
    except UNREADABLE:
        return None
    return None if found is None or (freeze.ends_at is not None and found >= freeze.ends_at) else found


def zone_of(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidField(
            "time_zone", f"must be an IANA time zone like 'Europe/Berlin' or 'UTC', not {name[:60]!r}"
        ) from None


def moment_of(given: datetime, zone: ZoneInfo, field: str) -> datetime:
    """The moment that is meant, in UTC; without an offset, the first at which the zone's clocks show it.

    Raises:
        InvalidField: the clocks skip it, or it lies outside of the years that calendars are computed in.
    """
    if given.year not in YEARS:
        raise InvalidField(field, f"must lie between {YEARS.start} and {YEARS.stop}, not in {given.year}")
    return given.astimezone(UTC) if given.tzinfo is not None else _shown(given, zone, field)


def _shown(wall: datetime, zone: ZoneInfo, field: str) -> datetime:
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) != wall.replace(fold=0):
        raise InvalidField(field, f"{wall:%Y-%m-%d %H:%M} does not exist in {zone.key}: the clocks skip it")
    return moment


def _occurrence_at(calendar: Calendar, starts_at: datetime, moment: datetime) -> Window | None:
    """The occurrence that holds `moment`, as long as others join it without a gap; None between occurrences."""
    found: Window | None = None
    for count, window in enumerate(_windows(calendar, starts_at, moment)):
        if found is None and window.holds(moment):
            found = window
        elif found is not None:
            assert found.ends_at is not None
            assert window.ends_at is not None
            if window.starts_at > found.ends_at:
                break
            found = Window(starts_at=found.starts_at, ends_at=max(found.ends_at, window.ends_at))
            if count > MAX_JOINED:
                return Window(starts_at=found.starts_at, ends_at=None)
        elif window.starts_at > moment + SLACK:
            break
    return found


def _next_occurrence(calendar: Calendar, starts_at: datetime, after: datetime) -> datetime | None:
    """When the next occurrence begins that has not begun yet."""
    return next((w.starts_at for w in _windows(calendar, starts_at, after) if w.starts_at > after), None)


def _windows(calendar: Calendar, starts_at: datetime, moment: datetime) -> Iterator[Window]:
    """Occurrences in the order in which they begin, from before any that may hold `moment`."""
    zone = zone_of(calendar.time_zone)
    rule = _rule(calendar.recurrence, starts_at.astimezone(zone).replace(tzinfo=None, fold=0), zone)
    duration = timedelta(seconds=calendar.duration_seconds)
    for wall in rule.xafter(moment.astimezone(zone).replace(tzinfo=None) - duration - SLACK, inc=True):
        yield Window(starts_at=_earlier(wall, zone), ends_at=_later(wall + duration, zone))


def _earlier(wall: datetime, zone: ZoneInfo) -> datetime:
    return min(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def _later(wall: datetime, zone: ZoneInfo) -> datetime:
    return max(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


@lru_cache(maxsize=256)
def _rule(recurrence: str, first: datetime, zone: ZoneInfo) -> rrule:
    """`first` is on the wall clock, and so is all that comes out; what was computed once is kept."""
    parts = _parts(recurrence)
    if parts.get("UNTIL", "").endswith("Z"):
        last = datetime.strptime(parts["UNTIL"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).astimezone(zone)
        parts["UNTIL"] = f"{last:%Y%m%dT%H%M%S}"
    rule = rrulestr(";".join(f"{key}={value}" for key, value in parts.items()), dtstart=first, cache=True)
    assert isinstance(rule, rrule)
    return rule


def _parts(recurrence: str) -> dict[str, str]:
    text = recurrence.strip().upper().removeprefix("RRULE:")
    if not 0 < len(text) <= MAX_RULE_CHARACTERS:
        raise InvalidField("recurrence", f"must be an iCalendar RRULE of 1 to {MAX_RULE_CHARACTERS} characters")
    parts: dict[str, str] = {}
    for entry in text.split(";"):
        key, _, value = entry.partition("=")
        if key not in KNOWN or key in parts or not value:
            raise InvalidField(
                "recurrence", f"must be like 'FREQ=WEEKLY;BYDAY=FR', each part once; {entry!r} is not understood"
            )
        parts[key] = value
    return parts


def _check_parts(parts: dict[str, str]) -> None:
    frequency = parts.get("FREQ", "")
    if frequency not in LARGEST_ORDINAL:
        raise InvalidField("recurrence", f"FREQ must be one of {', '.join(LARGEST_ORDINAL)}, not {frequency!r}")
    if frequency in ("DAILY", "WEEKLY") and (misplaced := OF_LONG_PERIODS.intersection(parts)):
        raise InvalidField("recurrence", f"{min(misplaced)} needs FREQ=MONTHLY or FREQ=YEARLY")
    if "COUNT" in parts and "UNTIL" in parts:
        raise InvalidField("recurrence", "takes COUNT or UNTIL, not both")
    for key, value in parts.items():
        if key in NUMBERS:
            _check_numbers(key, value)
    _check_days(parts, LARGEST_ORDINAL[frequency])
    if len(parts.get("BYHOUR", "0").split(",")) * len(parts.get("BYMINUTE", "0").split(",")) > MAX_STARTS_A_DAY:
        raise InvalidField("recurrence", f"BYHOUR and BYMINUTE may name {MAX_STARTS_A_DAY} times of a day at most")
    if "UNTIL" in parts:
        _check_until(parts["UNTIL"])


def _check_numbers(key: str, value: str) -> None:
    smallest, largest, from_end = NUMBERS[key]
    entries = [value] if key in ("INTERVAL", "COUNT") else value.split(",")
    for entry in entries:
        digits = entry.lstrip("+-") if from_end and entry[1:2].isdigit() else entry
        if not (digits.isascii() and digits.isdigit() and len(digits) < 6 and smallest <= int(digits) <= largest):
            sign = ", or that with a minus, from the end" if from_end else ""
            raise InvalidField("recurrence", f"{key} must be {smallest} to {largest}{sign}; not {entry!r}")


def _check_days(parts: dict[str, str], largest_ordinal: int) -> None:
    for entry in [*parts.get("BYDAY", "MO").split(","), parts.get("WKST", "MO")]:
        found = DAY.fullmatch(entry)
        if found is None or (found[1] and not 1 <= abs(int(found[1])) <= largest_ordinal):
            numbered = f", numbered up to {largest_ordinal}" if largest_ordinal else ""
            raise InvalidField("recurrence", f"days must be MO, TU, WE, TH, FR, SA or SU{numbered}; not {entry!r}")


def _check_until(value: str) -> None:
    try:
        datetime.strptime(value.removesuffix("Z"), "%Y%m%dT%H%M%S")  # noqa: DTZ007 - of the calendar's own zone
        is_whole = UNTIL.fullmatch(value) is not None
    except ValueError:
        is_whole = False
    if not is_whole:
        raise InvalidField("recurrence", f"UNTIL must be like 20261224T170000 or 20261224T160000Z, not {value!r}")
