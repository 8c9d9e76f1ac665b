import numpy as np

from model_runtime.tally import MAX_DISTINCT, Tally, is_bad
from tests.builders import STABLE


def test_requests_scores_and_slow_forwards_add_up() -> None:
    tally = Tally()

    tally.asked(STABLE, users=3)
    tally.scored(STABLE, np.array([0.1, 0.2, 0.3], np.float32))
    tally.scored(STABLE, np.array([0.4], np.float32), slow_users=1)
    tally.failed(STABLE, users=2)

    counts = tally.counts()[STABLE]
    assert (counts.requests, counts.scores, counts.timeouts, counts.errors) == (3, 4, 1, 2)


def test_what_is_no_probability_is_a_bad_score() -> None:
    score_N = np.array([0, 1, 0.5, np.nan, np.inf, -np.inf, -1e-6, 1.0001], np.float32)

    assert is_bad(score_N).tolist() == [False] * 3 + [True] * 5


def test_a_constant_model_has_one_distinct_score_up_to_rounding() -> None:
    tally = Tally()

    tally.scored(STABLE, np.float32(0.25) + np.array([0, 6e-8, -6e-8], np.float32))

    assert tally.counts()[STABLE].distinct_scores == 1


def test_distinct_scores_are_counted_up_to_a_bound() -> None:
    tally = Tally()

    tally.scored(STABLE, np.linspace(0, 1, 5_000, dtype=np.float32))

    assert tally.counts()[STABLE].distinct_scores == MAX_DISTINCT
