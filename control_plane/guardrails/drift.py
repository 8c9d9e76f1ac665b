"""How far the candidate's scores moved from stable's on the same requests. Drift may hold a rollout, never end it."""

import numpy as np

from control_plane.domain.split import Arm
from control_plane.guardrails.estimate import FloatArray, IntArray, jackknife_se, leave_one_out
from control_plane.guardrails.evalue import half_width

NUM_GROUPS = 10  # by stable's quantiles, as is usual for PSI


def population_stability(score_bins_AKB: IntArray, *, alpha: float, min_buckets: int) -> tuple[float, float] | None:
    """PSI of candidate against stable and the lower end of its always-valid interval; None on too few users.

    Jackknifed for bias, too: under clustering by user PSI's mean without any drift is far above the i.i.d. theory's.
    """
    has_data_K = (score_bins_AKB.sum(axis=2) > 0).all(axis=0)
    buckets = int(has_data_K.sum())
    if buckets < min_buckets:
        return None
    count_ABJ = leave_one_out(np.moveaxis(_grouped(score_bins_AKB), 1, 2)) + 0.5
    share_ABJ = count_ABJ / count_ABJ.sum(axis=1, keepdims=True)
    stable_BJ, candidate_BJ = share_ABJ[Arm.STABLE], share_ABJ[Arm.CANDIDATE]
    psi_J = ((candidate_BJ - stable_BJ) * (np.log(candidate_BJ) - np.log(stable_BJ))).sum(axis=0)
    se_H = jackknife_se(psi_J[None], has_data_K[None])
    bias = (buckets - 1) * float(np.mean(psi_J[1:][has_data_K]) - psi_J[0])
    psi = max(0.0, float(psi_J[0]) - bias)
    width: FloatArray = half_width(se_H, np.array([buckets - 1.0]), alpha=alpha)
    return psi, psi - float(width[0])


def _grouped(score_bins_AKB: IntArray) -> IntArray:
    """Neighbouring bins merged into tenths of stable's scores; a tenth that one bin overfills stays one group."""
    stable_B = score_bins_AKB[Arm.STABLE].sum(axis=0)
    below_B = np.cumsum(stable_B) - stable_B
    group_B = np.minimum(below_B * NUM_GROUPS // max(1, int(stable_B.sum())), NUM_GROUPS - 1)
    starts = np.flatnonzero(np.diff(group_B, prepend=-1))
    return np.add.reduceat(score_bins_AKB, starts, axis=2)
