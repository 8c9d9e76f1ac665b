"""Freezes as they cross HTTP: times as people write them in, moments in UTC out."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from control_plane.api import patterns
from control_plane.api.schemas import GivenReason, In, Name
from control_plane.domain.errors import InvalidField, InvalidPlan
from control_plane.domain.freeze import Calendar, Freeze, Window
from control_plane.domain.plan_reader import Reader
from control_plane.registry import calendars

EXAMPLE_RULE = "FREQ=WEEKLY;BYDAY=FR"

Owner = Annotated[str, StringConstraints(max_length=100, pattern=patterns.NO_NUL, strip_whitespace=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    starts_at: datetime
    ends_at: datetime | None
    calendar: Calendar | None


class FreezeIn(In):
    surface: Name | None = Field(None, description="every surface if missing, those still to come too")
    reason: GivenReason
    owner: Owner = Field("", description="whom to ask, a person or a team; who declares it if missing")
    starts_at: datetime | None = Field(
        None, description="now if missing; without an offset, on the wall clock of time_zone"
    )
    ends_at: datetime | None = Field(None, description="until it is lifted if missing; a calendar is over by then")
    duration: str | None = Field(
        None, description="like '90m' or '64h': of each occurrence; without a recurrence, in place of ends_at"
    )
    recurrence: str = Field("", description=f"an iCalendar RRULE, like {EXAMPLE_RULE!r}; its DTSTART is starts_at")
    time_zone: str = Field("UTC", description="an IANA name, in which a calendar and times without an offset are read")
    bypass_group: Annotated[str, StringConstraints(max_length=63, pattern=patterns.NO_NUL)] = Field(
        "", description="a group whose members may overrule the freeze with a reason; nobody may if missing"
    )

    def to_times(self, now: datetime) -> Times:
        """Refuses by field what no calendar has; before a session is open, for a rule that never comes takes a while
        to be seen through."""
        zone = calendars.zone_of(self.time_zone)
        starts_at = now if self.starts_at is None else calendars.moment_of(self.starts_at, zone, "starts_at")
        ends_at = None if self.ends_at is None else calendars.moment_of(self.ends_at, zone, "ends_at")
        seconds = None if self.duration is None else _seconds(self.duration)
        if not self.recurrence:
            return Times(starts_at=starts_at, ends_at=_end(starts_at, ends_at, seconds), calendar=None)
        if self.starts_at is None:
            raise InvalidField("starts_at", "must say from when on it recurs, and at what time of the day")
        if seconds is None:
            raise InvalidField("duration", "must say how long each occurrence lasts")
        calendar = Calendar(recurrence=self.recurrence, duration_seconds=seconds, time_zone=self.time_zone)
        calendars.check(calendar, starts_at)
        return Times(starts_at=starts_at, ends_at=ends_at, calendar=calendar)


class LiftIn(In):
    reason: GivenReason


class FreezeOut(BaseModel):
    """One freeze, and whether it stands."""

    freeze_id: int
    surface: str | None = Field(description="null: every surface")
    starts_at: datetime
    ends_at: datetime | None
    recurrence: str
    duration_seconds: float | None = Field(description="of each occurrence, on the wall clock of time_zone")
    time_zone: str | None
    owner: str
    reason: str
    bypass_group: str
    created_at: datetime
    created_by: str
    lifted_at: datetime | None
    lifted_by: str
    lift_reason: str
    stands: bool
    until: datetime | None = Field(description="when what stands ends; null if only once it is lifted")
    next_at: datetime | None = Field(description="when it begins to stand, or stands again")

    @classmethod
    def of(cls, freeze: Freeze, window: Window | None, next_at: datetime | None) -> "FreezeOut":
        calendar = freeze.calendar
        return cls(
            **{name: getattr(freeze, name) for name in set(Freeze.__slots__) - {"calendar"}},
            recurrence="" if calendar is None else calendar.recurrence,
            duration_seconds=None if calendar is None else calendar.duration_seconds,
            time_zone=None if calendar is None else calendar.time_zone,
            stands=window is not None,
            until=None if window is None else window.ends_at,
            next_at=next_at,
        )


class FreezesOut(BaseModel):
    freezes: list[FreezeOut]


def _seconds(duration: str) -> float:
    try:
        return Reader({"duration": duration}).duration("duration", 0.0)
    except InvalidPlan as error:
        raise InvalidField(error.field, error.rule) from None


def _end(starts_at: datetime, ends_at: datetime | None, seconds: float | None) -> datetime | None:
    if seconds is None:
        return ends_at
    if ends_at is not None:
        raise InvalidField("duration", "goes with a recurrence, or without ends_at")
    return starts_at.astimezone(UTC) + timedelta(seconds=seconds)
