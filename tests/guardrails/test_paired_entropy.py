import math

import numpy as np
import pytest

from control_plane.domain.moments import FIXED_POINT, PairMeasure
from control_plane.guardrails.paired_entropy import entropy_differences
from tests.guardrails.builders import empty_moments, shadow_moments


def test_the_difference_is_that_of_log_losses_over_the_entropy_of_the_click_rate() -> None:
    pairs_GKP = shadow_moments(np.random.default_rng(1), noise=0.3).pairs_GKP
    pairs_P = pairs_GKP[0].sum(axis=0)
    rate = pairs_P[PairMeasure.CLICK] / pairs_P[PairMeasure.MATURED]
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    losses = (pairs_P[PairMeasure.LOG_LOSS_CANDIDATE] - pairs_P[PairMeasure.LOG_LOSS_STABLE]) / FIXED_POINT

    found = entropy_differences(pairs_GKP)

    assert found.difference_G[0] == pytest.approx(losses / pairs_P[PairMeasure.MATURED] / entropy, rel=1e-9)


def test_its_error_is_that_of_leaving_out_each_bucket_in_turn() -> None:
    pairs_GKP = shadow_moments(np.random.default_rng(2), noise=0.3).pairs_GKP[:1]
    without = np.array(
        [entropy_differences(np.delete(pairs_GKP, k, axis=1)).difference_G[0] for k in range(pairs_GKP.shape[1])]
    )
    buckets = len(without)

    expected = math.sqrt((buckets - 1) / buckets * np.square(without - without.mean()).sum())

    assert entropy_differences(pairs_GKP).se_G[0] == pytest.approx(expected, rel=1e-6)


def test_a_wrong_scale_is_explained_by_calibration_and_lost_information_is_not() -> None:
    rng = np.random.default_rng(3)
    scaled = entropy_differences(shadow_moments(rng, pairs=200_000, ctr=0.2, prediction=1.4).pairs_GKP)
    blurred = entropy_differences(shadow_moments(rng, pairs=200_000, ctr=0.2, noise=0.5).pairs_GKP)

    assert scaled.difference_G[0] > 0.01
    assert abs(scaled.unexplained_G[0]) < scaled.difference_G[0] / 4
    assert blurred.unexplained_G[0] > 0.8 * blurred.difference_G[0] > 0.01


def test_labels_that_are_all_alike_or_missing_are_not_a_number() -> None:
    moments = shadow_moments(np.random.default_rng(4))
    without_clicks = moments.pairs_GKP.copy()
    without_clicks[..., PairMeasure.CLICK] = 0

    assert np.isnan(entropy_differences(without_clicks).difference_G).all()
    assert np.isnan(entropy_differences(empty_moments().pairs_GKP).difference_G).all()
