"""Does the effect last? Asked at the last two gates, of the latest complete days and of weekends against weekdays."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import MATURED_OF, NUMERATOR_OF
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan, JudgePlan
from control_plane.domain.verdict import percent
from control_plane.guardrails.estimate import Comparison, LogRatios
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
    gates = [guardrail for guardrail in look.plan.guardrails if guardrail.role.gates]
    for window_ms in dict.fromkeys(look.windows_ms[LABEL_OF[gate.metric]] for gate in gates):
        alike = [gate for gate in gates if look.windows_ms[LABEL_OF[gate.metric]] == window_ms]
        for gate, effects in zip(alike, _effects(look, alike, window_ms), strict=True):
            yield from _late_days_objection(look, gate, effects.latest)
            yield from _weekend_objection(gate, effects)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Effect:
    """Of the surface over some of the days: a log ratio and its standard error; NaN where too little was converted."""

    theta: float
    se: float
    num_days: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Effects:
    latest: _Effect
    weekend: _Effect
    weekday: _Effect


def _effects(look: Look, gates: Sequence[GuardrailPlan], window_ms: int) -> list[_Effects]:
    """Of gates whose labels have the same window, computed together. H runs over the sets of days."""
    judge, strata, labels = look.plan.judge, look.moments.strata, [LABEL_OF[gate.metric] for gate in gates]
    complete = sorted({stratum.day for stratum in strata if _is_complete(look, stratum.day, window_ms)})
    latest = frozenset(complete[-judge.novelty_days :])
    is_taken_HS = np.array(
        [
            [stratum.day in latest for stratum in strata],
            [_is_weekend(stratum.day) for stratum in strata],
            [not _is_weekend(stratum.day) for stratum in strata],
        ],
        dtype=np.bool_,
    )
    num_days = [len({stratum.day for stratum, is_in in zip(strata, row, strict=True) if is_in}) for row in is_taken_HS]

    unit_Q = [float(look.conversion_size(gate)[0]) for gate in gates]
    unit_QH = np.repeat(np.array(unit_Q)[:, None], len(is_taken_HS), axis=1)
    comparison = Comparison(look.moments.cells_of(MATURED_OF[labels[0]])[:1], is_taken_HS)
    numerators = [look.moments.cells_of(NUMERATOR_OF[label])[:1] for label in labels]
    ratios = comparison.all_log_ratios(numerators, unit_QH)
    return [_known(one, unit, num_days, judge) for one, unit in zip(ratios, unit_Q, strict=True)]


def _known(ratios: LogRatios, unit: float, num_days: Sequence[int], judge: JudgePlan) -> _Effects:
    has_enough_H = (unit > 0) & (ratios.expected_H >= judge.min_conversions * unit)
    is_known_H = has_enough_H & (ratios.buckets_H >= judge.min_buckets)
    theta_H, se_H = (np.where(is_known_H, values_H, np.nan) for values_H in (ratios.theta_H, ratios.se_H))
    latest, weekend, weekday = (
        _Effect(theta=theta, se=se, num_days=days)
        for theta, se, days in zip(theta_H.tolist(), se_H.tolist(), num_days, strict=True)
    )
    return _Effects(latest=latest, weekend=weekend, weekday=weekday)


def _late_days_objection(look: Look, gate: GuardrailPlan, latest: _Effect) -> Iterator[str]:
    margin = look.margin(gate, 1.0)
    if math.isfinite(latest.theta) and DIRECTION_OF[gate.metric] * latest.theta < math.log1p(-margin):
        name = f"{gate.metric} over the last {latest.num_days} complete days"
        yield f"{name} is {percent(relative(latest.theta))}, beyond the margin of {percent(margin, signed=False)}"


def _weekend_objection(gate: GuardrailPlan, effects: _Effects) -> Iterator[str]:
    weekend, weekday = effects.weekend, effects.weekday
    if not (math.isfinite(weekend.theta) and math.isfinite(weekday.theta)):
        return
    if abs(weekend.theta - weekday.theta) >= MAX_WEEKEND_SCORE * math.hypot(weekend.se, weekday.se):
        told = f"{percent(relative(weekend.theta))} on weekends and {percent(relative(weekday.theta))} on weekdays"
        yield f"{gate.metric} differs by day: {told}"


def _is_complete(look: Look, day: int, window_ms: int) -> bool:
    """A whole UTC day within the rollout, all of whose labels have matured."""
    has_matured = (day + 1) * DAY_MS + window_ms <= look.moments.as_of_ms
    return has_matured and day * DAY_MS >= look.stage.started_at_ms


def _is_weekend(day: int) -> bool:
    return (day + THURSDAY) % 7 >= 5
