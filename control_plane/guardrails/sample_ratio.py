"""Did the split send users where it promised to? If not, the arms are not comparable and no effect means anything."""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaln

from control_plane.domain.moments import Stratum
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import IntArray

CONCENTRATION = 1_000.0  # the alternative's prior: shares off by a few per cent of themselves
SMALL_SHARE_BP = 100  # at or below it deviations are smaller in absolute terms,
SMALL_SHARE_CONCENTRATION = 10_000.0  # so the prior stays closer to what was promised


def log_e_sample_ratio(strata: Sequence[Stratum], first_exposures_SA: IntArray) -> float:
    """Log e-value against "each new user landed in the candidate with the stratum's promised share".

    A product over strata of beta-binomial over binomial likelihoods: a test martingale in the order in which
    users first appear, so it may be read at any time.

    Source:
        Lindon & Malek 2022, section 3 (the sequential multinomial test with a Dirichlet prior).
    """
    if not strata:
        return 0.0
    share_bp_S = np.array([stratum.candidate_bp for stratum in strata])
    is_split_S = (share_bp_S > 0) & (share_bp_S < FULL_TRAFFIC_BP)
    share_bp_S, users_SA = share_bp_S[is_split_S], first_exposures_SA[is_split_S].astype(np.float64)
    is_small_S = np.minimum(share_bp_S, FULL_TRAFFIC_BP - share_bp_S) <= SMALL_SHARE_BP
    concentration_S = np.where(is_small_S, SMALL_SHARE_CONCENTRATION, CONCENTRATION)
    share_S = share_bp_S / FULL_TRAFFIC_BP
    candidate_S, stable_S = users_SA[:, Arm.CANDIDATE], users_SA[:, Arm.STABLE]
    prior_candidate_S, prior_stable_S = concentration_S * share_S, concentration_S * (1 - share_S)
    log_e_S = (
        betaln(prior_candidate_S + candidate_S, prior_stable_S + stable_S)
        - betaln(prior_candidate_S, prior_stable_S)
        - candidate_S * np.log(share_S)
        - stable_S * np.log1p(-share_S)
    )
    return float(log_e_S.sum())


def cross_exposure(users_A: tuple[int, int], cross_exposed_users: int) -> float:
    """Share of the smaller arm's users who met both arms within one generation; the split never does that."""
    smaller = min(users_A)
    return cross_exposed_users / smaller if smaller else 0.0
