"""Findings on calibration: does the candidate predict what comes, where it served and where it was a shadow?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from control_plane.domain.moments import Measure, PairMeasure
from control_plane.domain.plan import JudgePlan, OnMissing
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration import Calibrations, calibrations
from control_plane.guardrails.estimate import FloatArray, IntArray
from control_plane.guardrails.evalue import half_width, log_e, relative, z_of_t
from control_plane.guardrails.look import Look
from control_plane.guardrails.waiting import seconds_until

CALIBRATION = "calibration"
UNANSWERED = frozenset({Answer.NO_DATA, Answer.INSUFFICIENT, Answer.STALE})


def calibration_findings(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Of the impressions that the candidate served, per segment; the looks' plans share one `JudgePlan`."""
    matured_HK, score_HK, click_HK = (
        np.concatenate([look.candidate_by_bucket(measure) for look in looks])
        for measure in (Measure.MATURED_CLICK, Measure.SCORE, Measure.CLICK)
    )
    clicks_in_stage_H = np.concatenate([look.in_stage_MGA[Measure.CLICK, :, Arm.CANDIDATE] for look in looks])
    rows = _rows(looks, calibrations(matured_HK, score_HK, click_HK), matured_HK, clicks_in_stage_H)
    findings = (_finding(row, decides=True, gates=_gates(row)) for row in rows)
    return [tuple(islice(findings, len(look.moments.segments))) for look in looks]


