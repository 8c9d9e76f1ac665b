import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import NUM_SCORE_BINS
from control_plane.domain.split import Arm
from control_plane.guardrails.drift import population_stability
from tests.guardrails.builders import shadow_moments

IntArray = NDArray[np.int64]


def psi_of(score_bins_AKB: IntArray) -> tuple[float, float]:
    found = population_stability(score_bins_AKB, alpha=0.05, min_buckets=30)
    assert found is not None
    return found


def test_equal_scores_have_not_drifted() -> None:
    psi, lower = psi_of(shadow_moments(np.random.default_rng(1)).score_bins_GAKB[0])

    assert psi == pytest.approx(0.0, abs=1e-6)
    assert lower <= 0.0


def test_scores_twice_as_high_have_drifted_for_sure() -> None:
    psi, lower = psi_of(shadow_moments(np.random.default_rng(2), prediction=2.0).score_bins_GAKB[0])

    assert 0.25 < lower < psi


def test_few_users_who_differ_are_not_taken_for_drift() -> None:
    """Each user brings one score of their own many times over: naive PSI is large, and all of it is noise."""
    rng = np.random.default_rng(3)
    bins = np.zeros((2, 40, NUM_SCORE_BINS), dtype=np.int64)
    for arm in Arm:
        bins[arm, np.arange(40), rng.integers(10, 20, size=40)] = 1_000
    share_AB = (bins.sum(axis=1) + 0.5) / (bins.sum(axis=1) + 0.5).sum(axis=1, keepdims=True)
    naive = ((share_AB[1] - share_AB[0]) * np.log(share_AB[1] / share_AB[0])).sum()

    _, lower = psi_of(bins)

    assert naive > 0.25
    assert lower < 0.25


def test_too_few_users_give_no_answer() -> None:
    bins = np.zeros((2, 256, NUM_SCORE_BINS), dtype=np.int64)
    bins[:, :20] = 5

    assert population_stability(bins, alpha=0.05, min_buckets=30) is None
