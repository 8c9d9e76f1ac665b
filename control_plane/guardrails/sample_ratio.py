"""Did the split send users where it promised to? If not, the arms are not comparable and no effect means anything."""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaln

from control_plane.domain.moments import Draw
from control_plane.domain.split import FULL_TRAFFIC_BP

CONCENTRATION = 1_000.0  # the alternative's prior: shares off by a few per cent of themselves
SMALL_SHARE_BP = 100  # at or below it deviations are smaller in absolute terms,
SMALL_SHARE_CONCENTRATION = 10_000.0  # so the prior stays closer to what was promised


def log_e_sample_ratio(draws: Sequence[Draw]) -> float:
    """Log e-value against "whoever is first seen under a larger weight landed where their slot sends them".

    A user's slot is uniform. Who was never seen under a split is in the candidate with the weight's chance b; who was
    so far seen on stable, at weights up to a, with the chance (b − a) / (1 − a). Given all that was seen before, each
    is one fresh draw, so the product over draws of beta-binomial over binomial likelihoods is a test martingale in
    the order in which users appear, and may be read at any time.

    Assumes that whether and when a user of stable comes back does not depend on the slot. What the candidate does to
    its own users cannot break that, since nobody is drawn again once seen there; a candidate whose users are not
    logged breaks it, which is what is to be found. A runtime that serves an older generation for some seconds more
    may let a few users appear out of order: each look by itself stays valid.

    Source:
        Lindon & Malek 2022, section 3 (the sequential multinomial test with a Dirichlet prior).
    """
    above_D, weight_D, stable_D, candidate_D = (
        np.array([(draw.above_bp, draw.candidate_bp, draw.stable, draw.candidate) for draw in draws], dtype=np.float64)
        .reshape(-1, 4)
        .T
    )
    share_D = (weight_D - above_D) / (FULL_TRAFFIC_BP - above_D)
    smaller_bp_D = np.minimum(weight_D - above_D, FULL_TRAFFIC_BP - weight_D) * FULL_TRAFFIC_BP
    is_small_D = smaller_bp_D <= SMALL_SHARE_BP * (FULL_TRAFFIC_BP - above_D)
    concentration_D = np.where(is_small_D, SMALL_SHARE_CONCENTRATION, CONCENTRATION)
    prior_candidate_D, prior_stable_D = concentration_D * share_D, concentration_D * (1 - share_D)
    log_e_D = (
        betaln(prior_candidate_D + candidate_D, prior_stable_D + stable_D)
        - betaln(prior_candidate_D, prior_stable_D)
        - candidate_D * np.log(share_D)
        - stable_D * np.log1p(-share_D)
    )
    return float(log_e_D.sum())


def cross_exposure(users_A: tuple[int, int], cross_exposed_users: int) -> float:
    """Share of the smaller arm's users who met both arms within one generation; the split never does that."""
    smaller = min(users_A)
    return cross_exposed_users / smaller if smaller else 0.0
