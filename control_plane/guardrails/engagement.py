"""Findings on engagement: each guarded metric on the surface and on each view type, candidate against stable.

H runs over segments of one guardrail; the other letters are those of `domain.moments`.
"""

import math
from collections.abc import Iterator

import numpy as np

from control_plane.domain.moments import FIXED_POINT, MATURED_OF, NUMERATOR_OF, Measure
from control_plane.domain.plan import DIRECTION_OF, LABEL_OF, GuardrailPlan, Metric, Role
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray, LogRatios, effective_count, log_ratios
from control_plane.guardrails.evalue import half_width, log_e, z_of_t
from control_plane.guardrails.look import Look

CONVERSION_NAMES = {
    Metric.CTR: "clicks",
    Metric.GOOD_CLICK_RATE: "good clicks",
    Metric.HIDE_RATE: "hides",
    Metric.REVENUE_PER_IMPRESSION: "clicks",  # revenue has no count of its own; the clicks it follows stand in
}
MAX_LOG_EFFECT = math.log(1e6)  # shown effects end at a million-fold: beyond it is noise


def engagement_findings(look: Look) -> Iterator[Finding]:
    for guardrail in look.plan.guardrails:
        yield from _of_guardrail(look, guardrail)


def log_ratios_of(look: Look, guardrail: GuardrailPlan, *, strata: BoolArray | None = None) -> LogRatios:
    """The metric's log ratios per segment, over all strata or some."""
    label = LABEL_OF[guardrail.metric]
    sums_GSAKM = look.moments.sums_GSAKM if strata is None else look.moments.sums_GSAKM[:, strata]
    numerator_HSAK, denominator_HSAK = sums_GSAKM[..., NUMERATOR_OF[label]], sums_GSAKM[..., MATURED_OF[label]]
    return log_ratios(numerator_HSAK, denominator_HSAK, _conversion_size(guardrail, sums_GSAKM))


def evidence_for_harm(guardrail: GuardrailPlan, theta: FloatArray, se: FloatArray) -> FloatArray:
    """t score against "no worse than the harm margin"; positive is harm."""
    return (math.log1p(-guardrail.harm_margin) - DIRECTION_OF[guardrail.metric] * theta) / se


def evidence_for_safety(guardrail: GuardrailPlan, margin: FloatArray, theta: FloatArray, se: FloatArray) -> FloatArray:
    """t score against "worse than the margin"; positive is safe."""
    return np.asarray((DIRECTION_OF[guardrail.metric] * theta - np.log1p(-margin)) / se)


def _of_guardrail(look: Look, guardrail: GuardrailPlan) -> Iterator[Finding]:
    plan, ratios = look.plan.judge, log_ratios_of(look, guardrail)
    matured_measure = MATURED_OF[LABEL_OF[guardrail.metric]]
    theta_H, se_H, degrees_H = ratios.theta_H, ratios.se_H, (ratios.buckets_H - 1).astype(np.float64)
    share_H = look.traffic_share(matured_measure)
    margin_H = np.array([look.margin(guardrail, float(share)) for share in share_H])
    known_H = np.where(np.isfinite(theta_H), theta_H, 0.0)
    harm_H = log_e(z_of_t(evidence_for_harm(guardrail, known_H, se_H), degrees_H), se_H, plan.taus, plan.tau_weights)
    safe_H = log_e(
        z_of_t(evidence_for_safety(guardrail, margin_H, known_H, se_H), degrees_H), se_H, plan.taus, plan.tau_weights
    )
    width_H = half_width(se_H, degrees_H, alpha=plan.alpha_rollback)
    counts = _Counts(look, guardrail, ratios)
    is_required_H = look.requires(counts.conversion, matured_measure)
    for index, segment in enumerate(look.moments.segments):
        gap = counts.gap(index)
        theta, se = float(theta_H[index]), float(se_H[index])
        is_known = math.isfinite(theta) and counts.judges_harm(index)
        log_e_harm = float(harm_H[index]) if is_known else 0.0
        log_e_safe = float(safe_H[index]) if is_known and not gap else 0.0
        gates = guardrail.role is Role.GATE and bool(is_required_H[index])
        answer = _answer(look, guardrail, gates, counts.has_data(index), gap, theta, log_e_harm, log_e_safe)
        weight = look.weights.surface if index == 0 else look.weights.rest
        yield Finding(
            metric=guardrail.metric.value,
            segment=segment,
            answer=answer,
            gates=gates,
            effect=relative(theta) if is_known else None,
            lower=relative(theta - float(width_H[index])) if is_known else None,
            upper=relative(theta + float(width_H[index])) if is_known else None,
            standard_error=se if is_known else None,
            harm_margin=guardrail.harm_margin,
            safe_margin=float(margin_H[index]),
            log_e_harm=log_e_harm,
            log_e_safe=log_e_safe,
            weight=0.0 if guardrail.role is Role.MONITOR else weight,
            impressions_stable=counts.impressions(index, Arm.STABLE),
            impressions_candidate=counts.impressions(index, Arm.CANDIDATE),
            conversions_stable=counts.shown(index, Arm.STABLE),
            conversions_candidate=counts.shown(index, Arm.CANDIDATE),
            missing=gap if gates and answer is not Answer.SAFE else "",
            seconds_to_resolve=_seconds(look, guardrail, counts, index, theta, se, float(margin_H[index]))
            if gates and answer in (Answer.UNDECIDED, Answer.INSUFFICIENT)
            else None,
        )


