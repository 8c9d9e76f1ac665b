"""What runtimes and ad servers report: exposures, shadow scores, engagements.

An engagement repeats its impression's `served_at_ms` (the tracking token carries it), so that everything
about one impression lies in one partition of the log. An impression is identified by its user and its
64-bit id together; an engagement by its impression, label and event id.
"""

from dataclasses import dataclass
from enum import StrEnum

from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.split import UserKey

FUTURE_TOLERANCE_MS = 300_000  # clocks of ad servers may run this far ahead; later than that is a broken clock
HOME_ARM = "home"  # neither arm: stable answered everyone, since the candidate had gone home under this generation
MAX_VALUE = 1e9  # units of the label: beyond it fixed-point sums of a busy day could overflow


class EventKind(StrEnum):
    EXPOSURE = "exposure"
    SHADOW_SCORE = "shadow_score"
    ENGAGEMENT = "engagement"


class Label(StrEnum):
    """What can follow an impression. Revenue adds its values up; the others happen at most once."""

    CLICK = "click"
    GOOD_CLICK = "good_click"
    HIDE = "hide"
    REVENUE = "revenue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """One ad was shown: `arm` ('stable', 'candidate' or `HOME_ARM`) with `version_id` served it under `generation`.

    What was shown while the candidate was at home speaks for neither arm: its users did not come by the split.
    """

    impression_id: int
    user_key: UserKey
    served_at_ms: int
    surface: Surface
    view_type: ViewType
    arm: str
    version_id: VersionId
    generation: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowScore:
    """What `version_id` would have said of an impression that another version served."""

    impression_id: int
    user_key: UserKey
    served_at_ms: int
    surface: Surface
    view_type: ViewType
    version_id: VersionId
    generation: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Engagement:
    """A label on an impression; `value` is 1 but for revenue, where it is in currency units."""

    event_id: int
    impression_id: int
    user_key: UserKey
    served_at_ms: int
    surface: Surface
    label: Label
    occurred_at_ms: int
    value: float
