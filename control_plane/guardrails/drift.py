"""How far the candidate's scores moved from stable's on the same requests. Drift may hold a rollout, never end it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from control_plane.domain.moments import FIXED_POINT, NUM_COARSE_BUCKETS, WHOLE_SURFACE, PairMeasure
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails import told_wording
from control_plane.guardrails.estimate import IntArray, divide, jackknife_se, leave_one_out
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width
from control_plane.guardrails.finding_names import (
    JENSEN_SHANNON,
    KOLMOGOROV_SMIRNOV,
    MEAN_LOG_RATIO,
    PSI,
    RANK_AGREEMENT,
    WASSERSTEIN,
)
from control_plane.guardrails.look import Look
from control_plane.guardrails.rank_agreement import rank_agreement
from control_plane.guardrails.score_distances import score_distances

MIN_COARSE_BUCKETS = NUM_COARSE_BUCKETS * 3 // 4  # of rank agreement: with users in fewer it says nothing
TAU_OF = {  # drift at which an interval is tightest, in each measure's own unit
    PSI: INTERVAL_TAU,
    JENSEN_SHANNON: INTERVAL_TAU / 8,  # for a small drift it is an eighth of PSI
    WASSERSTEIN: INTERVAL_TAU,
    KOLMOGOROV_SMIRNOV: INTERVAL_TAU,
    RANK_AGREEMENT: INTERVAL_TAU,
    MEAN_LOG_RATIO: INTERVAL_TAU,
}
RANGE_OF = {  # that the truth lies in whatever the interval says
    PSI: (0.0, math.inf),
    JENSEN_SHANNON: (0.0, math.log(2.0)),
    WASSERSTEIN: (0.0, math.inf),
    KOLMOGOROV_SMIRNOV: (0.0, 1.0),
    RANK_AGREEMENT: (-1.0, 1.0),
    MEAN_LOG_RATIO: (-math.inf, math.inf),
}


def drift_findings(look: Look) -> tuple[Finding, ...]:
    """Six measures of the surface's shadow pairs, each with an always-valid interval at α_A.

    `effect` is the estimate in the measure's own unit, not a relative change, and `safe_margin` the plan's limit,
    None where it only wants to be told.
    """
    pairs = look.pair_totals_GP[0][PairMeasure.PAIRS]
    buckets, wanted = _buckets(look.moments.score_bins_GAKB[0]), look.plan.judge.min_buckets
    gap = "" if buckets >= wanted else f"users in {buckets} of {wanted} buckets"
    found = _empty() if gap else tuple(_estimates(look, buckets))
    widths = _half_widths(look, found)
    return tuple(_finding(look, one, width, gap, pairs) for one, width in zip(found, widths, strict=True))


def drift_alarm(look: Look, findings: Sequence[Finding] | None = None) -> str | None:
    """What surely lies beyond the plan's limits, the surest first; None if nothing does.

    `findings`: those of `drift_findings`, where they are at hand already.
    """
    found = drift_findings(look) if findings is None else findings
    beyond = [(excess, finding) for finding in found if (excess := told_wording.excess(finding)) > 0]
    if not beyond:
        return None
    surest_first = sorted(beyond, key=lambda pair: -pair[0])
    return "; ".join(told_wording.beyond_limit(finding, look.moments.surface) for _, finding in surest_first)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Estimate:
    metric: str
    value: float | None = None
    se: float = 1.0
    degrees: float = 1.0


def _buckets(score_bins_AKB: IntArray) -> int:
    return int((score_bins_AKB.sum(axis=2) > 0).all(axis=0).sum())


def _empty() -> tuple[_Estimate, ...]:
    return tuple(_Estimate(metric=metric) for metric in TAU_OF)


def _estimates(look: Look, buckets: int) -> Iterator[_Estimate]:
    """In the order of `TAU_OF`."""
    distances, degrees = score_distances(look.moments.score_bins_GAKB[0]), buckets - 1.0
    for metric, distance in (
        (PSI, distances.psi),
        (JENSEN_SHANNON, distances.js),
        (WASSERSTEIN, distances.wasserstein),
        (KOLMOGOROV_SMIRNOV, distances.ks),
    ):
        yield _Estimate(metric=metric, value=distance.value, se=distance.se, degrees=degrees)
    ranks = rank_agreement(look.moments.score_pairs_CBB)
    if ranks.buckets >= MIN_COARSE_BUCKETS and math.isfinite(ranks.tau_b):
        yield _Estimate(metric=RANK_AGREEMENT, value=ranks.tau_b, se=ranks.se, degrees=ranks.buckets - 1.0)
    else:
        yield _Estimate(metric=RANK_AGREEMENT)
    yield _mean_log_ratio(look.moments.pairs_GKP[0], look.plan.judge.min_buckets)


def _mean_log_ratio(pairs_KP: IntArray, min_buckets: int) -> _Estimate:
    has_data_K = pairs_KP[:, PairMeasure.PAIRS] > 0
    if has_data_K.sum() < min_buckets:
        return _Estimate(metric=MEAN_LOG_RATIO)
    count_J, sum_J = leave_one_out(pairs_KP[:, [PairMeasure.PAIRS, PairMeasure.LOG_RATIO]].T)
    mean_J = divide(sum_J, count_J) / FIXED_POINT
    se = float(jackknife_se(mean_J[None], has_data_K[None])[0])
    return _Estimate(metric=MEAN_LOG_RATIO, value=float(mean_J[0]), se=se, degrees=float(has_data_K.sum()) - 1.0)


def _half_widths(look: Look, estimates: Sequence[_Estimate]) -> list[float]:
    """Each in its own unit, computed at once in units of its τ."""
    tau_N = np.array([TAU_OF[estimate.metric] for estimate in estimates])
    se_N = np.array([estimate.se for estimate in estimates]) / tau_N
    degrees_N = np.array([estimate.degrees for estimate in estimates])
    width_N = half_width(se_N, degrees_N, alpha=look.plan.judge.alpha_advance, tau=1.0) * tau_N
    return [float(width) for width in width_N]


def _finding(look: Look, estimate: _Estimate, width: float, gap: str, pairs: int) -> Finding:
    limit, value = _limit(look, estimate.metric), estimate.value
    low, high = RANGE_OF[estimate.metric]
    lower = None if value is None else max(low, value - width)
    upper = None if value is None else min(high, value + width)
    return Finding(
        metric=estimate.metric,
        segment=WHOLE_SURFACE,
        answer=_answer(estimate.metric, lower, upper, limit, pairs),
        gates=False,
        effect=value,
        lower=lower,
        upper=upper,
        standard_error=None if value is None else estimate.se,
        safe_margin=limit,
        impressions_stable=pairs,
        impressions_candidate=pairs,
        missing="" if value is not None else gap or "users in more buckets, whose scores differ",
    )


def _limit(look: Look, metric: str) -> float | None:
    shadow = look.plan.shadow
    return {
        PSI: shadow.max_psi,
        JENSEN_SHANNON: shadow.max_js,
        WASSERSTEIN: shadow.max_wasserstein,
        KOLMOGOROV_SMIRNOV: shadow.max_ks,
        RANK_AGREEMENT: shadow.min_rank_agreement,
        MEAN_LOG_RATIO: shadow.max_mean_log_ratio,
    }[metric]


def _answer(metric: str, lower: float | None, upper: float | None, limit: float | None, pairs: int) -> Answer:
    """Safe is surely within the limit; what is not stays undecided, as drift alone is no harm."""
    if lower is None or upper is None:
        return Answer.INSUFFICIENT if pairs else Answer.NO_DATA
    if limit is None:
        return Answer.MONITORED
    return Answer.SAFE if _is_within(metric, lower, upper, limit) else Answer.UNDECIDED


def _is_within(metric: str, lower: float, upper: float, limit: float) -> bool:
    if metric == RANK_AGREEMENT:
        return lower > limit
    return max(-lower, upper) < limit if metric == MEAN_LOG_RATIO else upper < limit
