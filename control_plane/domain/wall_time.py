"""Moments as people write them: '2026-11-17 14:05', 'tuesday 14:05', '14:05', each in a time zone."""

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from control_plane.domain.errors import InvalidField

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
RULE = (
    "must be a moment like '2026-11-17 14:05', '2026-11-17T14:05:30+01:00' (in a URL a '+' is written %2B), "
    "'tuesday 14:05' or '14:05'"
)
CLOCK = re.compile(r"(?:(?P<day>[a-z]{3,9})\s+)?(?P<clock>\d{1,2}:\d{2}(?::\d{2})?)", re.IGNORECASE)
DATED = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")


def moment(text: str, zone: str = "UTC", *, now: datetime, field: str = "at") -> datetime:
    """The moment in UTC. An offset in the text goes before `zone`; a time without a date is the last one up to `now`.

    Raises:
        InvalidField: also for a time that the zone's clocks skipped, or struck twice.
    """
    where = zone_named(zone)
    text = text.strip()
    if (found := CLOCK.fullmatch(text)) is not None:
        return _latest(found["clock"], found["day"], where, now=now, field=field)
    if DATED.fullmatch(text) is None:
        raise InvalidField(field, RULE)
    try:
        given = datetime.fromisoformat(text)
        return given.astimezone(UTC) if given.tzinfo is not None else _in_zone(given, where, field)
    except (ValueError, OverflowError) as error:
        raise InvalidField(field, RULE) from error


def zone_named(name: str, field: str = "zone") -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise InvalidField(field, f"must be a time zone like 'UTC' or 'Europe/Berlin', not {name!r}") from None


def _latest(clock: str, day: str | None, zone: ZoneInfo, *, now: datetime, field: str) -> datetime:
    """The last time that the zone's clocks showed this, on this day of the week if one is named."""
    try:
        at = time.fromisoformat(clock if clock[2] == ":" else f"0{clock}")
    except ValueError:
        raise InvalidField(field, RULE) from None
    wanted = None if day is None else _weekday(day, field)
    today = now.astimezone(zone).date()
    for days_ago in range(9):
        date = today - timedelta(days=days_ago)
        if wanted is None or date.weekday() == wanted:
            found = _in_zone(datetime.combine(date, at), zone, field)
            if found <= now:
                return found
    raise AssertionError("every day of the week comes within nine days")


def _weekday(name: str, field: str) -> int:
    matching = [index for index, weekday in enumerate(WEEKDAYS) if weekday.startswith(name.lower())]
    if len(matching) != 1:
        raise InvalidField(field, RULE)
    return matching[0]


def _in_zone(local: datetime, zone: ZoneInfo, field: str) -> datetime:
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first.astimezone(UTC)
    shown = f"{local:%Y-%m-%d %H:%M}"
    if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
        raise InvalidField(field, f"{shown} was skipped by the clocks of {zone.key}")
    either = " or ".join(f"{shown}{moment:%z}" for moment in (first, second))
    raise InvalidField(field, f"{shown} came twice in {zone.key}; write {either}")
