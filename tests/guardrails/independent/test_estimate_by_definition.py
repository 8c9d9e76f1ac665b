"""Rates, calibration, entropy and drift against loops over fractions and over raw rows."""

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import FIXED_POINT, PairMeasure
from control_plane.domain.split import Arm
from control_plane.guardrails.calibration import calibrations
from control_plane.guardrails.estimate import log_ratios
from control_plane.guardrails.paired_entropy import entropy_differences
from tests.guardrails.independent import by_definition

IntArray = NDArray[np.int64]

SCALES = [50, 5_000, 10**8, 10**12]  # impressions of a bucket


def drawn(seed: int, *, scale: int, strata: int = 4, buckets: int = 32) -> tuple[IntArray, IntArray]:
    """Numerators and denominators, (S, A, K): shares from 1 to 50 %, a stratum without a candidate, an empty bucket."""
    rng = np.random.default_rng(seed)
    share = np.array([0.01, 0.05, 0.25, 0.5])[:strata, None, None]
    promised = np.concatenate([1 - share, share], axis=1)
    denominator = rng.integers(1 + (scale * promised).astype(np.int64) // 2, 2 + (scale * promised).astype(np.int64))
    denominator = np.broadcast_to(denominator, (strata, 2, 1)) + rng.integers(0, scale, size=(strata, 2, buckets))
    numerator = np.rint(denominator * rng.beta(20, 180, size=denominator.shape)).astype(np.int64)
    numerator[0, Arm.CANDIDATE] = denominator[0, Arm.CANDIDATE] = 0
    numerator[:, :, 3] = denominator[:, :, 3] = 0
    return numerator, denominator


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_log_ratio_is_mantel_and_haenszels_in_exact_fractions(seed: int, scale: int) -> None:
    numerator, denominator = drawn(seed, scale=scale)
    tables = by_definition.as_table(numerator), by_definition.as_table(denominator)

    found = log_ratios(numerator[None], denominator[None], np.ones(1))

    assert found.theta_H[0] == pytest.approx(by_definition.mantel_haenszel(*tables), abs=1e-13)
    assert found.expected_H[0] == pytest.approx(float(by_definition.expected_numerator(*tables)), rel=1e-13)


@pytest.mark.parametrize("scale", SCALES)
def test_the_standard_error_is_the_jackknifes_in_exact_fractions(scale: int) -> None:
    numerator, denominator = drawn(3, scale=scale)
    tables = by_definition.as_table(numerator), by_definition.as_table(denominator)
    buckets = [k for k in range(32) if k != 3]

    expected = by_definition.jackknife(lambda without: by_definition.mantel_haenszel(*tables, without), buckets)

    assert log_ratios(numerator[None], denominator[None], np.ones(1)).se_H[0] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("left", [0, 1])
def test_where_all_of_an_arms_conversions_may_be_left_out_both_numerators_get_half_a_unit(left: int) -> None:
    """A dead candidate, and one all of whose conversions lie in one bucket, so that a replicate of it is dead."""
    numerator, denominator = drawn(7, scale=5_000)
    numerator[:, Arm.CANDIDATE] = 0
    numerator[1, Arm.CANDIDATE, 5] = left * 300
    tables = by_definition.as_table(numerator), by_definition.as_table(denominator)

    def log_ratio(without: int | None) -> float:
        return by_definition.mantel_haenszel(*tables, without, added=Fraction(20, 2))

    found = log_ratios(numerator[None], denominator[None], np.full(1, 20.0))

    assert found.theta_H[0] == pytest.approx(log_ratio(None), abs=1e-13)
    buckets = [k for k in range(32) if k != 3]
    assert found.se_H[0] == pytest.approx(by_definition.jackknife(log_ratio, buckets), rel=1e-11)


def test_errors_of_a_millionth_are_still_the_jackknifes() -> None:
    """Buckets that all but agree: replicates differ in their tenth digit, and five digits of the error are right."""
    numerator, denominator = np.full((1, 2, 32), 10**11), np.full((1, 2, 32), 10**12)
    numerator[0, Arm.CANDIDATE] += np.random.default_rng(4).integers(-(10**6), 10**6, size=32)
    tables = by_definition.as_table(numerator), by_definition.as_table(denominator)

    expected = by_definition.jackknife(lambda without: by_definition.mantel_haenszel(*tables, without), range(32))

    assert expected < 2e-6
    assert log_ratios(numerator[None], denominator[None], np.ones(1)).se_H[0] == pytest.approx(expected, rel=1e-7)


def test_calibration_from_raw_rows() -> None:
    """One bucket has matured impressions and no click: it counts, as leaving it out changes what was predicted."""
    rng = np.random.default_rng(5)
    bucket_N, score_N = rng.integers(0, 40, size=5_000), rng.beta(2, 30, size=5_000)
    click_N = (rng.random(5_000) < score_N * 0.9) & (bucket_N != 7)
    rows = [
        (int(k), round(p * FIXED_POINT), int(y)) for k, p, y in zip(bucket_N, score_N.tolist(), click_N, strict=True)
    ]
    sums = np.zeros((3, 1, 40), dtype=np.int64)
    for bucket, score, click in rows:
        sums[:, 0, bucket] += [1, score, click]

    def log_ratio(without: int | None) -> float:
        left = [row for row in rows if row[0] != without]
        return math.log(sum(score for _, score, _ in left) / FIXED_POINT / sum(click for _, _, click in left))

    found = calibrations(*sums)

    assert found.log_ratio_H[0] == pytest.approx(log_ratio(None), abs=1e-12)
    assert found.log_ratio_H[0] == pytest.approx(math.log(math.fsum(score_N) / click_N.sum()), abs=1e-6)
    assert found.se_H[0] == pytest.approx(by_definition.jackknife(log_ratio, range(40)), rel=1e-10)


def test_normalised_entropy_from_raw_rows() -> None:
    rng = np.random.default_rng(6)
    truth_N = rng.beta(2, 30, size=5_000)
    bucket_N, click_N = rng.integers(0, 40, size=5_000), (rng.random(5_000) < truth_N).astype(np.int64)
    score_AN = np.stack([truth_N, np.clip(truth_N * np.exp(rng.normal(size=5_000) * 0.4), 1e-4, 0.99)])
    loss_AN = -np.log(np.where(click_N == 1, score_AN, 1 - score_AN))
    pairs_GKP = np.zeros((1, 40, len(PairMeasure)), dtype=np.int64)
    for measure, column_N in {
        PairMeasure.PAIRS: np.ones(5_000),
        PairMeasure.MATURED: np.ones(5_000),
        PairMeasure.CLICK: click_N,
        PairMeasure.SCORE_STABLE: score_AN[0] * FIXED_POINT,
        PairMeasure.SCORE_CANDIDATE: score_AN[1] * FIXED_POINT,
        PairMeasure.LOG_LOSS_STABLE: loss_AN[0] * FIXED_POINT,
        PairMeasure.LOG_LOSS_CANDIDATE: loss_AN[1] * FIXED_POINT,
    }.items():
        np.add.at(pairs_GKP[0, :, measure], bucket_N, np.rint(column_N).astype(np.int64))

    def difference(without: int | None) -> float:
        is_left = bucket_N != (-1 if without is None else without)
        stable, candidate = (
            by_definition.normalised_entropy(
                [round(loss * FIXED_POINT) / FIXED_POINT for loss in loss_N[is_left].tolist()],
                click_N[is_left].tolist(),
            )
            for loss_N in loss_AN
        )
        return candidate - stable

    found = entropy_differences(pairs_GKP)

    assert found.difference_G[0] == pytest.approx(difference(None), abs=1e-12)
    assert found.se_G[0] == pytest.approx(by_definition.jackknife(difference, range(40)), rel=1e-9)
