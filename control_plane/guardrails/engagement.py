"""Findings on engagement: each guarded metric on the surface and on each view type, candidate against stable.

H runs over the segments of one guardrail; the other letters are those of `domain.moments`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import MATURED_OF, NUMERATOR_OF, Measure
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan, Metric, Role
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.conversions import Conversions, conversion_of, conversions_of
from control_plane.guardrails.estimate import BoolArray, FloatArray, LogRatios, log_ratios
from control_plane.guardrails.evalue import half_width, log_e, relative, z_of_t
from control_plane.guardrails.look import Look


def engagement_findings(look: Look) -> Iterator[Finding]:
    for guardrail in look.plan.guardrails:
        ratios = log_ratios_of(look, guardrail)
        measure, matured = conversion_of(guardrail.metric), MATURED_OF[LABEL_OF[guardrail.metric]]
        is_required_H = look.requires(measure, matured)
        tests = _tests(look, guardrail, ratios, look.traffic_share(matured))
        for index, (test, counts) in enumerate(zip(tests, conversions_of(look, guardrail, ratios), strict=True)):
            gates = guardrail.role is Role.GATE and bool(is_required_H[index])
            yield _finding(look, guardrail, test, counts, index=index, gates=gates)


def log_ratios_of(look: Look, guardrail: GuardrailPlan, *, strata: BoolArray | None = None) -> LogRatios:
    """The metric's log ratios per segment, over all strata or some."""
    label = LABEL_OF[guardrail.metric]
    numerator_HSAK, denominator_HSAK = (
        look.moments.sums_of(measure) for measure in (NUMERATOR_OF[label], MATURED_OF[label])
    )
    if strata is not None:
        numerator_HSAK, denominator_HSAK = numerator_HSAK[:, strata], denominator_HSAK[:, strata]
    return log_ratios(numerator_HSAK, denominator_HSAK, _conversion_size(look, guardrail))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Test:
    """One segment's estimate and what it says, evidence gates aside."""

    theta: float
    se: float
    half_width: float
    margin: float
    log_e_harm: float
    log_e_safe: float


def _tests(look: Look, guardrail: GuardrailPlan, ratios: LogRatios, share_H: FloatArray) -> Iterator[_Test]:
    judge, direction = look.plan.judge, DIRECTION_OF[guardrail.metric]
    se_H, degrees_H = ratios.se_H, (ratios.buckets_H - 1).astype(np.float64)
    benefit_H = direction * np.where(np.isfinite(ratios.theta_H), ratios.theta_H, 0.0)
    margin_H = np.array([look.margin(guardrail, float(share)) for share in share_H])
    harm_z_H = z_of_t((math.log1p(-guardrail.harm_margin) - benefit_H) / se_H, degrees_H)
    safe_z_H = z_of_t((benefit_H - np.log1p(-margin_H)) / se_H, degrees_H)
    columns = zip(
        ratios.theta_H.tolist(),
        se_H.tolist(),
        half_width(se_H, degrees_H, alpha=judge.alpha_rollback).tolist(),
        margin_H.tolist(),
        log_e(harm_z_H, se_H, judge.taus, judge.tau_weights).tolist(),
        log_e(safe_z_H, se_H, judge.taus, judge.tau_weights).tolist(),
        strict=True,
    )
    for theta, se, width, margin, harm, safe in columns:
        yield _Test(theta=theta, se=se, half_width=width, margin=margin, log_e_harm=harm, log_e_safe=safe)


def _finding(
    look: Look, guardrail: GuardrailPlan, test: _Test, counts: Conversions, *, index: int, gates: bool
) -> Finding:
    gap = counts.gap(look.plan.judge)
    is_known = math.isfinite(test.theta) and counts.judges_harm(look.plan.judge)
    log_e_harm = test.log_e_harm if is_known else 0.0
    log_e_safe = test.log_e_safe if is_known and not gap else 0.0
    is_harm = guardrail.role is not Role.MONITOR and log_e_harm >= -math.log(look.plan.judge.alpha_rollback)
    answer = Answer.HARM if is_harm else _answer(look, test, counts, gates, gap, log_e_safe)
    weight = look.weights.surface if index == 0 else look.weights.rest
    is_open = gates and answer in (Answer.UNDECIDED, Answer.INSUFFICIENT)
    return Finding(
        metric=guardrail.metric.value,
        segment=look.moments.segments[index],
        answer=answer,
        gates=gates,
        effect=relative(test.theta) if is_known else None,
        lower=relative(test.theta - test.half_width) if is_known else None,
        upper=relative(test.theta + test.half_width) if is_known else None,
        standard_error=test.se if is_known else None,
        harm_margin=guardrail.harm_margin,
        safe_margin=test.margin,
        log_e_harm=log_e_harm,
        log_e_safe=log_e_safe,
        weight=0.0 if guardrail.role is Role.MONITOR else weight,
        impressions_stable=counts.matured[Arm.STABLE],
        impressions_candidate=counts.matured[Arm.CANDIDATE],
        conversions_stable=counts.value[Arm.STABLE],
        conversions_candidate=counts.value[Arm.CANDIDATE],
        missing=gap if gates and answer is not Answer.SAFE else "",
        seconds_to_resolve=_seconds(look, guardrail, test, counts) if is_open else None,
    )


def _answer(look: Look, test: _Test, counts: Conversions, gates: bool, gap: str, log_e_safe: float) -> Answer:
    if not gates:
        return Answer.MONITORED
    if not counts.has_data:
        return Answer.NO_DATA
    if gap:
        return Answer.INSUFFICIENT
    if not math.isfinite(test.theta):
        return Answer.ERROR
    return Answer.SAFE if log_e_safe >= -math.log(look.plan.judge.alpha_advance) else Answer.UNDECIDED


def _seconds(look: Look, guardrail: GuardrailPlan, test: _Test, counts: Conversions) -> float | None:
    """About how long until this gate is shown safe, if the estimate stays where it is."""
    judge = look.plan.judge
    if counts.gap(judge):
        return counts.seconds_until_enough(look)
    distance = DIRECTION_OF[guardrail.metric] * test.theta - math.log1p(-test.margin)

    def is_safe(se_W: FloatArray) -> BoolArray:
        z_W = z_of_t(distance / se_W, np.full(se_W.shape, counts.buckets - 1.0))
        return np.asarray(log_e(z_W, se_W, judge.taus, judge.tau_weights) >= -math.log(judge.alpha_advance))

    return look.seconds_until(is_safe, test.se, counts.stage_part)


def _conversion_size(look: Look, guardrail: GuardrailPlan) -> FloatArray:
    """What one conversion adds to the numerator, per segment: 1, or the mean revenue of a click."""
    if guardrail.metric is not Metric.REVENUE_PER_IMPRESSION:
        return np.ones(len(look.moments.segments))
    totals_MG = look.totals_MGSA.sum(axis=(2, 3)).astype(np.float64)
    return np.asarray(totals_MG[Measure.REVENUE] / np.maximum(totals_MG[Measure.CLICK], 1.0))
