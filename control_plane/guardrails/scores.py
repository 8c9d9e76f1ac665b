"""Findings on the candidate's scores: are they calibrated, and do they know as much as stable's?"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import logsumexp

from control_plane.domain.moments import Measure, PairMeasure
from control_plane.domain.plan import CalibrationPlan, Role
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration import Calibrations, calibrations
from control_plane.guardrails.engagement import relative
from control_plane.guardrails.estimate import BoolArray, FloatArray
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width, log_e, z_of_t
from control_plane.guardrails.look import Look
from control_plane.guardrails.paired_entropy import EntropyDifferences, entropy_differences

CALIBRATION = "calibration"
NORMALISED_ENTROPY = "ne"
CLEARLY = 2.0  # standard errors; decides whom to blame, never whether to roll back
ENTROPY_TAU_SCALE = 1 / 3  # entropy margins are a third of CTR's, and so are the effects worth looking for


def calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that the candidate served, per segment."""
    sums_GKM = look.moments.sums_GSAKM[:, :, Arm.CANDIDATE].sum(axis=1)
    found = calibrations(
        sums_GKM[..., Measure.MATURED_CLICK], sums_GKM[..., Measure.SCORE], sums_GKM[..., Measure.CLICK]
    )
    in_stage_SKM = look.moments.sums_GSAKM[:, look.in_present_stage, Arm.CANDIDATE]
    clicks_in_stage_G = in_stage_SKM[..., Measure.CLICK].sum(axis=(1, 2))
    for index in range(len(look.moments.segments)):
        gates = look.plan.calibration.role is Role.GATE and bool(look.requires_clicks[index])
        impressions = int(sums_GKM[index, :, Measure.MATURED_CLICK].sum())
        yield _calibration(look, found, index, gates, impressions, int(clicks_in_stage_G[index]), served=True)


