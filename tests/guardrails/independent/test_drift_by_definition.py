"""Distances of score distributions from raw rows, one score at a time, and beside NannyML's and scipy's."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import NUM_SCORE_BINS, SCORE_BIN_LOGIT_WIDTH
from control_plane.guardrails.rank_agreement import rank_agreement
from control_plane.guardrails.score_distances import ScoreDistances, score_distances
from tests.guardrails.independent import by_definition
from tests.guardrails.independent.stored import Case, cases

IntArray = NDArray[np.int64]
Pair = tuple[int, int, int]  # bucket, stable's bin, candidate's bin

NUM_BUCKETS = 40
SEEDS_AND_SHIFTS = [(1, 0.0), (2, 1.0), (3, -3.0)]


def raw_pairs(seed: int, shift: float, *, pairs: int = 3_000, buckets: int = NUM_BUCKETS) -> list[Pair]:
    """Users differ in their scores, and each is scored many times."""
    rng = np.random.default_rng(seed)
    taste_K = rng.normal(14, 2, size=buckets)
    found = []
    for _ in range(pairs):
        bucket = int(rng.integers(buckets))
        stable = taste_K[bucket] + rng.normal()
        candidate = stable + shift + 0.3 * rng.normal()
        found.append((bucket, in_bins(stable), in_bins(candidate)))
    return found


def in_bins(score: float) -> int:
    return min(max(int(score), 0), NUM_SCORE_BINS - 1)


def binned(pairs: Sequence[Pair]) -> IntArray:
    score_bins_AKB = np.zeros((2, NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int64)
    for bucket, stable, candidate in pairs:
        score_bins_AKB[0, bucket, stable] += 1
        score_bins_AKB[1, bucket, candidate] += 1
    return score_bins_AKB


def counted(pairs: Sequence[Pair], column: int, keep: Callable[[int], bool]) -> list[int]:
    counts = [0] * NUM_SCORE_BINS
    for pair in pairs:
        if keep(pair[0]):
            counts[pair[column]] += 1
    return counts


@pytest.mark.parametrize(("seed", "shift"), SEEDS_AND_SHIFTS)
def test_what_vanishes_quadratically_is_freed_of_the_jackknifes_bias_which_joins_its_error(
    seed: int, shift: float
) -> None:
    pairs = raw_pairs(seed, shift)
    group_B = by_definition.tenths(counted(pairs, 1, lambda _: True))

    def psi(without: int | None) -> float:
        return by_definition.stability(*both(pairs, lambda bucket: bucket != without), group_B)

    def js(without: int | None) -> float:
        return by_definition.jensen_shannon(*both(pairs, lambda bucket: bucket != without))

    found = score_distances(binned(pairs))

    for distance, ours in ((psi, found.psi), (js, found.js)):
        replicates = [distance(bucket) for bucket in range(NUM_BUCKETS)]
        bias = (NUM_BUCKETS - 1) * (math.fsum(replicates) / NUM_BUCKETS - distance(None))
        se = by_definition.jackknife(distance, range(NUM_BUCKETS))
        assert ours.value == pytest.approx(max(0.0, distance(None) - bias), abs=1e-11)
        assert ours.se == pytest.approx(math.hypot(se, math.sqrt(2) * bias), rel=1e-8)


@pytest.mark.parametrize(("seed", "shift"), SEEDS_AND_SHIFTS)
def test_what_is_a_sum_or_maximum_of_absolute_values_has_the_jackknifes_error(seed: int, shift: float) -> None:
    pairs = raw_pairs(seed, shift)

    def ahead(without: int | None) -> list[float]:
        return by_definition.ahead(*both(pairs, lambda bucket: bucket != without))

    found = score_distances(binned(pairs))

    expected = by_definition.jackknife(
        lambda without: SCORE_BIN_LOGIT_WIDTH * math.fsum(map(abs, ahead(without))), range(NUM_BUCKETS)
    )
    assert found.wasserstein.se == pytest.approx(expected, rel=1e-9)
    expected = by_definition.jackknife(lambda without: max(map(abs, ahead(without))), range(NUM_BUCKETS))
    assert found.ks.se == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("seed", "shift"), SEEDS_AND_SHIFTS)
def test_what_the_other_half_of_the_users_does_not_confirm_is_taken_off(seed: int, shift: float) -> None:
    pairs = raw_pairs(seed, shift)
    whole = by_definition.ahead(*both(pairs, lambda _: True))
    lost_wasserstein, lost_ks = [], []
    for bit in range(6):  # 40 buckets' numbers have six bits
        halves = [by_definition.ahead(*both(pairs, has_bit(bit, side))) for side in (0, 1)]
        for own, other in (halves, halves[::-1]):
            lost = [abs(a) - by_definition.sign(b) * a for a, b in zip(own, other, strict=True)]
            lost_wasserstein.append(SCORE_BIN_LOGIT_WIDTH * math.fsum(lost))
            place = [abs(b) for b in other].index(max(abs(b) for b in other))
            lost_ks.append(max(map(abs, own)) - by_definition.sign(other[place]) * own[place])

    found = score_distances(binned(pairs))

    for ours, raw, losses in (
        (found.wasserstein, SCORE_BIN_LOGIT_WIDTH * math.fsum(map(abs, whole)), lost_wasserstein),
        (found.ks, max(map(abs, whole)), lost_ks),
    ):
        bias = math.fsum(losses) / len(losses) / math.sqrt(2)
        assert ours.value == pytest.approx(max(0.0, raw - bias), abs=1e-11)


def test_distances_are_nannymls_where_every_bucket_holds_the_same_scores() -> None:
    """No user differs from another, so there is no bias to take off. NannyML's Jensen–Shannon is a root, in bits."""
    for case in cases("nannyml", "drift of bin indices"):
        found = same_in_every_bucket(case)

        assert found.js.value == pytest.approx(case.value["jensen_shannon"] ** 2 * math.log(2), abs=1e-12)
        assert found.wasserstein.value == pytest.approx(case.value["wasserstein"] * SCORE_BIN_LOGIT_WIDTH, abs=1e-12)
        assert found.ks.value == pytest.approx(case.value["kolmogorov_smirnov"], abs=1e-12)


