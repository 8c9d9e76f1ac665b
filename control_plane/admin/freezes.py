"""The freezes page: what stands, what comes in the next days, what is over."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from control_plane.admin import wording
from control_plane.domain.freeze import Calendar, Freeze, Window
from control_plane.registry import calendars, freezes

AHEAD = timedelta(days=14)
MOST_TIMES = 50  # that one calendar is listed with: more would hide the others
OVER_SHOWN = 20
REPEATS = {
    "FREQ=DAILY": "every day",
    "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR": "Monday to Friday",
    "FREQ=WEEKLY": "every week",
    "FREQ=MONTHLY": "every month",
    "FREQ=YEARLY": "every year",
}
DAYS = {
    "MO": "Monday",
    "TU": "Tuesday",
    "WE": "Wednesday",
    "TH": "Thursday",
    "FR": "Friday",
    "SA": "Saturday",
    "SU": "Sunday",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeLine:
    """A freeze and the time in which it stands, or stood, or will stand."""

    freeze: Freeze
    window: Window
    repeats: str
    ending: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezesPage:
    standing: tuple[FreezeLine, ...]
    coming: tuple[FreezeLine, ...]
    later: tuple[FreezeLine, ...]
    over: tuple[FreezeLine, ...]
    days: int


def load_freezes(session: Session, now: datetime) -> FreezesPage:
    """`coming` in the order in which they begin; `later`, what is declared and does not begin within these days."""
    found = freezes.list_freezes(session, now=now)
    opened = [freeze for freeze in found if not _is_over(freeze, now)]
    coming = sorted(
        (line for freeze in opened for line in _coming(freeze, now)), key=lambda line: line.window.starts_at
    )
    named = {line.freeze.freeze_id for line in coming}
    standing = [(freeze, window) for freeze in opened if (window := calendars.window_at(freeze, now)) is not None]
    named |= {freeze.freeze_id for freeze, _ in standing}
    return FreezesPage(
        standing=tuple(_line(freeze, window) for freeze, window in standing),
        coming=tuple(coming),
        later=tuple(_later(freeze, now) for freeze in opened if freeze.freeze_id not in named),
        over=tuple(_over(freeze, now) for freeze in found if _is_over(freeze, now))[:OVER_SHOWN],
        days=AHEAD.days,
    )


def repeats_words(calendar: Calendar | None) -> str:
    if calendar is None:
        return ""
    rule = calendar.recurrence.upper().removeprefix("RRULE:")
    how_often = REPEATS.get(rule) or _weekly(rule) or rule
    return f"{how_often}, {wording.duration(calendar.duration_seconds)} each, {calendar.time_zone}"


def _weekly(rule: str) -> str:
    """'every Friday, Saturday'; empty for any other rule."""
    days = [DAYS.get(day, "") for day in rule.removeprefix("FREQ=WEEKLY;BYDAY=").split(",")]
    return f"every {', '.join(days)}" if all(days) else ""


def _is_over(freeze: Freeze, now: datetime) -> bool:
    return freeze.lifted_at is not None or (freeze.ends_at is not None and freeze.ends_at <= now)


def _line(freeze: Freeze, window: Window, *, ending: str = "") -> FreezeLine:
    return FreezeLine(freeze=freeze, window=window, repeats=repeats_words(freeze.calendar), ending=ending)


def _coming(freeze: Freeze, now: datetime) -> Iterator[FreezeLine]:
    after = now
    for _ in range(MOST_TIMES):
        starts_at = calendars.next_start(freeze, after)
        if starts_at is None or starts_at > now + AHEAD:
            return
        window = calendars.window_at(freeze, starts_at)
        if window is None:  # declared later than it was to begin
            return
        if window.starts_at > now:
            yield _line(freeze, window)
        if window.ends_at is None:
            return
        after = max(starts_at, window.ends_at)


def _later(freeze: Freeze, now: datetime) -> FreezeLine:
    starts_at = calendars.next_start(freeze, now)
    if starts_at is None:
        return _line(freeze, Window(starts_at=freeze.starts_at, ends_at=freeze.ends_at), ending="does not come again")
    return _line(freeze, calendars.window_at(freeze, starts_at) or Window(starts_at=starts_at, ends_at=None))


def _over(freeze: Freeze, now: datetime) -> FreezeLine:
    ended_at = freeze.ends_at if freeze.lifted_at is None else freeze.lifted_at
    ending = (
        f"lifted by {freeze.lifted_by}: {freeze.lift_reason}" if freeze.lifted_at is not None else "ended by itself"
    )
    return _line(freeze, Window(starts_at=freeze.starts_at, ends_at=ended_at), ending=ending)
