import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from control_plane.domain.moments import Draw
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.sample_ratio import cross_exposure, log_e_sample_ratio
from tests.guardrails.builders import a_draw

RAMP_BP = (100, 500, 2_500, 5_000)


@pytest.mark.parametrize(
    ("weight_bp", "concentration", "stable", "candidate"),
    [(5_000, 1_000, 530, 470), (2_500, 1_000, 700, 300), (100, 10_000, 9_850, 150)],
)
def test_one_draw_is_beta_binomial_over_binomial(
    weight_bp: int, concentration: int, stable: int, candidate: int
) -> None:
    share, total = weight_bp / 10_000, stable + candidate
    alternative = stats.betabinom.logpmf(candidate, total, concentration * share, concentration * (1 - share))

    found = log_e_sample_ratio([a_draw(weight_bp, stable, candidate)])

    assert found == pytest.approx(alternative - stats.binom.logpmf(candidate, total, share), rel=1e-6)


@pytest.mark.parametrize(("above_bp", "weight_bp", "alone_bp"), [(2_000, 6_000, 5_000), (5_000, 5_050, 100)])
def test_who_was_seen_on_stable_is_drawn_from_what_stable_had_left(
    above_bp: int, weight_bp: int, alone_bp: int
) -> None:
    seen, never_seen = a_draw(weight_bp, 700, 300, above_bp=above_bp), a_draw(alone_bp, 700, 300)

    assert log_e_sample_ratio([seen]) == pytest.approx(log_e_sample_ratio([never_seen]), rel=1e-12)


def test_draws_multiply() -> None:
    draws = [a_draw(100, 9_800, 200), a_draw(5_000, 500, 600, generation=2, above_bp=100)]

    assert log_e_sample_ratio(draws) == pytest.approx(sum(log_e_sample_ratio([draw]) for draw in draws))


def test_no_draws_say_nothing() -> None:
    assert log_e_sample_ratio([]) == 0.0


def test_a_promised_split_is_believed() -> None:
    assert log_e_sample_ratio([a_draw(5_000, 500_000, 500_000)]) < 0


def test_a_split_off_by_one_in_fifty_is_found_within_fifty_thousand_users() -> None:
    rng = np.random.default_rng(1)
    found = [log_e_sample_ratio([a_draw(5_000, 50_000 - n, n)]) for n in rng.binomial(50_000, 0.49, 101).tolist()]

    assert np.median(found) >= math.log(1_000)


@pytest.mark.slow
def test_a_sound_split_rarely_alarms_however_often_it_is_read() -> None:
    rng, runs, looks = np.random.default_rng(2), 1_500, 200
    candidate = rng.binomial(500, 0.5, size=(runs, looks)).cumsum(axis=1)
    total = 500 * np.arange(1, looks + 1)

    alarms = sum(
        max(log_e_sample_ratio([a_draw(5_000, n - c, c)]) for n, c in zip(total.tolist(), row, strict=True))
        >= math.log(1_000)
        for row in candidate.tolist()
    )

    print(f"sample-ratio alarms: {alarms} of {runs} runs × {looks} looks")
    assert stats.beta.ppf(0.95, alarms + 1, runs - alarms) <= 0.005


def a_ramp(rng: np.random.Generator, *, users: int, looks: int, is_lost: float = 0.0) -> list[tuple[Draw, ...]]:
    """What each look at a ramp sees, a quarter of the looks at each weight: users come back at paces of their own.

    The candidate's users come back half as often as stable's, and `is_lost` of them are never seen there.
    """
    slot_U = rng.integers(FULL_TRAFFIC_BP, size=users)
    pace_U = rng.gamma(1.0, 2.0 / looks, size=users)
    is_lost_U = rng.random(users) < is_lost
    above_U, is_open_U = np.zeros(users, dtype=np.int64), np.ones(users, dtype=np.bool_)
    counts: dict[tuple[int, int], NDArray[np.int64]] = {}
    seen = []
    for look in range(looks):
        generation = 1 + look * len(RAMP_BP) // looks
        weight = RAMP_BP[generation - 1]
        is_candidate_U = slot_U < weight
        comes_U = rng.random(users) < -np.expm1(-pace_U * np.where(is_open_U, 1.0, 0.5))
        tells_U = comes_U & is_open_U & (above_U < weight) & ~(is_candidate_U & is_lost_U)
        for above in np.unique(above_U[tells_U]).tolist():
            landed = np.bincount(is_candidate_U[tells_U & (above_U == above)], minlength=len(Arm))
            counts[generation, above] = counts.get((generation, above), np.zeros(len(Arm), np.int64)) + landed
        above_U[tells_U & ~is_candidate_U] = weight
        is_open_U[tells_U & is_candidate_U] = False
        seen.append(
            tuple(
                a_draw(RAMP_BP[place - 1], *landed.tolist(), generation=place, above_bp=above)
                for (place, above), landed in sorted(counts.items())
            )
        )
    return seen


@pytest.mark.slow
def test_a_sound_ramp_of_users_who_come_back_alarms_no_more_often_than_promised() -> None:
    rng, runs, looks = np.random.default_rng(3), 1_000, 60

    highest = [max(log_e_sample_ratio(draws) for draws in a_ramp(rng, users=3_000, looks=looks)) for _ in range(runs)]

    for threshold in (20, 100):
        alarms = sum(log_e >= math.log(threshold) for log_e in highest)
        print(f"sample-ratio alarms at E ≥ {threshold}: {alarms} of {runs} ramps × {looks} looks")
        assert stats.beta.ppf(0.95, alarms + 1, runs - alarms) <= 1 / threshold


def test_a_tenth_of_the_candidates_users_lost_is_seen_while_it_has_a_quarter_of_the_traffic() -> None:
    looks, runs = 40, 20
    half_way = looks // 2

    alarms = [
        first_alarm(a_ramp(np.random.default_rng(seed), users=50_000, looks=looks, is_lost=0.1)) for seed in range(runs)
    ]

    print(f"looks until the alarm, of which {half_way} at 1 and 5 %: {alarms}")
    assert all(alarm is not None for alarm in alarms)
    assert sum(alarm is not None and alarm < looks * 3 // 4 for alarm in alarms) >= 0.9 * runs


def first_alarm(seen: Sequence[tuple[Draw, ...]]) -> int | None:
    return next((look for look, draws in enumerate(seen) if log_e_sample_ratio(draws) >= math.log(1_000)), None)


def test_cross_exposure_is_a_share_of_the_smaller_arm() -> None:
    assert cross_exposure((10_000, 200), 10) == pytest.approx(0.05)
    assert cross_exposure((10_000, 0), 0) == 0.0