def _answer(
    look: Look,
    guardrail: GuardrailPlan,
    gates: bool,
    has_data: bool,
    gap: str,
    theta: float,
    log_e_harm: float,
    log_e_safe: float,
) -> Answer:
    if guardrail.role is not Role.MONITOR and log_e_harm >= -math.log(look.plan.judge.alpha_rollback):
        return Answer.HARM
    if not gates:
        return Answer.MONITORED
    if not has_data:
        return Answer.NO_DATA
    if gap:
        return Answer.INSUFFICIENT
    if not math.isfinite(theta):
        return Answer.ERROR
    return Answer.SAFE if log_e_safe >= -math.log(look.plan.judge.alpha_advance) else Answer.UNDECIDED


def relative(log_ratio: float) -> float:
    """A log ratio as a relative change, finite whatever it is."""
    return math.expm1(min(max(log_ratio, -MAX_LOG_EFFECT), MAX_LOG_EFFECT))


class _Counts:
    """Impressions and conversions behind one guardrail's estimates, over strata that both arms live in."""

    def __init__(self, look: Look, guardrail: GuardrailPlan, ratios: LogRatios) -> None:
        label = LABEL_OF[guardrail.metric]
        self.name = CONVERSION_NAMES[guardrail.metric]
        self.is_revenue = guardrail.metric is Metric.REVENUE_PER_IMPRESSION
        self.conversion = Measure.CLICK if self.is_revenue else NUMERATOR_OF[label]
        self.judge = look.plan.judge
        sums_GSAKM = look.moments.sums_GSAKM
        is_shared_HS = ratios.overlap_HS > 0
        self.shared_HSAM = np.where(is_shared_HS[:, :, None, None], sums_GSAKM.sum(axis=3), 0)
        self.matured_HA: IntArray = self.shared_HSAM[..., MATURED_OF[label]].sum(axis=1)
        self.value_HA: IntArray = self.shared_HSAM[..., NUMERATOR_OF[label]].sum(axis=1)
        self.conversions_HA: IntArray = self.shared_HSAM[..., self.conversion].sum(axis=1)
        self.in_stage_HA: IntArray = self.shared_HSAM[..., self.conversion][:, look.in_present_stage].sum(axis=1)
        self.buckets_H = ratios.buckets_H
        overlap_H = ratios.overlap_HS.sum(axis=1)
        in_stage_H = ratios.overlap_HS[:, look.in_present_stage].sum(axis=1)
        self.stage_part_H = np.divide(in_stage_H, overlap_H, out=np.zeros(overlap_H.shape), where=overlap_H > 0)
        if self.is_revenue:
            self.lumps_HA = effective_count(sums_GSAKM[..., Measure.REVENUE].sum(axis=1))
            rate_HS = np.divide(
                self.shared_HSAM[:, :, Arm.STABLE, Measure.CLICK],
                self.shared_HSAM[:, :, Arm.STABLE, Measure.MATURED_CLICK],
                out=np.zeros(is_shared_HS.shape),
                where=self.shared_HSAM[:, :, Arm.STABLE, Measure.MATURED_CLICK] > 0,
            )
            self.expected_H = (rate_HS * self.shared_HSAM[:, :, Arm.CANDIDATE, Measure.MATURED_CLICK]).sum(axis=1)
        else:
            self.expected_H = ratios.expected_H

    def has_data(self, index: int) -> bool:
        return bool(self.matured_HA[index].min() > 0)

    def judges_harm(self, index: int) -> bool:
        """Gated on what stable's rates promise, never on the candidate's own: a dead candidate must not hide."""
        has_spread = not self.is_revenue or self.lumps_HA[index, Arm.STABLE] >= self.judge.min_buckets
        is_expected = self.expected_H[index] >= self.judge.min_expected_conversions
        return bool(is_expected and self.buckets_H[index] >= self.judge.min_buckets and has_spread)

    def gap(self, index: int) -> str:
        """What is missing before safety may be judged, in words."""
        for arm in (Arm.CANDIDATE, Arm.STABLE):
            have = int(self.conversions_HA[index, arm])
            if have < self.judge.min_conversions:
                return f"{have} of {self.judge.min_conversions} matured {self.name} on {arm.name.lower()}"
        if self.buckets_H[index] < self.judge.min_buckets:
            return f"users in {int(self.buckets_H[index])} of {self.judge.min_buckets} buckets"
        if self.is_revenue and (lumps := float(self.lumps_HA[index].min())) < self.judge.min_buckets:
            return f"revenue worth {lumps:.0f} of {self.judge.min_buckets} equal payers"
        if self.expected_H[index] < self.judge.min_expected_conversions:
            wanted = self.judge.min_expected_conversions
            return f"{float(self.expected_H[index]):.0f} of {wanted:g} expected {self.name}"
        return ""

    def impressions(self, index: int, arm: Arm) -> int:
        return int(self.matured_HA[index, arm])

    def shown(self, index: int, arm: Arm) -> float:
        return float(self.value_HA[index, arm]) / (FIXED_POINT if self.is_revenue else 1)

    def seconds_until_enough(self, look: Look, index: int) -> float | None:
        waits = [
            look.seconds_until_count(have, in_stage, self.judge.min_conversions)
            for have, in_stage in zip(
                self.conversions_HA[index].tolist(), self.in_stage_HA[index].tolist(), strict=True
            )
            if have < self.judge.min_conversions
        ]
        known = [wait for wait in waits if wait is not None]
        return max(known) if known and len(known) == len(waits) else None


