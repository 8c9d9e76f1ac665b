"""Whether two versions put the same impressions in the same order, from the joint table of their scores' bins.

Letters of the shapes: C coarse user buckets, B score bins from the first to the last that holds anything (stable's,
then the candidate's), J = C + 1 leave-one-out replicates.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.guardrails.estimate import FloatArray, divide, jackknife_se


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAgreement:
    """Kendall's τ-b: 1 is one order, 0 is none in common, −1 the reverse. NaN where a version scores all alike."""

    tau_b: float
    se: float
    buckets: int  # coarse ones with data


def rank_agreement(score_pairs_CBB: NDArray[np.signedinteger]) -> RankAgreement:
    """τ-b of the bins, within which impressions are ties, and its jackknife standard error over coarse buckets.

    Concordant less discordant pairs of a table N are the quadratic form ½⟨N, A·N·Aᵀ⟩ with A = sign(i − i′), so
    leaving a bucket out takes no counting anew.

    Source:
        Kendall 1945 (τ-b); Shao & Tu, The Jackknife and Bootstrap, 1995, section 1.2.
    """
    whole_BB = score_pairs_CBB.sum(axis=0)
    rows, columns = np.flatnonzero(whole_BB.sum(axis=1)), np.flatnonzero(whole_BB.sum(axis=0))
    if not rows.size:
        return RankAgreement(tau_b=math.nan, se=math.inf, buckets=0)
    occupied = score_pairs_CBB[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    table_BCB = occupied.swapaxes(0, 1).astype(np.float64, order="C")
    total_BB = table_BCB.sum(axis=1)
    order_BB = _signs(total_BB.shape[0]) @ total_BB @ _signs(total_BB.shape[1]).T
    without_C = _surplus(table_BCB) - np.einsum("icj,ij->c", table_BCB, order_BB)
    surplus_J = (total_BB * order_BB).sum() / 2 + np.concatenate([[0.0], without_C])
    stable_BC, candidate_BC = table_BCB.sum(axis=2), table_BCB.sum(axis=0).T
    untied_J = _untied(stable_BC) * _untied(candidate_BC)
    has_data_C = np.asarray(stable_BC.sum(axis=0) > 0)
    tau_J = divide(surplus_J, np.sqrt(untied_J))
    return RankAgreement(
        tau_b=float(tau_J[0]) if (untied_J > 0).all() else math.nan,
        se=float(jackknife_se(tau_J[None], has_data_C[None])[0]),
        buckets=int(has_data_C.sum()),
    )


def _signs(size: int) -> FloatArray:
    index = np.arange(size)
    return np.asarray(np.sign(index[:, None] - index), dtype=np.float64)


def _surplus(table_BCB: FloatArray) -> FloatArray:
    """Concordant less discordant pairs within each bucket's table."""
    rows, _, columns = table_BCB.shape
    across = (table_BCB.reshape(-1, columns) @ _signs(columns).T).reshape(rows, -1)
    order_BCB = (_signs(rows) @ across).reshape(table_BCB.shape)
    return np.asarray(np.einsum("icj,icj->c", table_BCB, order_BCB) / 2)


def _untied(count_BC: FloatArray) -> FloatArray:
    """Pairs of impressions that one version scores differently, in every replicate."""
    whole_B = count_BC.sum(axis=1, keepdims=True)
    count_BJ = np.concatenate([whole_B, whole_B - count_BC], axis=1)
    return np.asarray((np.square(count_BJ.sum(axis=0)) - np.square(count_BJ).sum(axis=0)) / 2)
