"""Freezes: times in which nothing grows. What makes safer, from a hold to a roll back, never asks about them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from control_plane.domain.errors import Frozen
from control_plane.domain.model_version import Surface

FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """From `starts_at` up to `ends_at`, which is outside; None: no end is in sight."""

    starts_at: datetime
    ends_at: datetime | None

    def holds(self, moment: datetime) -> bool:
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calendar:
    """When a freeze comes again: an iCalendar RRULE on the wall clock of a time zone.

    `duration_seconds` too is read off that wall clock: from Friday 17:00, 64 hours end on Monday at 9:00 in every
    week of the year.
    """

    recurrence: str
    duration_seconds: float
    time_zone: str  # an IANA name


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    """Nothing grows from `starts_at` to `ends_at` (None: until it is lifted), on one surface or, if None, on all.

    With a calendar, only during its occurrences, the first of which begins at `starts_at` or later.
    """

    freeze_id: int
    surface: Surface | None
    starts_at: datetime
    ends_at: datetime | None
    calendar: Calendar | None
    owner: str
    reason: str
    bypass_group: str  # whose members may overrule it with a reason; empty: nobody
    created_at: datetime
    created_by: str
    lifted_at: datetime | None = None
    lifted_by: str = ""
    lift_reason: str = ""

    def may_be_lifted_by(self, name: str, groups: Collection[str]) -> bool:
        """Who owns it, who declared it, and its bypass group; without such a group, everyone."""
        return not self.bypass_group or name in (self.owner, self.created_by) or self.bypass_group in groups


@dataclass(frozen=True, kw_only=True, slots=True)
class StandingFreeze:
    """A freeze that stands at present, and until when; None: until it is lifted."""

    freeze_id: int
    owner: str
    reason: str
    until: datetime | None
    bypass_group: str
    declared_by: str = ""

    def lets_through(self, groups: Collection[str], reason: str) -> bool:
        return bool(self.bypass_group) and self.bypass_group in groups and bool(reason.strip())

    def refusal(self, surface: Surface) -> Frozen:
        return Frozen(
            surface,
            freeze_id=self.freeze_id,
            owner=self.owner,
            declared_by=self.declared_by or self.owner,
            reason=self.reason,
            until=None if self.until is None else f"{self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            bypass_group=self.bypass_group,
        )


def ends_last(standing: Iterable[StandingFreeze]) -> StandingFreeze | None:
    """Which of them to wait for."""
    return max(standing, key=lambda freeze: (freeze.until or FOR_EVER, -freeze.freeze_id), default=None)
