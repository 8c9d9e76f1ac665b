"""Findings on calibration: does the candidate predict what comes, where it served and where it was a shadow?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import Measure, PairMeasure
from control_plane.domain.plan import OnMissing
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration import Calibrations, calibrations
from control_plane.guardrails.estimate import FloatArray, IntArray
from control_plane.guardrails.evalue import half_width, log_e, relative, z_of_t
from control_plane.guardrails.look import Look

CALIBRATION = "calibration"
UNANSWERED = frozenset({Answer.NO_DATA, Answer.INSUFFICIENT, Answer.STALE})


def calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that the candidate served, per segment."""
    matured_GK, score_GK, click_GK = (
        look.moments.cells_of(measure)[:, :, Arm.CANDIDATE].sum(axis=1, dtype=np.int64)
        for measure in (Measure.MATURED_CLICK, Measure.SCORE, Measure.CLICK)
    )
    clicks_in_stage_G = look.in_stage_MGA[Measure.CLICK, :, Arm.CANDIDATE]
    found = calibrations(matured_GK, score_GK, click_GK)
    for row in _rows(look, found, matured_GK, clicks_in_stage_G):
        gates = look.plan.calibration.role.gates and bool(look.requires_clicks[row.index])
        yield _finding(look, row, decides=True, gates=gates)


def shadow_calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that stable served and the candidate scored in its shadow; told, never decided on."""
    pairs_GKP = look.moments.pairs_GKP
    matured_GK, click_GK = pairs_GKP[..., PairMeasure.MATURED], pairs_GKP[..., PairMeasure.CLICK]
    found = calibrations(matured_GK, pairs_GKP[..., PairMeasure.SCORE_CANDIDATE], click_GK)
    for row in _rows(look, found, matured_GK, click_GK.sum(axis=1)):
        yield _finding(look, row, decides=False, gates=False)


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
    is_inside: bool
    log_e_harm: float
    wait: float | None

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
    is_known_G = is_enough_G & np.isfinite(found.log_ratio_H)
    is_surface_G = np.arange(len(expected_G)) == 0
    epsilon_G = np.where(is_surface_G, plan.epsilon, plan.view_type_epsilon)
    band_G = np.where(is_surface_G, plan.band, plan.view_type_band)
    log_e_G = np.where(is_known_G, _log_e_harm(look, found, degrees_G, epsilon_G), 0.0)
    is_inside_G = is_known_G & (np.abs(found.log_ratio_H) + width_G < band_G)
    waits: list[float | None] = [None] * len(band_G)
    if not is_inside_G.all():
        waits = _seconds_until_inside(look, found, band_G, clicks_in_stage_G)
    for index in range(len(look.moments.segments)):
        yield _Row(
            index=index,
            log_ratio=float(found.log_ratio_H[index]),
            se=float(found.se_H[index]),
            degrees=float(degrees_G[index]),
            half_width=float(width_G[index]),
            epsilon=float(epsilon_G[index]),
            band=float(band_G[index]),
            impressions=int(matured_GK[index].sum()),
            clicks=round(float(found.observed_H[index])),
            clicks_in_stage=int(clicks_in_stage_G[index]),
            is_known=bool(is_known_G[index]),
            is_inside=bool(is_inside_G[index]),
            log_e_harm=float(log_e_G[index]),
            wait=waits[index],
        )


def _log_e_harm(look: Look, found: Calibrations, degrees_G: FloatArray, epsilon_G: FloatArray) -> FloatArray:
    """Two one-sided e-values, half and half: predicted too high, predicted too low."""
    judge = look.plan.judge
    side_EG = np.stack([found.log_ratio_H - epsilon_G, -found.log_ratio_H - epsilon_G]) / found.se_H
    score_EG = z_of_t(side_EG, np.broadcast_to(degrees_G, side_EG.shape))
    log_e_EG = log_e(score_EG, np.broadcast_to(found.se_H, side_EG.shape), judge.taus, judge.tau_weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.logaddexp.reduce(log_e_EG, axis=0) - math.log(2.0))


def _seconds_until_inside(
    look: Look, found: Calibrations, band_G: FloatArray, clicks_in_stage_G: IntArray
) -> list[float | None]:
    known = np.array(np.inf)  # of a forecast the quantiles of t matter little

    def excess(se_GW: FloatArray) -> FloatArray:
        width_GW = half_width(se_GW, known, alpha=look.plan.judge.alpha_rollback)
        return np.asarray(band_G[:, None] - np.abs(found.log_ratio_H)[:, None] - width_GW)

    stage_part_G = clicks_in_stage_G / np.maximum(found.observed_H, 1.0)
    return look.seconds_until(excess, found.se_H, stage_part_G)


def _finding(look: Look, row: _Row, *, decides: bool, gates: bool) -> Finding:
    has_weight = decides and look.plan.calibration.role.rolls_back
    weight = look.weights.surface if row.index == 0 else look.weights.rest
    log_e_harm = row.log_e_harm if has_weight else 0.0
    is_harm = log_e_harm >= -math.log(look.plan.judge.alpha_rollback)
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
        log_e_harm=log_e_harm,
        weight=weight if has_weight else 0.0,
        impressions_candidate=row.impressions,
        conversions_candidate=float(row.clicks),
        missing=_missing(look, row, answer) if gates else "",
        seconds_to_resolve=_seconds(look, row, answer) if gates else None,
        role=look.plan.calibration.role.value if decides else "",
        policy=OnMissing.EXTEND.value if gates and answer in UNANSWERED else "",
    )


def _answer(look: Look, row: _Row, gates: bool) -> Answer:
    if not gates:
        return Answer.MONITORED
    if look.is_feed_stale:
        return Answer.STALE
    if not row.impressions:
        return Answer.NO_DATA
    if row.gap(look):
        return Answer.INSUFFICIENT
    return Answer.SAFE if row.is_inside else Answer.UNDECIDED


def _missing(look: Look, row: _Row, answer: Answer) -> str:
    if answer is Answer.STALE:
        return "no event has arrived lately"
    return row.gap(look) if answer is not Answer.SAFE else ""


def _seconds(look: Look, row: _Row, answer: Answer) -> float | None:
    if answer is Answer.INSUFFICIENT:
        return look.seconds_until_count(row.clicks, row.clicks_in_stage, look.plan.judge.min_conversions)
    return row.wait if answer is Answer.UNDECIDED else None
