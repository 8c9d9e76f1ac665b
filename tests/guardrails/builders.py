"""Moments, stages and health for the judge's tests, drawn from stated rates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    WHOLE_SURFACE,
    Draw,
    Health,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    ServingCounts,
    Stratum,
)
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.split import FULL_TRAFFIC_BP, NUM_BUCKETS, Arm
from tests.builders import CANDIDATE, HOME_FEED, STABLE, a_plan

IntArray = NDArray[np.int64]

DAY_MS = 86_400_000
FIRST_DAY = 20_003  # a Monday
START_MS = FIRST_DAY * DAY_MS
VIEW_TYPES = ("grid", "closeup")
RELIABILITY_SHAPE = (len(Arm), NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure))


def simulated_moments(
    rng: np.random.Generator,
    *,
    impressions: int = 200_000,
    shares_bp: Sequence[int] = (2_500,),
    ctr: float = 0.05,
    effect: float = 0.0,
    prediction: float = 1.0,
    view_types: Sequence[str] = VIEW_TYPES,
    impressions_per_user: float = 10.0,
) -> Moments:
    """One day per share; `effect` is on the candidate's CTR, its scores are `prediction` times the truth."""
    strata = tuple(
        Stratum(day=FIRST_DAY + day, generation=1 + day, candidate_bp=share) for day, share in enumerate(shares_bp)
    )
    moments = empty_moments(strata=strata, view_types=view_types)
    sums = sums_of(moments)
    for index, stratum in enumerate(strata):
        for arm, share in (
            (Arm.STABLE, 1 - stratum.candidate_bp / FULL_TRAFFIC_BP),
            (Arm.CANDIDATE, stratum.candidate_bp / FULL_TRAFFIC_BP),
        ):
            mean = impressions * share / len(shares_bp) / len(view_types) / NUM_BUCKETS
            shown_GK = rng.poisson(mean, size=(len(view_types), NUM_BUCKETS))
            rate = ctr * (1 + effect) if arm is Arm.CANDIDATE else ctr
            clicks_GK = rng.binomial(shown_GK, rate)
            predicted = rate * (prediction if arm is Arm.CANDIDATE else 1.0)
            _fill(sums[1:, index, arm], shown_GK, clicks_GK, predicted, rng)
    sums[0] = sums[1:].sum(axis=0)
    users_SA = np.rint(sums[0, :, :, :, Measure.IMPRESSIONS].sum(axis=2) / impressions_per_user).astype(np.int64)
    return replace(
        moments,
        **packed_sums(sums),
        draws=draws_of(strata, users_SA),
        users_A=(int(users_SA[:, 0].sum()), int(users_SA[:, 1].sum())),
        newest_event_ms=moments.as_of_ms - 1,
        candidate_newest_ms=moments.as_of_ms - 1,
    )