def shadow_calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that stable served and the candidate scored in its shadow; told, never decided on."""
    pairs_GKP = look.moments.pairs_GKP
    found = calibrations(
        pairs_GKP[..., PairMeasure.MATURED],
        pairs_GKP[..., PairMeasure.SCORE_CANDIDATE],
        pairs_GKP[..., PairMeasure.CLICK],
    )
    for index in range(len(look.moments.segments)):
        impressions = int(pairs_GKP[index, :, PairMeasure.MATURED].sum())
        yield _calibration(look, found, index, False, impressions, 0, served=False)


def entropy_findings(look: Look) -> Iterator[Finding]:
    """Shadow pairs: the surface decides, view types are told. Higher entropy is worse."""
    pairs_GP = look.moments.pairs_GKP.sum(axis=1)
    found = entropy_differences(look.moments.pairs_GKP)
    for index, segment in enumerate(look.moments.segments):
        yield _entropy(look, found, index, segment, pairs_GP[index].tolist())


def is_information_lost(look: Look) -> bool:
    """Whether entropy is clearly lost in the shadow even when each model's mean score is taken to be right.

    No calibrator does that. In doubt the answer is no: blame on a trunk takes it off every surface.
    """
    found = entropy_differences(look.moments.pairs_GKP[:1])
    lower = float(found.unexplained_G[0]) - CLEARLY * float(found.se_G[0])
    return math.isfinite(lower) and lower > look.plan.shadow.ne_harm_margin


def entropy_gap(look: Look) -> str:
    """What the shadow lacks before it may be judged, in words."""
    matured, clicks = _pairs(look, PairMeasure.MATURED), _pairs(look, PairMeasure.CLICK)
    shadow = look.plan.shadow
    if matured < shadow.min_pairs:
        return f"{matured} of {shadow.min_pairs} matured shadow-scored impressions"
    if clicks < shadow.min_conversions:
        return f"{clicks} of {shadow.min_conversions} matured clicks"
    return ""


def _calibration(
    look: Look, found: Calibrations, index: int, gates: bool, impressions: int, in_stage: int, *, served: bool
) -> Finding:
    plan, judge = look.plan.calibration, look.plan.judge
    epsilon, band = _limits(plan, index)
    log_ratio, se = float(found.log_ratio_H[index]), float(found.se_H[index])
    degrees = float(found.buckets_H[index] - 1)
    expected = max(float(found.predicted_H[index]), float(found.observed_H[index]))
    clicks = round(float(found.observed_H[index]))
    enough = expected >= judge.min_expected_conversions and found.buckets_H[index] >= judge.min_buckets
    is_known = math.isfinite(log_ratio) and enough
    log_e_harm = _log_e_off(look, log_ratio, se, degrees, epsilon) if is_known and served else 0.0
    lower, upper = _interval(log_ratio, se, degrees, judge.alpha_rollback, INTERVAL_TAU)
    gap = "" if clicks >= judge.min_conversions else f"{clicks} of {judge.min_conversions} matured clicks on candidate"
    gap = gap or ("" if is_known else f"users in {found.buckets_H[index]} of {judge.min_buckets} buckets")
    is_inside = is_known and -band < lower and upper < band
    answer = _answer(look, plan.role, gates, impressions, gap, log_e_harm, is_inside)
    weight = look.weights.surface if index == 0 else look.weights.rest

    def is_safe(se_W: FloatArray) -> BoolArray:
        width_W = half_width(se_W, np.full(se_W.shape, degrees), alpha=judge.alpha_rollback)
        return np.asarray(abs(log_ratio) + width_W < band)

    seconds = None
    if gates and answer is Answer.INSUFFICIENT:
        seconds = look.seconds_until_count(clicks, in_stage, judge.min_conversions)
    elif gates and answer is Answer.UNDECIDED:
        seconds = look.seconds_until(is_safe, se, in_stage / max(1, clicks))
    return Finding(
        metric=CALIBRATION,
        segment=look.moments.segments[index],
        answer=answer,
        gates=gates,
        effect=relative(log_ratio) if is_known else None,
        lower=relative(lower) if is_known else None,
        upper=relative(upper) if is_known else None,
        standard_error=se if is_known else None,
        harm_margin=epsilon,
        safe_margin=band,
        log_e_harm=log_e_harm,
        weight=weight if served and plan.role is not Role.MONITOR else 0.0,
        impressions_candidate=impressions,
        conversions_candidate=float(clicks),
        missing=gap if gates and answer is not Answer.SAFE else "",
        seconds_to_resolve=seconds,
    )


def _entropy(look: Look, found: EntropyDifferences, index: int, segment: str, pairs_P: list[int]) -> Finding:
    shadow, judge = look.plan.shadow, look.plan.judge
    difference, se = float(found.difference_G[index]), float(found.se_G[index])
    degrees = np.array(found.buckets_G[index] - 1.0)
    taus = [tau * ENTROPY_TAU_SCALE for tau in judge.taus]
    enough = pairs_P[PairMeasure.CLICK] >= judge.min_expected_conversions and degrees + 1 >= judge.min_buckets
    is_known = math.isfinite(difference) and bool(enough)
    gates = index == 0
    gap = entropy_gap(look) if gates else ""

    def log_e_of(score_t: FloatArray, se_W: FloatArray) -> FloatArray:
        return log_e(z_of_t(score_t, degrees), se_W, taus, judge.tau_weights)

    def log_e_safe_of(se_W: FloatArray) -> FloatArray:
        return log_e_of((shadow.ne_safe_margin - difference) / se_W, se_W)

    log_e_harm = float(log_e_of(np.array((difference - shadow.ne_harm_margin) / se), np.array(se))) if is_known else 0.0
    log_e_safe = float(log_e_safe_of(np.array(se))) if is_known and not gap else 0.0
    answer = Answer.MONITORED
    if gates:
        answer = _answer(look, Role.GATE, True, pairs_P[PairMeasure.PAIRS], gap, log_e_harm, False)
        if answer is Answer.UNDECIDED and log_e_safe >= -math.log(judge.alpha_advance):
            answer = Answer.SAFE
    width = float(half_width(np.array(se), degrees, alpha=judge.alpha_rollback, tau=INTERVAL_TAU * ENTROPY_TAU_SCALE))
    return Finding(
        metric=NORMALISED_ENTROPY,
        segment=segment,
        answer=answer,
        gates=gates,
        effect=_clipped(difference) if is_known else None,
        lower=_clipped(difference - width) if is_known else None,
        upper=_clipped(difference + width) if is_known else None,
        standard_error=se if is_known else None,
        harm_margin=shadow.ne_harm_margin,
        safe_margin=shadow.ne_safe_margin,
        log_e_harm=log_e_harm if gates else 0.0,
        log_e_safe=log_e_safe if gates else 0.0,
        weight=look.weights.rest if gates else 0.0,
        impressions_stable=pairs_P[PairMeasure.MATURED],
        impressions_candidate=pairs_P[PairMeasure.MATURED],
        conversions_stable=float(pairs_P[PairMeasure.CLICK]),
        conversions_candidate=float(pairs_P[PairMeasure.CLICK]),
        missing=gap if gates and answer is not Answer.SAFE else "",
        seconds_to_resolve=_seconds_of_entropy(look, gap, se, log_e_safe_of)
        if gates and answer in (Answer.UNDECIDED, Answer.INSUFFICIENT)
        else None,
    )


def _seconds_of_entropy(
    look: Look, gap: str, se: float, log_e_safe_of: Callable[[FloatArray], FloatArray]
) -> float | None:
    if not gap:
        bar = -math.log(look.plan.judge.alpha_advance)
        return look.seconds_until(lambda se_W: np.asarray(log_e_safe_of(se_W) >= bar), se, 1.0)
    waits = [
        look.seconds_until_count(have, have, wanted)
        for have, wanted in (
            (_pairs(look, PairMeasure.MATURED), look.plan.shadow.min_pairs),
            (_pairs(look, PairMeasure.CLICK), look.plan.shadow.min_conversions),
        )
    ]
    known = [wait for wait in waits if wait is not None]
    return max(known) if len(known) == len(waits) else None


def _answer(
    look: Look, role: Role, gates: bool, impressions: int, gap: str, log_e_harm: float, is_inside: bool
) -> Answer:
    if role is not Role.MONITOR and log_e_harm >= -math.log(look.plan.judge.alpha_rollback):
        return Answer.HARM
    if not gates:
        return Answer.MONITORED
    if not impressions:
        return Answer.NO_DATA
    if gap:
        return Answer.INSUFFICIENT
    return Answer.SAFE if is_inside else Answer.UNDECIDED


def _log_e_off(look: Look, log_ratio: float, se: float, degrees: float, epsilon: float) -> float:
    """Two one-sided e-values, half and half: predicted too high, predicted too low."""
    sides = np.array([log_ratio - epsilon, -log_ratio - epsilon]) / se
    log_e_sides = log_e(
        z_of_t(sides, np.array(degrees)), np.full(2, se), look.plan.judge.taus, look.plan.judge.tau_weights
    )
    return float(logsumexp(log_e_sides) - math.log(2.0))


def _interval(log_ratio: float, se: float, degrees: float, alpha: float, tau: float) -> tuple[float, float]:
    width = float(half_width(np.array(se), np.array(degrees), alpha=alpha, tau=tau))
    return log_ratio - width, log_ratio + width


def _limits(plan: CalibrationPlan, index: int) -> tuple[float, float]:
    """Harm beyond the first, an advance only within the second."""
    return (plan.epsilon, plan.band) if index == 0 else (plan.view_type_epsilon, plan.view_type_band)


def _pairs(look: Look, measure: PairMeasure) -> int:
    return int(look.moments.pairs_GKP[0, :, measure].sum())


def _clipped(difference: float) -> float:
    return min(max(difference, -1e6), 1e6)
