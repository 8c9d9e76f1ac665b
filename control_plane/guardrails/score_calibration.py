"""Findings on calibration by score, of the whole surface: where on its scale is the candidate off? Told, never decided.

Letters of the shapes: A arms (2), C coarse user buckets, B score bins, D groups of stable's deciles,
R `ReliabilityMeasure`, S strata, K user buckets, J = K + 1 leave-one-out replicates.
"""

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np

from control_plane.domain.events import Label
from control_plane.domain.moments import (
    NUM_COARSE_BUCKETS,
    SCORE_BIN_LOGIT_MIN,
    SCORE_BIN_LOGIT_WIDTH,
    WHOLE_SURFACE,
    Measure,
    ReliabilityMeasure,
)
from control_plane.domain.rollout import Phase
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.calibration import calibrations
from control_plane.guardrails.calibration_error import CalibrationError, calibration_errors
from control_plane.guardrails.estimate import FloatArray, IntArray, jackknife_se
from control_plane.guardrails.evalue import half_width, relative
from control_plane.guardrails.finding_names import (
    CALIBRATION_BY_SCORE,
    CALIBRATION_ERROR,
    CALIBRATION_SHIFT,
    STABLE_CALIBRATION_ERROR,
)
from control_plane.guardrails.look import Look
from control_plane.guardrails.score_distances import NUM_GROUPS, starts_of_tenths

Estimate = tuple[float, float, float]  # a log ratio, its interval's half-width and its standard error
MIN_COARSE_BUCKETS = NUM_COARSE_BUCKETS * 3 // 4  # with users in fewer nothing is estimated


