"""What stands above everything else on a page."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from control_plane.admin import wording
from control_plane.domain.freeze import Freeze, Window
from control_plane.registry import calendars, freezes


@dataclass(frozen=True, kw_only=True, slots=True)
class Banner:
    tone: str  # warn or bad
    heading: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FreezeBanner:
    freeze_id: int
    heading: str
    detail: str


def freeze_banners(session: Session, now: datetime) -> tuple[FreezeBanner, ...]:
    """One for each freeze that stands now, on whatever surface."""
    opened = freezes.list_freezes(session, now=now, open_only=True)
    found = [(freeze, calendars.window_at(freeze, now)) for freeze in opened]
    return tuple(_banner(freeze, window, now) for freeze, window in found if window is not None)


def _banner(freeze: Freeze, window: Window, now: datetime) -> FreezeBanner:
    may = f" Members of {freeze.bypass_group} may overrule it with a reason." if freeze.bypass_group else ""
    frozen = f"{wording.surfaces_words(freeze.surface)} {'is' if freeze.surface else 'are'} frozen"
    since, until = wording.moment(window.starts_at, now), wording.until_words(window.ends_at, now)
    return FreezeBanner(
        freeze_id=freeze.freeze_id,
        heading=f"{frozen} by {freeze.owner}: {freeze.reason.rstrip('.')}.",
        detail=f"Since {since}, {until}. Nothing grows meanwhile; rolling back works as ever.{may}",
    )
