"""Does the effect last? Asked at the last two gates, of the latest complete days and of weekends against weekdays."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from control_plane.domain.events import Label
from control_plane.domain.moments import MATURED_OF, NUMERATOR_OF
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan
from control_plane.domain.verdict import percent
from control_plane.guardrails.engagement import conversion_size
from control_plane.guardrails.estimate import BoolArray, Comparison
from control_plane.guardrails.evalue import relative
from control_plane.guardrails.look import Look

LAST_GATES = 2  # advances left up to full traffic at which the question is asked
MAX_WEEKEND_SCORE = 3.0  # standard errors between weekend and weekday effects
DAY_MS = 86_400_000
THURSDAY = 3  # weekday of 1970-01-01, Monday being 0


def novelty_objections(look: Look) -> Iterator[str]:
    """Reasons not to trust that the gates' effects will last; none where the days to ask do not exist yet."""
    if not look.plan.judge.novelty_days or look.stage.advances_left > LAST_GATES:
        return
    days = _Days(look)
    for guardrail in look.plan.guardrails:
        if guardrail.role.gates:
            yield from _late_days_objection(look, guardrail, days)
            yield from _weekend_objection(guardrail, days)


class _Days:
    """The surface's effects over some of the days; labels of one window share their impressions' jackknife."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._comparisons: dict[tuple[int, bytes], Comparison] = {}

    def effect(self, guardrail: GuardrailPlan, takes_day: Callable[[int], bool]) -> tuple[float, float]:
        """Log ratio and standard error; NaN where these days hold too few conversions to be read."""
        moments, judge, label = self._look.moments, self._look.plan.judge, LABEL_OF[guardrail.metric]
        strata: BoolArray = np.array([takes_day(stratum.day) for stratum in moments.strata], dtype=np.bool_)
        if not strata.any():
            return math.nan, math.nan
        numerator_HSAK = moments.cells_of(NUMERATOR_OF[label])[:1, strata]
        unit_H = conversion_size(self._look, guardrail)[:1]
        ratios = self._comparison(label, strata).log_ratios(numerator_HSAK, unit_H)
        expected = ratios.expected_H[0] / unit_H[0] if unit_H[0] > 0 else 0.0
        if ratios.buckets_H[0] < judge.min_buckets or expected < judge.min_conversions:
            return math.nan, math.nan
        return float(ratios.theta_H[0]), float(ratios.se_H[0])

    def _comparison(self, label: Label, strata: BoolArray) -> Comparison:
        key = self._look.windows_ms[label], strata.tobytes()
        if key not in self._comparisons:
            self._comparisons[key] = Comparison(self._look.moments.cells_of(MATURED_OF[label])[:1, strata])
        return self._comparisons[key]


def _late_days_objection(look: Look, guardrail: GuardrailPlan, days: _Days) -> Iterator[str]:
    complete = sorted({stratum.day for stratum in look.moments.strata if _is_complete(look, guardrail, stratum.day)})
    latest = set(complete[-look.plan.judge.novelty_days :])
    theta, _ = days.effect(guardrail, lambda day: day in latest)
    margin = look.margin(guardrail, 1.0)
    if math.isfinite(theta) and DIRECTION_OF[guardrail.metric] * theta < math.log1p(-margin):
        name = f"{guardrail.metric} over the last {len(latest)} complete days"
        yield f"{name} is {percent(relative(theta))}, beyond the margin of {percent(margin, signed=False)}"


def _weekend_objection(guardrail: GuardrailPlan, days: _Days) -> Iterator[str]:
    weekend, weekend_se = days.effect(guardrail, _is_weekend)
    weekday, weekday_se = days.effect(guardrail, lambda day: not _is_weekend(day))
    if not (math.isfinite(weekend) and math.isfinite(weekday)):
        return
    if abs(weekend - weekday) >= MAX_WEEKEND_SCORE * math.hypot(weekend_se, weekday_se):
        effects = f"{percent(relative(weekend))} on weekends and {percent(relative(weekday))} on weekdays"
        yield f"{guardrail.metric} differs by day: {effects}"


def _is_complete(look: Look, guardrail: GuardrailPlan, day: int) -> bool:
    """A whole UTC day within the rollout, all of whose labels have matured."""
    window_ms = look.windows_ms[LABEL_OF[guardrail.metric]]
    has_matured = (day + 1) * DAY_MS + window_ms <= look.moments.as_of_ms
    return has_matured and day * DAY_MS >= look.stage.started_at_ms


def _is_weekend(day: int) -> bool:
    return (day + THURSDAY) % 7 >= 5