def score_calibration_findings(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Calibration by decile, its error, and while both arms serve what the candidate adds to stable's.

    Of each look, all computed together; the plans share one `JudgePlan`.
    """
    columns = zip(
        calibration_by_score(looks), calibration_shifts(looks), calibration_error_findings(looks), strict=True
    )
    return [(*deciles, *shifts, *errors) for deciles, shifts, errors in columns]


def calibration_by_score(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Predicted over observed clicks of the candidate by tenths of stable's scores.

    The tenths are those of the shadow, in which stable's scores stand still once the ramp begins, so that a decile
    is the same scores at every look; where there was no shadow, those of what stable served. Bins are half a logit
    wide: a bin that holds more than a tenth joins deciles into one.
    """
    groups = [_deciles(look) for look in looks]
    if not any(groups):
        return [() for _ in looks]
    judge = looks[0].plan.judge
    table_RDC = np.concatenate(
        [
            np.add.reduceat(_table(look)[Arm.CANDIDATE], [start for start, _ in group], axis=1).T
            for look, group in zip(looks, groups, strict=True)
            if group
        ],
        axis=1,
    )
    found = calibrations(*(table_RDC[measure] for measure in ReliabilityMeasure))
    width_D = half_width(found.se_H, (found.buckets_H - 1).astype(np.float64), alpha=judge.alpha_rollback)
    is_known_D = np.maximum(found.predicted_H, found.observed_H) >= judge.min_expected_conversions
    is_known_D &= (found.buckets_H >= MIN_COARSE_BUCKETS) & np.isfinite(found.log_ratio_H)
    findings = (
        _told(
            CALIBRATION_BY_SCORE,
            segment,
            (log_ratio, width, se) if is_known else None,
            impressions_candidate=shown,
            conversions_candidate=clicks,
        )
        for segment, is_known, log_ratio, width, se, shown, clicks in zip(
            [segment for group in groups for _, segment in group],
            is_known_D.tolist(),
            found.log_ratio_H.tolist(),
            width_D.tolist(),
            found.se_H.tolist(),
            table_RDC[ReliabilityMeasure.IMPRESSIONS].sum(axis=1).tolist(),
            found.observed_H.tolist(),
            strict=True,
        )
    )
    return [tuple(islice(findings, len(group))) for group in groups]


def calibration_shifts(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Candidate's calibration beside stable's in the same strata: what a weekend does to both cancels.

    Predicted and observed clicks are weighted over strata as in `estimate.log_ratios`; buckets leave both arms at
    once. Only of a ramp: elsewhere one arm alone serves.
    """
    ramping = {place: look for place, look in enumerate(looks) if look.stage.phase is Phase.RAMPING}
    ramping = {place: look for place, look in ramping.items() if look.moments.strata}
    shifts = {place: shift_J for place, look in ramping.items() if (shift_J := _shift(look)) is not None}
    estimates: dict[int, Estimate] = {}
    if shifts:
        shift_LJ = np.stack(list(shifts.values()))
        has_data_LK = np.concatenate([looks[place].comparison(Label.CLICK).has_data_HK[:1] for place in shifts])
        se_L = jackknife_se(shift_LJ, has_data_LK)
        width_L = half_width(se_L, has_data_LK.sum(axis=1) - 1.0, alpha=looks[0].plan.judge.alpha_rollback)
        columns = zip(shift_LJ[:, 0].tolist(), width_L.tolist(), se_L.tolist(), strict=True)
        estimates = dict(zip(shifts, columns, strict=True))
    return [
        (_shift_finding(look, estimates.get(place)),) if place in ramping else () for place, look in enumerate(looks)
    ]


def calibration_error_findings(looks: Sequence[Look]) -> list[tuple[Finding, ...]]:
    """Debiased expected calibration error of each version, relative to its click rate."""
    judge = looks[0].plan.judge
    table_XCBR = np.concatenate([_table(look)[[Arm.CANDIDATE, Arm.STABLE]] for look in looks])
    shown_XC = table_XCBR[..., ReliabilityMeasure.IMPRESSIONS].sum(axis=2)
    clicks_X = table_XCBR[..., ReliabilityMeasure.CLICK].sum(axis=(1, 2))
    has_enough_X = clicks_X >= judge.min_expected_conversions
    has_enough_X &= (shown_XC > 0).sum(axis=1) >= MIN_COARSE_BUCKETS
    errors = calibration_errors(table_XCBR, alpha=judge.alpha_rollback)
    columns = zip(has_enough_X.tolist(), errors, shown_XC.sum(axis=1).tolist(), clicks_X.tolist(), strict=True)
    findings = (
        _error_finding(found if has_enough else None, shown, clicks, is_candidate=index % 2 == 0)
        for index, (has_enough, found, shown, clicks) in enumerate(columns)
    )
    return [tuple(islice(findings, 2)) for _ in looks]


def _error_finding(found: CalibrationError | None, shown: int, clicks: int, *, is_candidate: bool) -> Finding:
    return Finding(
        metric=CALIBRATION_ERROR if is_candidate else STABLE_CALIBRATION_ERROR,
        segment=WHOLE_SURFACE,
        answer=Answer.MONITORED,
        gates=False,
        effect=None if found is None else found.value,
        lower=None if found is None else found.lower,
        upper=None if found is None else found.upper,
        impressions_candidate=shown if is_candidate else 0,
        conversions_candidate=float(clicks) if is_candidate else 0.0,
        impressions_stable=0 if is_candidate else shown,
        conversions_stable=0.0 if is_candidate else float(clicks),
    )


def _table(look: Look) -> IntArray:
    """What each version's scores came to, (A, C, B, R): of the shadow's pairs, later of what it served."""
    moments = look.moments
    is_shadow = look.stage.phase is Phase.SHADOW
    table_GACBR = moments.shadow_reliability_GACBR if is_shadow else moments.reliability_GACBR
    return np.asarray(table_GACBR[0], dtype=np.int64)


def _deciles(look: Look) -> list[tuple[int, str]]:
    """The first bin of each group and what people call it."""
    stable_B = look.moments.score_bins_GAKB[0, Arm.STABLE].sum(axis=0)
    if not stable_B.any():
        stable_B = look.moments.reliability_GACBR[0, Arm.STABLE, :, :, ReliabilityMeasure.IMPRESSIONS].sum(axis=0)
    if not stable_B.any():
        return []
    starts, tenths = (found.tolist() for found in starts_of_tenths(stable_B))
    ends = [*zip(starts[1:], tenths[1:], strict=True), (None, NUM_GROUPS)]
    return [
        (start, _decile_name(tenth, next_tenth, start, end))
        for start, tenth, (end, next_tenth) in zip(starts, tenths, ends, strict=True)
    ]


def _decile_name(tenth: int, next_tenth: int, start: int, end: int | None) -> str:
    """'decile 1 (scores below 0.8 %)', 'deciles 3–5 (scores 1.1 % to 1.8 %)'."""
    name = f"decile {tenth + 1}" if next_tenth == tenth + 1 else f"deciles {tenth + 1}–{next_tenth}"
    if tenth == 0:
        return f"{name} (all scores)" if end is None else f"{name} (scores below {_edge(end)})"
    return f"{name} (scores from {_edge(start)})" if end is None else f"{name} (scores {_edge(start)} to {_edge(end)})"


def _edge(index: int) -> str:
    score = 1 / (1 + math.exp(-(SCORE_BIN_LOGIT_MIN + index * SCORE_BIN_LOGIT_WIDTH)))
    return f"{score * 100:.2g} %"


def _shift(look: Look) -> FloatArray | None:
    """Log of candidate's predicted over observed clicks, less stable's: replicates; None where too little is known."""
    judge, comparison = look.plan.judge, look.comparison(Label.CLICK)
    click_A = look.shared(Label.CLICK).totals_MGA[Measure.CLICK, 0]
    if comparison.buckets_H[0] < judge.min_buckets or click_A.min() < judge.min_expected_conversions:
        return None
    sums_XJ = np.stack([*look.weighted_scores, *look.weighted_clicks])
    if not (sums_XJ > 0).all():
        return None
    candidate_J, stable_J, candidate_click_J, stable_click_J = np.log(sums_XJ)
    return np.asarray((candidate_J - candidate_click_J) - (stable_J - stable_click_J))


def _shift_finding(look: Look, estimate: Estimate | None) -> Finding:
    totals_MA = look.shared(Label.CLICK).totals_MGA[:, 0]
    shown_A, click_A = totals_MA[Measure.MATURED_CLICK].tolist(), totals_MA[Measure.CLICK].tolist()
    return _told(
        CALIBRATION_SHIFT,
        WHOLE_SURFACE,
        estimate,
        impressions_stable=shown_A[Arm.STABLE],
        impressions_candidate=shown_A[Arm.CANDIDATE],
        conversions_stable=click_A[Arm.STABLE],
        conversions_candidate=click_A[Arm.CANDIDATE],
    )


def _told(
    metric: str,
    segment: str,
    estimate: Estimate | None,
    *,
    impressions_candidate: int,
    conversions_candidate: float,
    impressions_stable: int = 0,
    conversions_stable: float = 0.0,
) -> Finding:
    log_ratio, width, se = (None, None, None) if estimate is None else estimate
    return Finding(
        metric=metric,
        segment=segment,
        answer=Answer.MONITORED,
        gates=False,
        effect=None if log_ratio is None else relative(log_ratio),
        lower=None if log_ratio is None or width is None else relative(log_ratio - width),
        upper=None if log_ratio is None or width is None else relative(log_ratio + width),
        standard_error=se,
        impressions_stable=impressions_stable,
        impressions_candidate=impressions_candidate,
        conversions_stable=float(conversions_stable),
        conversions_candidate=float(conversions_candidate),
    )