def test_rank_agreement_is_scipys_tau_b() -> None:
    for case in cases("scipy", "agreement of paired bin indices"):
        table_BB = np.array(case.inputs["pairs"])
        table_CBB = np.random.default_rng(4).multinomial(table_BB.ravel(), np.full(32, 1 / 32))
        score_pairs_CBB = np.moveaxis(table_CBB.reshape(*table_BB.shape, 32), -1, 0)

        assert rank_agreement(score_pairs_CBB).tau_b == pytest.approx(case.value["kendall_tau_b"], abs=1e-12)


def test_rank_agreement_and_its_error_from_raw_rows() -> None:
    pairs = raw_pairs(5, 0.5, pairs=120, buckets=8)
    score_pairs_CBB = np.zeros((8, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int64)
    for pair in pairs:
        score_pairs_CBB[pair] += 1

    def tau_b(without: int | None) -> float:
        return by_definition.kendall([pair[1:] for pair in pairs if pair[0] != without])

    found = rank_agreement(score_pairs_CBB)

    assert found.tau_b == pytest.approx(tau_b(None), abs=1e-12)
    assert found.se == pytest.approx(by_definition.jackknife(tau_b, range(8)), rel=1e-10)


def both(pairs: Sequence[Pair], keep: Callable[[int], bool]) -> tuple[list[int], list[int]]:
    return counted(pairs, 1, keep), counted(pairs, 2, keep)


def has_bit(bit: int, side: int) -> Callable[[int], bool]:
    return lambda bucket: (bucket >> bit) & 1 == side


def same_in_every_bucket(case: Case) -> ScoreDistances:
    counts_AB = np.array([case.inputs["counts"][arm] for arm in ("stable", "candidate")])
    return score_distances(np.repeat(counts_AB[:, None], 32, axis=1))
