import numpy as np
import pytest

from control_plane.domain.latency import LATENCY_BOUNDS_MS
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from model_runtime.tally import (
    FIRST_CALLS,
    MAX_DISTINCT,
    THEN_ONE_IN,
    Call,
    Served,
    Tally,
    is_bad,
    normalised_entropy,
)
from tests.builders import STABLE


def counts(tally: Tally) -> ServingCounts:
    return tally.counts()[STABLE]


def served(seconds: float, *, is_split: bool = False) -> Served:
    return Served(seconds=seconds, rows=6, users_encoded=3, is_split=is_split)


def test_calls_and_what_went_wrong_in_them_add_up() -> None:
    tally = Tally()

    tally.asked(STABLE, users=3)
    tally.called(STABLE, Call(users=3, scores=6, bad_scores=3, failed_users=2))
    tally.asked(STABLE, users=4)
    tally.called(STABLE, Call(users=4, scores=4, slow_users=4))

    found = counts(tally)
    assert (found.requests, found.calls, found.scores) == (7, 2, 10)
    assert (found.errors, found.timeouts, found.bad_scores) == (2, 4, 3)


def test_a_call_is_one_observation_however_many_users_it_brings() -> None:
    tally = Tally()

    tally.called(STABLE, Call(users=1_000, failed_users=1_000))
    tally.called(STABLE, Call(users=1, scores=4, bad_scores=1))

    assert (counts(tally).error_shares, counts(tally).bad_score_shares) == (FIXED_POINT, FIXED_POINT // 4)


def test_a_user_slow_in_two_forwards_is_no_more_than_one_user_slow() -> None:
    tally = Tally()

    tally.called(STABLE, Call(users=2, slow_users=3))

    assert (counts(tally).timeouts, counts(tally).timeout_shares) == (3, FIXED_POINT)


def test_latencies_fall_into_bins_that_hold_their_upper_bound() -> None:
    tally = Tally()

    for milliseconds in (0.05, 0.1, 0.11, 40.0, 40.1, 60_000.0):
        tally.called(STABLE, Call(users=1), served(milliseconds / 1e3))

    bins = counts(tally).latency_bins
    of_40_ms = LATENCY_BOUNDS_MS.index(40.0)
    assert [index for index, count in enumerate(bins) for _ in range(count)] == [
        0,
        0,
        1,
        of_40_ms,
        of_40_ms + 1,
        len(LATENCY_BOUNDS_MS),
    ]
    assert counts(tally).latency_us == 60_080_360


def test_a_call_of_the_shadow_tells_nothing_of_latency_or_batches() -> None:
    tally = Tally()

    tally.called(STABLE, Call(users=3), served(0.01, is_split=True))
    tally.called(STABLE, Call(users=3))

    found = counts(tally)
    assert (found.calls, found.batches, found.split_batches, sum(found.latency_bins)) == (2, 1, 1, 1)
    assert (found.rows, found.users_encoded) == (6, 3)


def test_the_first_calls_are_looked_at_and_then_a_sample() -> None:
    tally = Tally()

    is_looked_at = [tally.asked(STABLE, users=1) for _ in range(FIRST_CALLS + 10 * THEN_ONE_IN)]

    assert all(is_looked_at[:FIRST_CALLS])
    assert sum(is_looked_at[FIRST_CALLS:]) == 10


def test_entropy_of_gates_is_one_of_equal_experts_and_zero_of_a_single_choice() -> None:
    equal, single = np.full((5, 3, 4), 0.25, np.float32), np.zeros((5, 3, 4), np.float32)
    single[..., 2] = 1.0

    assert normalised_entropy(equal) == pytest.approx(1.0)
    assert normalised_entropy(single) == 0.0
    assert normalised_entropy(np.concatenate([equal, single])) == pytest.approx(0.5)


@pytest.mark.parametrize("gate_NTK", [np.ones((5, 3, 1)), np.zeros((0, 3, 4)), np.full((5, 3, 4), np.nan)])
def test_gates_without_a_choice_have_no_entropy(gate_NTK: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    tally = Tally()
    tally.asked(STABLE, users=1)

    tally.saw_gates(STABLE, gate_NTK.astype(np.float32))

    assert (counts(tally).gate_samples, counts(tally).gate_entropy) == (0, 0)


def test_nulls_are_counted_beside_those_of_training() -> None:
    tally = Tally()

    for _ in range(2):
        tally.saw_features(STABLE, np.array([1.0, 0.0, 0.5, 0.5]), np.array([0.0, 0.0, 0.5, 0.3]))

    found = counts(tally)
    assert (found.feature_samples, found.features, found.features_lost) == (2, 4, 0)
    assert (found.feature_nulls, found.feature_nulls_expected) == (FIXED_POINT, 4 * FIXED_POINT // 10)


def test_what_is_no_probability_is_a_bad_score() -> None:
    score_N = np.array([0, 1, 0.5, np.nan, np.inf, -np.inf, -1e-6, 1.0001], np.float32)

    assert is_bad(score_N).tolist() == [False] * 3 + [True] * 5
    assert Tally().scored(STABLE, score_N) == 5


def test_a_constant_model_has_one_distinct_score_up_to_rounding() -> None:
    tally = Tally()

    tally.scored(STABLE, np.float32(0.25) + np.array([0, 6e-8, -6e-8], np.float32))

    assert counts(tally).distinct_scores == 1


def test_distinct_scores_are_counted_up_to_a_bound() -> None:
    tally = Tally()

    tally.scored(STABLE, np.linspace(0, 1, 5_000, dtype=np.float32))

    assert counts(tally).distinct_scores == MAX_DISTINCT
