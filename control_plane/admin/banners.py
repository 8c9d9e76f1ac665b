"""What stands above everything else on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.admin import wording
from control_plane.domain.freeze import StandingFreeze
from control_plane.domain.model_version import Surface


@dataclass(frozen=True, kw_only=True, slots=True)
class Banner:
    tone: str  # warn or bad
    heading: str
    detail: str


def freeze_banner(freeze: StandingFreeze, surfaces: Sequence[Surface], now: datetime) -> Banner:
    names = ", ".join(wording.surface_name(surface) for surface in surfaces)
    until = "it is lifted" if freeze.until is None else wording.moment(freeze.until, now)
    reason = freeze.reason.rstrip(".")
    may = f" {freeze.bypass_group} may overrule it with a reason." if freeze.bypass_group else ""
    return Banner(
        tone="warn",
        heading=f"{names} {'is' if len(surfaces) == 1 else 'are'} frozen until {until} by {freeze.owner}: {reason}.",
        detail=f"Nothing grows meanwhile; rolling back works as ever.{may}",
    )
