import numpy as np
import pytest

from model_runtime.feature_watch import FALSE_ALARM, WINDOW, FeatureWatch


def watched(expected: float, null: float, calls: int) -> FeatureWatch:
    watch = FeatureWatch(np.array([expected]))
    for _ in range(calls):
        watch.see(np.array([null]))
    return watch


def test_a_feature_that_no_longer_comes_is_lost_within_some_dozen_calls() -> None:
    assert watched(0.0, 1.0, 5).num_lost() == 0
    assert watched(0.0, 1.0, 20).num_lost() == 1


@pytest.mark.parametrize(("expected", "null"), [(0.0, 0.0), (0.3, 0.5), (0.9, 0.94), (1.0, 1.0)])
def test_a_feature_of_which_half_still_comes_is_not_lost(expected: float, null: float) -> None:
    assert watched(expected, null, 5_000).num_lost() == 0


@pytest.mark.parametrize(("expected", "null"), [(0.3, 0.75), (0.9, 0.99), (0.0, 0.6)])
def test_a_feature_of_which_less_than_half_comes_is_lost_in_time(expected: float, null: float) -> None:
    assert watched(expected, null, WINDOW - 1).num_lost() == 1


def test_what_was_seen_long_ago_does_not_hide_a_loss_of_today() -> None:
    watch = watched(0.0, 0.0, 100 * WINDOW)

    for _ in range(2 * WINDOW):
        watch.see(np.array([1.0]))

    assert watch.num_lost() == 1


def test_each_feature_is_watched_for_itself() -> None:
    watch = FeatureWatch(np.array([0.0, 0.2, 0.5]))

    for _ in range(100):
        watch.see(np.array([0.0, 1.0, 0.5]))

    assert watch.num_lost() == 1


@pytest.mark.slow
def test_at_half_of_trainings_coverage_chance_alone_hardly_ever_loses_a_feature() -> None:
    rng, runs, lost = np.random.default_rng(5), 2_000, 0
    for _ in range(runs):
        watch = FeatureWatch(np.array([0.2]))
        is_lost = False
        for is_null in rng.random(WINDOW - 1) < 0.6:
            watch.see(np.array([float(is_null)]))
            is_lost = is_lost or watch.num_lost() > 0
        lost += is_lost

    assert lost / runs <= 3 * FALSE_ALARM
