"""Findings on the shadow's pairs: does the candidate know as much of who will click as stable does?"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from control_plane.domain.moments import PairMeasure
from control_plane.domain.plan import JudgePlan
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.estimate import FloatArray
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width, log_e, z_of_t
from control_plane.guardrails.look import Look
from control_plane.guardrails.paired_entropy import EntropyDifferences, entropy_differences
from control_plane.guardrails.waiting import seconds_until

NORMALISED_ENTROPY = "ne"
TAU_SCALE = 1 / 3  # entropy margins are a third of CTR's, and so are the effects worth looking for
CLEARLY = 2.0  # standard errors; decides whom to blame, never whether to roll back
MAX_DIFFERENCE = 1e6  # shown differences end here: beyond it is noise


def entropy_findings(look: Look) -> Iterator[Finding]:
    """The surface decides, view types are told. Higher entropy is worse."""
    found = entropy_differences(look.moments.pairs_GKP)
    yield from _of_surfaces([look], found, decides=True)
    widths = _half_widths(look.plan.judge, found)
    for index in range(1, len(look.moments.segments)):
        yield _told(look, found, index, Answer.MONITORED, place=index, width=widths[index])


def weighing_entropy_findings(looks: Sequence[Look]) -> list[Finding]:
    """The surface's of each look: it goes on weighing in the rollback mean, but has no say in later gates.

    The plans share one `JudgePlan`.
    """
    found = entropy_differences(np.concatenate([look.moments.pairs_GKP[:1] for look in looks]))
    return _of_surfaces(looks, found, decides=False)


def entropy_gap(look: Look) -> str:
    """What the shadow lacks before it may be judged, in words; empty if nothing."""
    shadow, matured, clicks = look.plan.shadow, _sum(look, PairMeasure.MATURED), _sum(look, PairMeasure.CLICK)
    if matured < shadow.min_pairs:
        return f"{matured} of {shadow.min_pairs} matured shadow-scored impressions"
    if clicks < shadow.min_conversions:
        return f"{clicks} of {shadow.min_conversions} matured clicks"
    buckets = int((look.moments.pairs_GKP[0, :, PairMeasure.MATURED] > 0).sum())
    if buckets < look.plan.judge.min_buckets:
        return f"users in {buckets} of {look.plan.judge.min_buckets} buckets"
    return ""


def is_information_lost(look: Look) -> bool:
    """Whether entropy is clearly lost in the shadow even when each model's mean score is taken to be right.

    No calibrator does that. In doubt the answer is no: blame on a trunk takes it off every surface.
    """
    found = entropy_differences(look.moments.pairs_GKP[:1])
    lower = float(found.unexplained_G[0]) - CLEARLY * float(found.se_G[0])
    return math.isfinite(lower) and lower > look.plan.shadow.ne_harm_margin


def _of_surfaces(looks: Sequence[Look], found: EntropyDifferences, *, decides: bool) -> list[Finding]:
    """The first of `found`, one for each look."""
    judge, size = looks[0].plan.judge, len(looks)
    difference_L, se_L = found.difference_G[:size], found.se_G[:size]
    harm_L, safe_L = np.array([[look.plan.shadow.ne_harm_margin, look.plan.shadow.ne_safe_margin] for look in looks]).T
    score_L = np.concatenate([difference_L - harm_L, safe_L - difference_L]) / np.tile(se_L, 2)
    log_e_L = _log_e(judge, score_L, np.tile(se_L, 2), np.tile(found.buckets_G[:size] - 1.0, 2)).tolist()
    columns = zip(looks, log_e_L[:size], log_e_L[size:], _half_widths(judge, found), strict=False)
    return [
        _of_surface(look, found, place, decides=decides, harm=harm, safe=safe, width=width)
        for place, (look, harm, safe, width) in enumerate(columns)
    ]


def _of_surface(
    look: Look, found: EntropyDifferences, place: int, *, decides: bool, harm: float, safe: float, width: float
) -> Finding:
    judge, gap, is_known = look.plan.judge, entropy_gap(look), _is_known(look, found, place, 0)
    harm = harm if is_known else 0.0
    safe = safe if is_known and not gap else 0.0
    if harm >= -math.log(judge.alpha_rollback):
        answer = Answer.HARM
    elif gap or not is_known:
        answer = Answer.INSUFFICIENT if _sum(look, PairMeasure.PAIRS) else Answer.NO_DATA
    else:
        answer = Answer.SAFE if safe >= -math.log(judge.alpha_advance) else Answer.UNDECIDED
    return _told(
        look,
        found,
        0,
        answer,
        place=place,
        width=width,
        weight=look.weights.rest,
        log_e_harm=harm,
        log_e_safe=safe,
        gates=decides,
        missing=gap if decides else "",
        seconds=_seconds(look, found, place, answer) if decides else None,
    )


def _told(
    look: Look,
    found: EntropyDifferences,
    index: int,
    answer: Answer,
    *,
    place: int,
    width: float,
    weight: float = 0.0,
    log_e_harm: float = 0.0,
    log_e_safe: float = 0.0,
    gates: bool = False,
    missing: str = "",
    seconds: float | None = None,
) -> Finding:
    """`place` of the segment in `found`, which may be of many looks."""
    pairs_P = look.pair_totals_GP[index]
    is_known, difference = _is_known(look, found, place, index), float(found.difference_G[place])
    return Finding(
        metric=NORMALISED_ENTROPY,
        segment=look.moments.segments[index],
        answer=answer,
        gates=gates,
        effect=_clipped(difference) if is_known else None,
        lower=_clipped(difference - width) if is_known else None,
        upper=_clipped(difference + width) if is_known else None,
        standard_error=float(found.se_G[place]) if is_known else None,
        harm_margin=look.plan.shadow.ne_harm_margin,
        safe_margin=look.plan.shadow.ne_safe_margin,
        log_e_harm=log_e_harm,
        log_e_safe=log_e_safe,
        weight=weight,
        impressions_stable=pairs_P[PairMeasure.MATURED],
        impressions_candidate=pairs_P[PairMeasure.MATURED],
        conversions_stable=float(pairs_P[PairMeasure.CLICK]),
        conversions_candidate=float(pairs_P[PairMeasure.CLICK]),
        missing=missing,
        seconds_to_resolve=seconds,
    )


def _half_widths(judge: JudgePlan, found: EntropyDifferences) -> list[float]:
    degrees_G = found.buckets_G.astype(np.float64) - 1.0
    width_G = half_width(found.se_G, degrees_G, alpha=judge.alpha_rollback, tau=INTERVAL_TAU * TAU_SCALE)
    return list(width_G.tolist())


def _seconds(look: Look, found: EntropyDifferences, place: int, answer: Answer) -> float | None:
    shadow = look.plan.shadow
    if answer is Answer.INSUFFICIENT:
        matured, clicks = _sum(look, PairMeasure.MATURED), _sum(look, PairMeasure.CLICK)
        pairs_wait = look.seconds_until_count(matured, matured, shadow.min_pairs)
        click_wait = look.seconds_until_count(clicks, clicks, shadow.min_conversions)
        return None if pairs_wait is None or click_wait is None else max(pairs_wait, click_wait)
    if answer is not Answer.UNDECIDED:
        return None
    distance = shadow.ne_safe_margin - float(found.difference_G[place])
    degrees = np.array(found.buckets_G[place] - 1.0)

    def excess(se_W: FloatArray) -> FloatArray:
        return _log_e(look.plan.judge, distance / se_W, se_W, degrees) + math.log(look.plan.judge.alpha_advance)

    return seconds_until(excess, found.se_G[place : place + 1], np.array([look.pace(1.0)]))[0]


def _log_e(judge: JudgePlan, t_X: FloatArray, se_X: FloatArray, degrees_X: FloatArray) -> FloatArray:
    taus = [tau * TAU_SCALE for tau in judge.taus]
    return log_e(z_of_t(t_X, np.broadcast_to(degrees_X, t_X.shape)), se_X, taus, judge.tau_weights)


def _is_known(look: Look, found: EntropyDifferences, place: int, index: int) -> bool:
    clicks = look.pair_totals_GP[index][PairMeasure.CLICK]
    has_enough = clicks >= look.plan.judge.min_expected_conversions
    has_users = int(found.buckets_G[place]) >= look.plan.judge.min_buckets
    return has_enough and has_users and math.isfinite(found.difference_G[place])


def _sum(look: Look, measure: PairMeasure) -> int:
    return look.pair_totals_GP[0][measure]


def _clipped(difference: float) -> float:
    return float(min(max(difference, -MAX_DIFFERENCE), MAX_DIFFERENCE))