def shadow_moments(
    rng: np.random.Generator,
    *,
    pairs: int = 20_000,
    ctr: float = 0.05,
    prediction: float = 1.0,
    noise: float = 0.0,
    view_types: Sequence[str] = VIEW_TYPES,
) -> Moments:
    """Pairs that stable served; the candidate scores `prediction` times the truth and has lost `noise` of it."""
    moments = empty_moments(strata=(Stratum(day=FIRST_DAY, generation=1, candidate_bp=0),), view_types=view_types)
    bucket_N = rng.integers(NUM_BUCKETS, size=pairs)
    view_N = rng.integers(1, 1 + len(view_types), size=pairs)
    truth_N = np.clip(rng.gamma(4.0, ctr / 4.0, size=pairs), 1e-4, 0.9)
    blurred_N = truth_N * prediction * np.exp(rng.normal(size=pairs) * noise - noise**2 / 2)
    candidate_N = np.clip(blurred_N, 1e-4, 0.99)
    click_N = (rng.random(pairs) < truth_N).astype(np.int64)
    columns = {
        PairMeasure.PAIRS: np.ones(pairs),
        PairMeasure.MATURED: np.ones(pairs),
        PairMeasure.CLICK: click_N,
        PairMeasure.SCORE_STABLE: truth_N * FIXED_POINT,
        PairMeasure.SCORE_CANDIDATE: candidate_N * FIXED_POINT,
        PairMeasure.LOG_LOSS_STABLE: _log_loss(truth_N, click_N) * FIXED_POINT,
        PairMeasure.LOG_LOSS_CANDIDATE: _log_loss(candidate_N, click_N) * FIXED_POINT,
        PairMeasure.BRIER_STABLE: (truth_N - click_N) ** 2 * FIXED_POINT,
        PairMeasure.BRIER_CANDIDATE: (candidate_N - click_N) ** 2 * FIXED_POINT,
        PairMeasure.LOG_RATIO: np.log(candidate_N / truth_N) * FIXED_POINT,
    }
    for measure, column_N in columns.items():
        np.add.at(moments.pairs_GKP[..., measure], (view_N, bucket_N), np.rint(column_N).astype(np.int64))
    for arm, score_N in ((Arm.STABLE, truth_N), (Arm.CANDIDATE, candidate_N)):
        bin_N = np.clip((np.log(score_N / (1 - score_N)) + 10) / 0.5, 0, NUM_SCORE_BINS - 1).astype(np.int64)
        np.add.at(moments.score_bins_GAKB[:, arm], (view_N, bucket_N, bin_N), 1)
    moments.pairs_GKP[0] = moments.pairs_GKP[1:].sum(axis=0)
    moments.score_bins_GAKB[0] = moments.score_bins_GAKB[1:].sum(axis=0)
    return replace(
        moments,
        users_A=(pairs // 10, 0),
        newest_event_ms=moments.as_of_ms - 1,
        candidate_newest_ms=moments.as_of_ms - 1,
    )


def empty_moments(
    *, strata: Sequence[Stratum] = (), view_types: Sequence[str] = VIEW_TYPES, buckets: int = NUM_BUCKETS
) -> Moments:
    segments, arms = 1 + len(view_types), len(Arm)
    days = max((stratum.day for stratum in strata), default=FIRST_DAY) + 1 - FIRST_DAY
    return Moments(
        surface=HOME_FEED,
        stable=STABLE,
        candidate=CANDIDATE,
        segments=(WHOLE_SURFACE, *view_types),
        strata=tuple(strata),
        **packed_sums(np.zeros((segments, len(strata), arms, buckets, len(Measure)), dtype=np.int64)),
        pairs_GKP=np.zeros((segments, buckets, len(PairMeasure)), dtype=np.int64),
        score_bins_GAKB=np.zeros((segments, arms, buckets, NUM_SCORE_BINS), dtype=np.int32),
        score_pairs_CBB=np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int32),
        reliability_GACBR=np.zeros((segments, *RELIABILITY_SHAPE), dtype=np.int64),
        shadow_reliability_GACBR=np.zeros((segments, *RELIABILITY_SHAPE), dtype=np.int64),
        draws=(),
        users_A=(0, 0),
        cross_exposed_users=0,
        as_of_ms=START_MS + days * DAY_MS,
        newest_event_ms=None,
        candidate_newest_ms=None,
    )


def draws_of(strata: Sequence[Stratum], users_SA: IntArray) -> tuple[Draw, ...]:
    """Users of whom nothing was known before, by the strata in which they were first met."""
    shares = {stratum.generation: stratum.candidate_bp for stratum in strata}
    generation_S = np.array([stratum.generation for stratum in strata])
    found = []
    for generation, share in sorted(shares.items()):
        if 0 < share < FULL_TRAFFIC_BP:
            stable, candidate = users_SA[generation_S == generation].sum(axis=0).tolist()
            found.append(a_draw(share, stable, candidate, generation=generation))
    return tuple(found)


def a_draw(candidate_bp: int, stable: int, candidate: int, *, generation: int = 1, above_bp: int = 0) -> Draw:
    return Draw(generation=generation, above_bp=above_bp, candidate_bp=candidate_bp, stable=stable, candidate=candidate)


