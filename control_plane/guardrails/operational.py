"""How the candidate serves, by what runtimes counted: latency, errors, missing features, the network's inside.

A rate is judged by an e-value, valid at every look. Its trials are calls: what goes wrong in one goes wrong for its
users together. Its null is that no call, whatever came before it, goes wrong with more than the limit's
probability, so an outage is evidence though a long average would forgive it. A gauge is compared with its limit as
it stands, without statistics.
"""

import math

from control_plane.domain.moments import WHOLE_SURFACE, Health
from control_plane.domain.plan import OperationalMetric, OperationalPlan, Role
from control_plane.domain.rollout import Phase
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails import operational_wording as wording
from control_plane.guardrails.look import Look
from control_plane.guardrails.rates import log_e_above, log_e_below
from control_plane.guardrails.serving_measures import Gauge, Rate, impossible, measure
from control_plane.guardrails.waiting import LONGEST_WAIT_SECONDS

SERVED_ONLY = frozenset(
    {
        OperationalMetric.LATENCY_P50,
        OperationalMetric.LATENCY_P99,
        OperationalMetric.USER_CAP_SPLIT_RATE,
        OperationalMetric.DEDUP_RATIO,
    }
)  # not of the shadow's batches, whose shape is another: one row a user


def operational_findings(look: Look, health: Health, weight: float = 0.0) -> tuple[Finding, ...]:
    """One finding per operational entry of the plan, in its order; `weight` is each one's that weighs.

    Before `min_samples` an entry's e-values are 1, whatever was counted. An entry that only monitors answers
    `MONITORED`, and so does one in the shadow that only served traffic can tell.
    """
    return tuple(_finding(look, health, entry, weight if entry.weighs else 0.0) for entry in look.plan.operational)


def _finding(look: Look, health: Health, entry: OperationalPlan, weight: float) -> Finding:
    if look.stage.phase is Phase.SHADOW and entry.metric in SERVED_ONLY:
        told = "only calls that answer users tell, the shadow's have another shape"
        return _told(entry, Answer.MONITORED, detail=told, weight=weight, gates=False)
    if broken := impossible(entry.metric, health.candidate):
        return _told(entry, Answer.ERROR, detail=f"no runtime can have counted this: {broken}", weight=weight)
    measured = measure(entry.metric, entry.limit, health.candidate)
    if isinstance(measured, Gauge):
        return _gauge_finding(look, health, entry, measured)
    return _rate_finding(look, health, entry, measured, weight)


def _rate_finding(look: Look, health: Health, entry: OperationalPlan, rate: Rate, weight: float) -> Finding:
    lacks = wording.missing(entry.metric, rate.trials, max(1, entry.min_samples))
    log_e_harm = 0.0 if lacks else log_e_above(rate.surely, rate.trials, rate.allowed)
    log_e_safe = 0.0 if lacks else log_e_below(rate.possibly, rate.trials, rate.allowed)
    return _told(
        entry,
        _too_little(rate.trials) if lacks else _answer(look, log_e_harm, log_e_safe),
        value=rate.value,
        detail=wording.detail(entry, rate, health.candidate, health.stable),
        weight=weight,
        log_e_harm=log_e_harm,
        log_e_safe=log_e_safe,
        missing=lacks,
        seconds=_seconds_until_enough(look, entry, rate.trials) if lacks else _seconds_until_safe(look, log_e_safe),
    )


def _gauge_finding(look: Look, health: Health, entry: OperationalPlan, gauge: Gauge) -> Finding:
    lacks = wording.missing(entry.metric, gauge.samples, max(1, entry.min_samples))
    is_low = gauge.value is not None and gauge.value < entry.limit
    return _told(
        entry,
        _too_little(gauge.samples) if lacks else (Answer.HARM if is_low else Answer.SAFE),
        value=gauge.value,
        detail=wording.detail(entry, gauge, health.candidate, health.stable),
        missing=lacks,
        seconds=_seconds_until_enough(look, entry, gauge.samples) if lacks else None,
    )


def _told(
    entry: OperationalPlan,
    answer: Answer,
    *,
    detail: str,
    value: float | None = None,
    weight: float = 0.0,
    log_e_harm: float = 0.0,
    log_e_safe: float = 0.0,
    missing: str = "",
    seconds: float | None = None,
    gates: bool = True,
) -> Finding:
    gates = gates and entry.role in (Role.GATE, Role.HOLD)
    return Finding(
        metric=entry.metric.value,
        segment=WHOLE_SURFACE,
        answer=Answer.MONITORED if entry.role is Role.MONITOR else answer,
        gates=gates,
        value=value,
        limit=entry.limit,
        detail=detail,
        weight=weight,
        log_e_harm=log_e_harm,
        log_e_safe=log_e_safe,
        missing=missing,
        seconds_to_resolve=seconds if gates and answer is not Answer.SAFE else None,
    )


def _answer(look: Look, log_e_harm: float, log_e_safe: float) -> Answer:
    if log_e_harm >= -math.log(look.plan.judge.alpha_rollback):
        return Answer.HARM
    return Answer.SAFE if log_e_safe >= -math.log(look.plan.judge.alpha_advance) else Answer.UNDECIDED


def _too_little(samples: int) -> Answer:
    return Answer.INSUFFICIENT if samples else Answer.NO_DATA


def _seconds_until_enough(look: Look, entry: OperationalPlan, samples: int) -> float | None:
    """At the pace since the rollout's start, which is when the counts begin."""
    if not samples:
        return None
    return min((entry.min_samples - samples) / samples * look.seconds_since_start, LONGEST_WAIT_SECONDS)


def _seconds_until_safe(look: Look, log_e_safe: float) -> float | None:
    """Evidence of a rate that stays where it is grows with the trials, all but in proportion."""
    if log_e_safe <= 0:
        return None
    missing_part = -math.log(look.plan.judge.alpha_advance) / log_e_safe - 1.0
    return min(max(0.0, missing_part) * look.seconds_since_start, LONGEST_WAIT_SECONDS)
