"""Does the effect last? Asked at the last two gates, of the latest complete days and of weekends against weekdays."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from control_plane.domain.moments import MATURED_OF, NUMERATOR_OF
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan, Metric
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
    """The surface's effects over some of the days."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._known: dict[tuple[int, bytes], dict[Metric, tuple[float, float]]] = {}

    def effect(self, guardrail: GuardrailPlan, takes_day: Callable[[int], bool]) -> tuple[float, float]:
        """Log ratio and standard error; NaN where these days hold too few conversions to be read."""
        strata: BoolArray = np.array([takes_day(stratum.day) for stratum in self._look.moments.strata], dtype=np.bool_)
        if not strata.any():
            return math.nan, math.nan
        window_ms = self._look.windows_ms[LABEL_OF[guardrail.metric]]
        key = window_ms, strata.tobytes()
        if key not in self._known:
            self._known[key] = self._effects(window_ms, strata)
        return self._known[key][guardrail.metric]

    def _effects(self, window_ms: int, strata: BoolArray) -> dict[Metric, tuple[float, float]]:
        """Of all gates whose labels have this window, computed together."""
        look, judge = self._look, self._look.plan.judge
        gates = [one for one in look.plan.guardrails if one.role.gates]
        gates = [one for one in gates if look.windows_ms[LABEL_OF[one.metric]] == window_ms]
        labels = [LABEL_OF[gate.metric] for gate in gates]
        unit_Q1 = np.array([conversion_size(look, gate)[:1] for gate in gates])
        numerators = [look.moments.cells_of(NUMERATOR_OF[label])[:1, strata] for label in labels]
        comparison = Comparison(look.moments.cells_of(MATURED_OF[labels[0]])[:1, strata])
        found: dict[Metric, tuple[float, float]] = {}
        for gate, ratios, unit in zip(
            gates, comparison.all_log_ratios(numerators, unit_Q1), unit_Q1[:, 0].tolist(), strict=True
        ):
            has_enough = unit > 0 and ratios.expected_H[0] / unit >= judge.min_conversions
            is_known = has_enough and ratios.buckets_H[0] >= judge.min_buckets
            effect = float(ratios.theta_H[0]), float(ratios.se_H[0])
            found[gate.metric] = effect if is_known else (math.nan, math.nan)
        return found


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