def _seconds(
    look: Look, guardrail: GuardrailPlan, counts: _Counts, index: int, theta: float, se: float, margin: float
) -> float | None:
    """About how long until this gate is shown safe, if the estimate stays where it is."""
    if counts.gap(index):
        return counts.seconds_until_enough(look, index)
    judge = look.plan.judge

    def is_safe(se_W: FloatArray) -> BoolArray:
        t_W = evidence_for_safety(guardrail, np.array(margin), np.array(theta), se_W)
        z_W = z_of_t(t_W, np.array(counts.buckets_H[index] - 1.0))
        return np.asarray(log_e(z_W, se_W, judge.taus, judge.tau_weights) >= -math.log(judge.alpha_advance))

    return look.seconds_until(is_safe, se, float(counts.stage_part_H[index]))


def _conversion_size(guardrail: GuardrailPlan, sums_GSAKM: IntArray) -> FloatArray:
    """What one conversion adds to the numerator, per segment: 1, or the mean revenue of a click."""
    totals_GM = sums_GSAKM.sum(axis=(1, 2, 3)).astype(np.float64)
    if guardrail.metric is not Metric.REVENUE_PER_IMPRESSION:
        return np.ones(totals_GM.shape[0])
    return np.asarray(totals_GM[:, Measure.REVENUE] / np.maximum(totals_GM[:, Measure.CLICK], 1.0))
