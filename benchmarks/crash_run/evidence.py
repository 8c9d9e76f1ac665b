"""What the judge is shown in a crash run: recorded sums in place of an event log that would take hours to fill.

The judge is the real one. What a version is worth hangs on its id alone, so that every replica finds the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    WHOLE_SURFACE,
    Draw,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.evidence.aggregate import MomentsQuery, MomentsReader

IntArray = NDArray[np.int64]

BUCKETS = 64
IMPRESSIONS = 400_000  # a stage: enough for any answer at wide margins
CTR = 0.2
DAY_MS = 86_400_000
MATURED = (Measure.MATURED_CLICK, Measure.MATURED_GOOD_CLICK, Measure.MATURED_HIDE, Measure.MATURED_REVENUE)


class Worth(Enum):
    """How a candidate does: clicks, and how much of the traffic is ever seen."""

    SOUND = (1.0, 1.0)
    SLOW = (1.0, 0.1)  # enough for wide margins; a small loss budget lets it take more traffic by and by
    HARMFUL = (0.7, 1.0)
    UNCLEAR = (1.0, 0.001)  # too few users for an answer: it runs out of time


def worth_of(version: VersionId) -> Worth:
    """Of six, two are sound, two slow to tell, one is harmful, one never seen enough."""
    match int(version[-2:], 16) % 6:
        case 0:
            return Worth.HARMFUL
        case 1:
            return Worth.UNCLEAR
        case 2 | 3:
            return Worth.SLOW
        case _:
            return Worth.SOUND


class RecordedMoments(MomentsReader):
    """In the place of the one that reads the log."""

    def moments_of(self, queries: Sequence[MomentsQuery]) -> list[Moments | Exception]:
        return [recorded_for(query) for query in queries]


def recorded_for(query: MomentsQuery) -> Moments:
    shares = tuple(sorted((generation, bp) for generation, bp in query.shares.items() if bp))
    worth = worth_of(query.candidate)
    recorded = _served(tuple(bp for _, bp in shares), worth) if shares else _shadowed(worth)
    day = query.as_of_ms // DAY_MS
    return replace(
        recorded,
        surface=query.surface,
        stable=query.stable,
        candidate=query.candidate,
        strata=tuple(Stratum(day=day, generation=generation, candidate_bp=bp) for generation, bp in shares),
        draws=tuple(
            replace(draw, generation=generation)
            for draw, generation in zip(recorded.draws, [g for g, bp in shares if bp < FULL_TRAFFIC_BP], strict=True)
        ),
        as_of_ms=query.as_of_ms,
        newest_event_ms=query.as_of_ms - 1,
        candidate_newest_ms=query.as_of_ms - 1,
    )


@lru_cache(maxsize=1_024)
def _served(shares_bp: tuple[int, ...], worth: Worth) -> Moments:
    """Each generation's traffic by its weight, drawn from a seed of its own."""
    ctr, seen = worth.value
    sums = np.zeros((len(Measure), 1, len(shares_bp), len(Arm), BUCKETS), dtype=np.int64)
    draws, users_A = [], [0, 0]
    for index, bp in enumerate(shares_bp):
        rng = np.random.default_rng([bp, index])
        users = []
        for arm, share in ((Arm.STABLE, 1 - bp / FULL_TRAFFIC_BP), (Arm.CANDIDATE, bp / FULL_TRAFFIC_BP)):
            shown_K = rng.poisson(IMPRESSIONS * seen * share / BUCKETS, BUCKETS)
            rate = CTR * (ctr if arm is Arm.CANDIDATE else 1.0)
            _fill(sums[:, 0, index, arm], shown_K, rng.binomial(shown_K, rate), rate)
            users.append(round(IMPRESSIONS * seen * share / 4))
            users_A[arm] += users[-1]
        if bp < FULL_TRAFFIC_BP:
            draws.append(Draw(generation=0, above_bp=0, candidate_bp=bp, stable=users[0], candidate=users[1]))
    return replace(
        _empty(len(shares_bp)),
        counts_MGSAK=sums[:NUM_COUNTS].astype(np.int32),
        values_MGSAK=sums[NUM_COUNTS:],
        draws=tuple(draws),
        users_A=(users_A[0], users_A[1]),
    )