def a_stage(phase: Phase = Phase.RAMPING, **overrides: Any) -> Stage:
    """The ramp's 25 % step with 50 % next, entered when the evidence of `simulated_moments` begins."""
    ramps = phase in (Phase.RAMPING, Phase.WATCHING)
    share = {Phase.RAMPING: 2_500, Phase.WATCHING: FULL_TRAFFIC_BP}.get(phase, 0)
    fields: dict[str, Any] = {
        "phase": phase,
        "step": {Phase.RAMPING: 1, Phase.WATCHING: 2}.get(phase, -1),
        "share_bp": share,
        "next_share_bp": {0: 100, 2_500: 5_000}.get(share, FULL_TRAFFIC_BP),
        "advances_left": 3 if ramps else 4,
        "generation": 1,
        "stage_generation": 1,
        "started_at_ms": START_MS,
        "entered_at_ms": START_MS,
    }
    return Stage(**{**fields, **overrides})


def a_health(**candidate: int) -> Health:
    sound: dict[str, Any] = {"requests": 10_000, "scores": 10_000, "distinct_scores": 1_000}
    return Health(
        stable=ServingCounts(requests=10_000, scores=10_000, distinct_scores=1_000),
        candidate=ServingCounts(**{**sound, **candidate}),
        live_runtimes=2,
        acknowledged_runtimes=2,
    )


def a_judged_plan(**overrides: object) -> RolloutPlan:
    """CTR alone, a day between checks; 'judge' and other sections may be replaced."""
    return a_plan(**{"check_every": "1d", "unwatched": "2d", **overrides})


def swapped(moments: Moments) -> Moments:
    """The arms exchanged."""
    counts, values = moments.counts_MGSAK[:, :, :, ::-1], moments.values_MGSAK[:, :, :, ::-1]
    return replace(moments, counts_MGSAK=np.ascontiguousarray(counts), values_MGSAK=np.ascontiguousarray(values))


def sums_of(moments: Moments) -> IntArray:
    """All measures of all cells, (G, S, A, K, M): a copy to change and give back to `with_sums`."""
    return np.stack([moments.sums_of(measure) for measure in Measure], axis=-1)


def plane(moments: Moments, measure: Measure) -> Any:
    """One measure's cells (G, S, A, K), to be written into."""
    is_count = measure < NUM_COUNTS
    return moments.counts_MGSAK[measure] if is_count else moments.values_MGSAK[measure - NUM_COUNTS]


def with_sums(moments: Moments, sums_GSAKM: IntArray) -> Moments:
    return replace(moments, **packed_sums(sums_GSAKM))


def packed_sums(sums_GSAKM: IntArray) -> dict[str, Any]:
    """The two arrays that moments keep them in."""
    sums_MGSAK = np.ascontiguousarray(np.moveaxis(sums_GSAKM, -1, 0))
    return {"counts_MGSAK": sums_MGSAK[:NUM_COUNTS].astype(np.int32), "values_MGSAK": sums_MGSAK[NUM_COUNTS:]}


def _fill(
    into_GKM: IntArray, shown_GK: IntArray, clicks_GK: IntArray, predicted: float, rng: np.random.Generator
) -> None:
    """Good clicks are half of the clicks, hides one in a hundred, a click is worth about a unit."""
    for matured in (
        Measure.IMPRESSIONS,
        Measure.MATURED_CLICK,
        Measure.MATURED_GOOD_CLICK,
        Measure.MATURED_HIDE,
        Measure.MATURED_REVENUE,
    ):
        into_GKM[..., matured] = shown_GK
    into_GKM[..., Measure.CLICK] = clicks_GK
    into_GKM[..., Measure.GOOD_CLICK] = rng.binomial(clicks_GK, 0.5)
    into_GKM[..., Measure.HIDE] = rng.binomial(shown_GK, 0.01)
    into_GKM[..., Measure.REVENUE] = np.rint(rng.gamma(np.maximum(clicks_GK, 1e-9)) * FIXED_POINT)
    score = round(predicted * FIXED_POINT)
    into_GKM[..., Measure.SCORE] = shown_GK * score


def _log_loss(score_N: NDArray[np.float64], click_N: IntArray) -> NDArray[np.float64]:
    return -np.log(np.where(click_N > 0, score_N, 1 - score_N))