def shadow_calibration_findings(look: Look) -> Iterator[Finding]:
    """Of the impressions that stable served and the candidate scored in its shadow; told, never decided on."""
    pairs_GKP = look.moments.pairs_GKP
    matured_GK, click_GK = pairs_GKP[..., PairMeasure.MATURED], pairs_GKP[..., PairMeasure.CLICK]
    found = calibrations(matured_GK, pairs_GKP[..., PairMeasure.SCORE_CANDIDATE], click_GK)
    for row in _rows([look], found, matured_GK, click_GK.sum(axis=1)):
        yield _finding(row, decides=False, gates=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One segment's calibration; `is_known` once the evidence gates of harm are passed."""

    look: Look
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

    @property
    def gap(self) -> str:
        judge = self.look.plan.judge
        if self.clicks < judge.min_conversions:
            return f"{self.clicks} of {judge.min_conversions} matured clicks on candidate"
        return "" if self.is_known else f"users in {self.degrees + 1:.0f} of {judge.min_buckets} buckets"


def _rows(
    looks: Sequence[Look], found: Calibrations, matured_HK: IntArray, clicks_in_stage_H: IntArray
) -> Iterator[_Row]:
    judge = looks[0].plan.judge
    places = [(look, index) for look in looks for index in range(len(look.moments.segments))]
    epsilon_H, band_H = np.array([_limits(look, index) for look, index in places]).T
    degrees_H = (found.buckets_H - 1).astype(np.float64)
    width_H = half_width(found.se_H, degrees_H, alpha=judge.alpha_rollback)
    expected_H = np.maximum(found.predicted_H, found.observed_H)
    is_enough_H = (expected_H >= judge.min_expected_conversions) & (found.buckets_H >= judge.min_buckets)
    is_known_H = is_enough_H & np.isfinite(found.log_ratio_H)
    log_e_H = np.where(is_known_H, _log_e_harm(judge, found, degrees_H, epsilon_H), 0.0)
    is_inside_H = is_known_H & (np.abs(found.log_ratio_H) + width_H < band_H)
    pace_H = np.array([look.pace(1.0) for look, _ in places]) * clicks_in_stage_H / np.maximum(found.observed_H, 1.0)
    columns = zip(
        places,
        found.log_ratio_H.tolist(),
        found.se_H.tolist(),
        degrees_H.tolist(),
        width_H.tolist(),
        epsilon_H.tolist(),
        band_H.tolist(),
        matured_HK.sum(axis=1).tolist(),
        found.observed_H.tolist(),
        clicks_in_stage_H.tolist(),
        is_known_H.tolist(),
        is_inside_H.tolist(),
        log_e_H.tolist(),
        _seconds_until_inside(judge, found, band_H, np.where(is_inside_H, 0.0, pace_H)),
        strict=True,
    )
    for (
        look,
        index,
    ), log_ratio, se, degrees, width, epsilon, band, shown, clicks, fresh, known, inside, e, wait in columns:
        yield _Row(
            look=look,
            index=index,
            log_ratio=log_ratio,
            se=se,
            degrees=degrees,
            half_width=width,
            epsilon=epsilon,
            band=band,
            impressions=shown,
            clicks=round(clicks),
            clicks_in_stage=fresh,
            is_known=known,
            is_inside=inside,
            log_e_harm=e,
            wait=wait,
        )


def _limits(look: Look, index: int) -> tuple[float, float]:
    plan = look.plan.calibration
    return (plan.view_type_epsilon, plan.view_type_band) if index else (plan.epsilon, plan.band)


def _log_e_harm(judge: JudgePlan, found: Calibrations, degrees_H: FloatArray, epsilon_H: FloatArray) -> FloatArray:
    """Two one-sided e-values, half and half: predicted too high, predicted too low."""
    side_EH = np.stack([found.log_ratio_H - epsilon_H, -found.log_ratio_H - epsilon_H]) / found.se_H
    score_EH = z_of_t(side_EH, np.broadcast_to(degrees_H, side_EH.shape))
    log_e_EH = log_e(score_EH, np.broadcast_to(found.se_H, side_EH.shape), judge.taus, judge.tau_weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.logaddexp.reduce(log_e_EH, axis=0) - math.log(2.0))


def _seconds_until_inside(
    judge: JudgePlan, found: Calibrations, band_H: FloatArray, pace_H: FloatArray
) -> list[float | None]:
    known = np.array(np.inf)  # of a forecast the quantiles of t matter little

    def excess(se_HW: FloatArray) -> FloatArray:
        width_HW = half_width(se_HW, known, alpha=judge.alpha_rollback)
        return np.asarray(band_H[:, None] - np.abs(found.log_ratio_H)[:, None] - width_HW)

    return seconds_until(excess, found.se_H, pace_H)


def _gates(row: _Row) -> bool:
    return row.look.plan.calibration.role.gates and bool(row.look.requires_clicks[row.index])


def _finding(row: _Row, *, decides: bool, gates: bool) -> Finding:
    look = row.look
    has_weight = decides and look.plan.calibration.role.rolls_back
    weight = look.weights.surface if row.index == 0 else look.weights.rest
    log_e_harm = row.log_e_harm if has_weight else 0.0
    is_harm = log_e_harm >= -math.log(look.plan.judge.alpha_rollback)
    answer = Answer.HARM if is_harm else _answer(row, gates)
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
        missing=_missing(row, answer) if gates else "",
        seconds_to_resolve=_seconds(row, answer) if gates else None,
        role=look.plan.calibration.role.value if decides else "",
        policy=OnMissing.EXTEND.value if gates and answer in UNANSWERED else "",
    )


def _answer(row: _Row, gates: bool) -> Answer:
    if not gates:
        return Answer.MONITORED
    if row.look.is_feed_stale:
        return Answer.STALE
    if not row.impressions:
        return Answer.NO_DATA
    if row.gap:
        return Answer.INSUFFICIENT
    return Answer.SAFE if row.is_inside else Answer.UNDECIDED


def _missing(row: _Row, answer: Answer) -> str:
    if answer is Answer.STALE:
        return "no event has arrived lately"
    return row.gap if answer is not Answer.SAFE else ""


def _seconds(row: _Row, answer: Answer) -> float | None:
    if answer is Answer.INSUFFICIENT:
        return row.look.seconds_until_count(row.clicks, row.clicks_in_stage, row.look.plan.judge.min_conversions)
    return row.wait if answer is Answer.UNDECIDED else None