@lru_cache(maxsize=8)
def _shadowed(worth: Worth) -> Moments:
    """Pairs that stable served; both models know the truth, so the shadow tells nothing of how users will like it."""
    rng = np.random.default_rng(1)
    pairs = 20_000
    bucket_N = rng.integers(BUCKETS, size=pairs)
    truth_N = np.clip(rng.gamma(4.0, CTR / 4.0, size=pairs), 1e-3, 0.9)
    click_N = (rng.random(pairs) < truth_N).astype(np.int64)
    loss_N = -np.log(np.where(click_N > 0, truth_N, 1 - truth_N)) * FIXED_POINT
    score_N, brier_N = truth_N * FIXED_POINT, (truth_N - click_N) ** 2 * FIXED_POINT
    found = _empty(0)
    for measure, column_N in {
        PairMeasure.PAIRS: np.ones(pairs),
        PairMeasure.MATURED: np.ones(pairs),
        PairMeasure.CLICK: click_N,
        PairMeasure.SCORE_STABLE: score_N,
        PairMeasure.SCORE_CANDIDATE: score_N,
        PairMeasure.LOG_LOSS_STABLE: loss_N,
        PairMeasure.LOG_LOSS_CANDIDATE: loss_N,
        PairMeasure.BRIER_STABLE: brier_N,
        PairMeasure.BRIER_CANDIDATE: brier_N,
    }.items():
        np.add.at(found.pairs_GKP[0, :, measure], bucket_N, np.rint(column_N).astype(np.int64))
    bin_N = np.clip((np.log(truth_N / (1 - truth_N)) + 10) / 0.5, 0, NUM_SCORE_BINS - 1).astype(np.int64)
    for arm in Arm:
        np.add.at(found.score_bins_GAKB[0, arm], (bucket_N, bin_N), 1)
    return replace(found, users_A=(pairs // 10, 0))


def _fill(into_MK: IntArray, shown_K: IntArray, clicks_K: IntArray, predicted: float) -> None:
    for measure in (Measure.IMPRESSIONS, *MATURED):
        into_MK[measure] = shown_K
    into_MK[Measure.CLICK] = clicks_K
    into_MK[Measure.GOOD_CLICK] = clicks_K // 2
    into_MK[Measure.REVENUE] = clicks_K * FIXED_POINT
    into_MK[Measure.SCORE] = shown_K * round(predicted * FIXED_POINT)


def _empty(strata: int) -> Moments:
    reliability: dict[str, Any] = {
        name: np.zeros((1, len(Arm), NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure)), dtype=np.int64)
        for name in ("reliability_GACBR", "shadow_reliability_GACBR")
    }
    return Moments(
        surface=Surface("any"),
        stable=VersionId("0" * 16),
        candidate=VersionId("1" * 16),
        segments=(WHOLE_SURFACE,),
        strata=(),
        counts_MGSAK=np.zeros((NUM_COUNTS, 1, strata, len(Arm), BUCKETS), dtype=np.int32),
        values_MGSAK=np.zeros((len(Measure) - NUM_COUNTS, 1, strata, len(Arm), BUCKETS), dtype=np.int64),
        pairs_GKP=np.zeros((1, BUCKETS, len(PairMeasure)), dtype=np.int64),
        score_bins_GAKB=np.zeros((1, len(Arm), BUCKETS, NUM_SCORE_BINS), dtype=np.int32),
        score_pairs_CBB=np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int32),
        **reliability,
        draws=(),
        users_A=(0, 0),
        cross_exposed_users=0,
        as_of_ms=0,
        newest_event_ms=None,
        candidate_newest_ms=None,
    )
