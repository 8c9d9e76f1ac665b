import math

import numpy as np
import pytest
from scipy import stats

from control_plane.domain.moments import Stratum
from control_plane.guardrails.sample_ratio import cross_exposure, log_e_sample_ratio


def a_stratum(candidate_bp: int, *, day: int = 1) -> Stratum:
    return Stratum(day=day, generation=day, candidate_bp=candidate_bp)


@pytest.mark.parametrize(
    ("share_bp", "concentration", "stable", "candidate"),
    [(5_000, 1_000, 530, 470), (2_500, 1_000, 700, 300), (100, 10_000, 9_850, 150)],
)
def test_one_stratum_is_beta_binomial_over_binomial(
    share_bp: int, concentration: int, stable: int, candidate: int
) -> None:
    share, total = share_bp / 10_000, stable + candidate
    alternative = stats.betabinom.logpmf(candidate, total, concentration * share, concentration * (1 - share))

    found = log_e_sample_ratio([a_stratum(share_bp)], np.array([[stable, candidate]]))

    assert found == pytest.approx(alternative - stats.binom.logpmf(candidate, total, share), rel=1e-6)


def test_strata_multiply() -> None:
    strata, users = [a_stratum(100), a_stratum(5_000, day=2)], np.array([[9_800, 200], [500, 600]])

    together = log_e_sample_ratio(strata, users)

    assert together == pytest.approx(sum(log_e_sample_ratio([stratum], users[[i]]) for i, stratum in enumerate(strata)))


@pytest.mark.parametrize("share_bp", [0, 10_000])
def test_strata_that_are_not_split_say_nothing(share_bp: int) -> None:
    assert log_e_sample_ratio([a_stratum(share_bp)], np.array([[10_000, 10_000]])) == 0.0


def test_no_strata_say_nothing() -> None:
    assert log_e_sample_ratio([], np.zeros((0, 2), dtype=np.int64)) == 0.0


def test_a_promised_split_is_believed() -> None:
    assert log_e_sample_ratio([a_stratum(5_000)], np.array([[500_000, 500_000]])) < 0


def test_a_split_off_by_one_in_fifty_is_found_within_fifty_thousand_users() -> None:
    rng = np.random.default_rng(1)
    found = [
        log_e_sample_ratio([a_stratum(5_000)], np.array([[50_000 - n, n]])) for n in rng.binomial(50_000, 0.49, 101)
    ]

    assert np.median(found) >= math.log(1_000)


@pytest.mark.slow
def test_a_sound_split_rarely_alarms_however_often_it_is_read() -> None:
    rng, runs, looks = np.random.default_rng(2), 1_500, 200
    candidate = rng.binomial(500, 0.5, size=(runs, looks)).cumsum(axis=1)
    total = 500 * np.arange(1, looks + 1)
    strata = [a_stratum(5_000)]

    alarms = sum(
        max(log_e_sample_ratio(strata, np.array([[n - c, c]])) for n, c in zip(total, row, strict=True))
        >= math.log(1_000)
        for row in candidate[:, ::1]
    )

    print(f"sample-ratio alarms: {alarms} of {runs} runs × {looks} looks")
    assert stats.beta.ppf(0.95, alarms + 1, runs - alarms) <= 0.005


def test_cross_exposure_is_a_share_of_the_smaller_arm() -> None:
    assert cross_exposure((10_000, 200), 10) == pytest.approx(0.05)
    assert cross_exposure((10_000, 0), 0) == 0.0
