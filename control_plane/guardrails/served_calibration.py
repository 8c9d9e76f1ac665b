"""Findings on calibration: does the candidate predict what comes, where it served and where it was a shadow?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from control_plane.domain.moments import Measure, PairMeasure
from control_plane.domain.plan import Role
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration import Calibrations, calibrations
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray
from control_plane.guardrails.evalue import half_width, log_e, relative, z_of_t
from control_plane.guardrails.look import Look

CALIBRATION = "calibration"


def calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that the candidate served, per segment."""
    matured_GK, score_GK, click_GK = (
        look.moments.sums_of(measure)[:, :, Arm.CANDIDATE].sum(axis=1)
        for measure in (Measure.MATURED_CLICK, Measure.SCORE, Measure.CLICK)
    )
    clicks_in_stage_G = look.in_stage_MGA[Measure.CLICK, :, Arm.CANDIDATE]
    found = calibrations(matured_GK, score_GK, click_GK)
    for row in _rows(look, found, matured_GK, clicks_in_stage_G):
        gates = look.plan.calibration.role is Role.GATE and bool(look.requires_clicks[row.index])
        yield _finding(look, row, log_e_harm=_log_e_harm(look, row), gates=gates)


def shadow_calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that stable served and the candidate scored in its shadow; told, never decided on."""
    pairs_GKP = look.moments.pairs_GKP
    matured_GK, click_GK = pairs_GKP[..., PairMeasure.MATURED], pairs_GKP[..., PairMeasure.CLICK]
    found = calibrations(matured_GK, pairs_GKP[..., PairMeasure.SCORE_CANDIDATE], click_GK)
    for row in _rows(look, found, matured_GK, click_GK.sum(axis=1)):
        yield _finding(look, row, log_e_harm=None, gates=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One segment's calibration; `is_known` once the evidence gates of harm are passed."""

    index: int
    log_ratio: float
    se: float
    degrees: float
    half_width: float
    epsilon: float
    band: float
    impressions: int
    clicks: int
    clicks_in_stage: int
    is_known: bool

    @property
    def is_inside(self) -> bool:
        return self.is_known and abs(self.log_ratio) + self.half_width < self.band

    def gap(self, look: Look) -> str:
        judge = look.plan.judge
        if self.clicks < judge.min_conversions:
            return f"{self.clicks} of {judge.min_conversions} matured clicks on candidate"
        return "" if self.is_known else f"users in {self.degrees + 1:.0f} of {judge.min_buckets} buckets"


def _rows(look: Look, found: Calibrations, matured_GK: IntArray, clicks_in_stage_G: IntArray) -> Iterator[_Row]:
    plan, judge = look.plan.calibration, look.plan.judge
    degrees_G = (found.buckets_H - 1).astype(np.float64)
    width_G = half_width(found.se_H, degrees_G, alpha=judge.alpha_rollback)
    expected_G = np.maximum(found.predicted_H, found.observed_H)
    is_enough_G = (expected_G >= judge.min_expected_conversions) & (found.buckets_H >= judge.min_buckets)
    for index in range(len(look.moments.segments)):
        yield _Row(
            index=index,
            log_ratio=float(found.log_ratio_H[index]),
            se=float(found.se_H[index]),
            degrees=float(degrees_G[index]),
            half_width=float(width_G[index]),
            epsilon=plan.epsilon if index == 0 else plan.view_type_epsilon,
            band=plan.band if index == 0 else plan.view_type_band,
            impressions=int(matured_GK[index].sum()),
            clicks=round(float(found.observed_H[index])),
            clicks_in_stage=int(clicks_in_stage_G[index]),
            is_known=bool(is_enough_G[index]) and math.isfinite(found.log_ratio_H[index]),
        )


def _log_e_harm(look: Look, row: _Row) -> float:
    """Two one-sided e-values, half and half: predicted too high, predicted too low."""
    if not row.is_known:
        return 0.0
    judge = look.plan.judge
    sides = np.array([row.log_ratio - row.epsilon, -row.log_ratio - row.epsilon]) / row.se
    scores = z_of_t(sides, np.full(2, row.degrees))
    return float(logsumexp(log_e(scores, np.full(2, row.se), judge.taus, judge.tau_weights)) - math.log(2.0))


def _finding(look: Look, row: _Row, *, log_e_harm: float | None, gates: bool) -> Finding:
    """`log_e_harm` is None where calibration only informs."""
    has_weight = log_e_harm is not None and look.plan.calibration.role is not Role.MONITOR
    weight = look.weights.surface if row.index == 0 else look.weights.rest
    is_harm = has_weight and (log_e_harm or 0.0) >= -math.log(look.plan.judge.alpha_rollback)
    answer = Answer.HARM if is_harm else _answer(look, row, gates)
    return Finding(
        metric=CALIBRATION,
        segment=look.moments.segments[row.index],
        answer=answer,
        gates=gates,
        effect=relative(row.log_ratio) if row.is_known else None,
        lower=relative(row.log_ratio - row.half_width) if row.is_known else None,
        upper=relative(row.log_ratio + row.half_width) if row.is_known else None,
        standard_error=row.se if row.is_known else None,
        harm_margin=row.epsilon,
        safe_margin=row.band,
        log_e_harm=log_e_harm or 0.0,
        weight=weight if has_weight else 0.0,
        impressions_candidate=row.impressions,
        conversions_candidate=float(row.clicks),
        missing=row.gap(look) if gates and answer is not Answer.SAFE else "",
        seconds_to_resolve=_seconds(look, row, answer) if gates else None,
    )


def _answer(look: Look, row: _Row, gates: bool) -> Answer:
    if not gates:
        return Answer.MONITORED
    if not row.impressions:
        return Answer.NO_DATA
    if row.gap(look):
        return Answer.INSUFFICIENT
    return Answer.SAFE if row.is_inside else Answer.UNDECIDED


def _seconds(look: Look, row: _Row, answer: Answer) -> float | None:
    judge = look.plan.judge
    if answer is Answer.INSUFFICIENT:
        return look.seconds_until_count(row.clicks, row.clicks_in_stage, judge.min_conversions)
    if answer is not Answer.UNDECIDED:
        return None

    def is_inside(se_W: FloatArray) -> BoolArray:
        width_W = half_width(se_W, np.full(se_W.shape, row.degrees), alpha=judge.alpha_rollback)
        return np.asarray(abs(row.log_ratio) + width_W < row.band)

    return look.seconds_until(is_inside, row.se, row.clicks_in_stage / max(1, row.clicks))
