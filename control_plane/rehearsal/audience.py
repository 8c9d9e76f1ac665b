"""Who looks at a surface, and what a candidate does to them: the stated truth behind simulated traffic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.events import Label

FloatArray = NDArray[np.float64]

DAY_MS = 86_400_000
THURSDAY = 3  # weekday of 1970-01-01, Monday being 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Audience:
    """Who looks, how often, and how they act under stable.

    A user's impressions are a Poisson process of their own pace; `…_spread` are coefficients of variation between
    users. Labels follow their impression after exponential delays.
    """

    users: int = 250_000  # that come already when the rollout starts
    new_users_per_day: float = 0.005  # of `users`, spread evenly over the day
    impressions_per_day: float = 20.0  # of a mean user on a weekday
    activity_spread: float = 1.0
    ctr: float = 0.05
    ctr_spread: float = 0.5
    view_types: Mapping[str, float] = field(default_factory=lambda: {"grid": 0.6, "closeup": 0.3, "story": 0.1})
    weekend_factor: float = 1.25  # impressions
    weekend_ctr_factor: float = 0.95
    good_click_share: float = 0.5  # of clicks
    hide_rate: float = 0.004
    revenue_per_click: float = 0.5
    revenue_spread: float = 1.0  # between clicks
    click_delay_seconds: float = 120.0
    good_click_delay_seconds: float = 300.0
    hide_delay_seconds: float = 600.0
    revenue_delay_seconds: float = 3_600.0

    def in_time(self, windows_ms: Mapping[Label, int]) -> dict[Label, float]:
        """The part of each label that comes within its attribution window; what comes later never counts."""
        delays = {
            Label.CLICK: self.click_delay_seconds,
            Label.GOOD_CLICK: self.good_click_delay_seconds,
            Label.HIDE: self.hide_delay_seconds,
            Label.REVENUE: self.revenue_delay_seconds,
        }
        return {
            label: -math.expm1(-windows_ms[label] / 1_000 / delay) if delay > 0 else 1.0
            for label, delay in delays.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What the candidate truly does, relative to stable; 0 everywhere is an equal candidate."""

    ctr: float = 0.0
    good_click_rate: float = 0.0  # beyond what follows from clicks
    hide_rate: float = 0.0
    revenue_per_click: float = 0.0
    prediction: float = 0.0  # scores beyond the truth: 0.13 predicts 13 % too many clicks
    score_noise: float = 0.0  # standard deviation of what its scores' logarithm has lost of the truth
    novelty: float = 0.0  # CTR on top at first; half of it is gone after each half-life
    novelty_half_life_days: float = 3.0
    is_foreseen: bool = True  # whether its scores know what it does to CTR
    by_view_type: Mapping[str, "Effects"] = field(default_factory=dict)  # instead of these, where named

    def at(self, view_type: str) -> "Effects":
        return self.by_view_type.get(view_type, self)

    def ctr_factor(self, days_met: float) -> float:
        """CTR over stable's, of users who met the candidate so many days ago."""
        left = math.pow(0.5, days_met / self.novelty_half_life_days)
        return max(0.0, 1.0 + self.ctr + self.novelty * left)

    @property
    def lasting(self) -> "Effects":
        """What is left when the novelty has worn off."""
        return replace(self, novelty=0.0)

    @property
    def has_novelty(self) -> bool:
        return any(effects.novelty for effects in (self, *self.by_view_type.values()))

    @property
    def noises(self) -> tuple[float, ...]:
        return tuple(effects.score_noise for effects in (self, *self.by_view_type.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What goes wrong beside the model. Days count from the start of the shadow."""

    lost_users: float = 0.0  # share of the candidate's users of whom nothing is ever logged
    feed_stops_at_day: float | None = None
    feed_stops_for_days: float = 0.5
    error_rate: float = 0.0  # of the candidate's requests


class Calendar:
    """The clock that paces impressions: 1 is a weekday; weekends run faster, a feed that has stopped stands still."""

    def __init__(self, audience: Audience, faults: Faults, *, started_at_ms: int, days: int) -> None:
        first = started_at_ms // DAY_MS
        edges = {day * DAY_MS for day in range(first, first + days + 1)}
        stop = faults.feed_stops_at_day
        self.stopped_ms = (0, 0)
        if stop is not None:
            start = started_at_ms + round(stop * DAY_MS)
            self.stopped_ms = (start, start + round(faults.feed_stops_for_days * DAY_MS))
            edges |= set(self.stopped_ms)
        self._edges = np.array(sorted(edges), dtype=np.int64)
        pace = [self._pace(audience, int(edge)) for edge in self._edges[:-1]]
        self._clock = np.concatenate([[0.0], np.cumsum(np.diff(self._edges) / DAY_MS * pace)])

    def at(self, time_ms: FloatArray | float) -> FloatArray:
        return np.asarray(np.interp(time_ms, self._edges, self._clock), dtype=np.float64)

    def edges_between(self, start_ms: int, end_ms: int) -> list[int]:
        """Where the pace or the day changes."""
        inside = (self._edges > start_ms) & (self._edges < end_ms)
        return [int(edge) for edge in self._edges[inside]]

    def is_stopped(self, at_ms: int) -> bool:
        return self.stopped_ms[0] <= at_ms < self.stopped_ms[1]

    def _pace(self, audience: Audience, at_ms: int) -> float:
        if self.is_stopped(at_ms):
            return 0.0
        return audience.weekend_factor if is_weekend(at_ms // DAY_MS) else 1.0


def is_weekend(day: int) -> bool:
    return (day + THURSDAY) % 7 >= 5
