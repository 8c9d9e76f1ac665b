"""Findings on the Brier score of the shadow's pairs: squared error, candidate's beside stable's, on the same labels."""

import math

import numpy as np

from control_plane.domain.moments import PairMeasure
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.estimate import divide, jackknife_se, leave_one_out
from control_plane.guardrails.evalue import INTERVAL_TAU, half_width
from control_plane.guardrails.finding_names import BRIER
from control_plane.guardrails.look import Look

TAU_SCALE = 1 / 10  # most of a rare click's Brier score is the click's own variance, which no model explains
MEASURES = [PairMeasure.BRIER_STABLE, PairMeasure.BRIER_CANDIDATE, PairMeasure.MATURED, PairMeasure.CLICK]


def brier_findings(look: Look) -> tuple[Finding, ...]:
    """Per segment, relative to stable's Brier score; less is better. Told, never decided on.

    The difference is taken within each impression, so that what both models cannot know cancels.

    Source:
        Brier 1950; Shao & Tu, The Jackknife and Bootstrap, 1995, section 1.2.
    """
    sums_PGK = np.moveaxis(look.moments.pairs_GKP[..., MEASURES], -1, 0)
    stable_GJ, candidate_GJ = leave_one_out(sums_PGK[0]), leave_one_out(sums_PGK[1])
    is_scored_G = np.asarray((stable_GJ > 0).all(axis=1))
    relative_GJ = divide(candidate_GJ - stable_GJ, stable_GJ)
    has_data_GK = sums_PGK[2] > 0
    buckets_G = has_data_GK.sum(axis=1)
    se_G = jackknife_se(relative_GJ, has_data_GK)
    alpha, tau = look.plan.judge.alpha_rollback, INTERVAL_TAU * TAU_SCALE
    width_G = half_width(se_G, buckets_G - 1.0, alpha=alpha, tau=tau)
    matured_G, click_G = sums_PGK[2].sum(axis=1).tolist(), sums_PGK[3].sum(axis=1).tolist()
    is_known_G = is_scored_G & (buckets_G >= look.plan.judge.min_buckets)
    return tuple(
        _finding(segment, is_known, effect, width, se, matured, click)
        for segment, is_known, effect, width, se, matured, click in zip(
            look.moments.segments,
            is_known_G.tolist(),
            relative_GJ[:, 0].tolist(),
            width_G.tolist(),
            se_G.tolist(),
            matured_G,
            click_G,
            strict=True,
        )
    )


def _finding(
    segment: str, is_known: bool, effect: float, width: float, se: float, matured: int, clicks: int
) -> Finding:
    is_known = is_known and math.isfinite(width)
    return Finding(
        metric=BRIER,
        segment=segment,
        answer=Answer.MONITORED,
        gates=False,
        effect=effect if is_known else None,
        lower=max(-1.0, effect - width) if is_known else None,
        upper=effect + width if is_known else None,
        standard_error=se if is_known else None,
        impressions_stable=matured,
        impressions_candidate=matured,
        conversions_stable=float(clicks),
        conversions_candidate=float(clicks),
    )
