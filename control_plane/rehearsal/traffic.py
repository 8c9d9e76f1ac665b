"""Simulated traffic with a known truth: users who come back, differ and prefer weekends, in the judge's own sums.

Labels come at once: attribution windows and reporting delays are left out.
Letters of the shapes: U users, V view types, others as in `domain.moments`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    SCORE_BIN_LOGIT_MIN,
    SCORE_BIN_LOGIT_WIDTH,
    WHOLE_SURFACE,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.split import FULL_TRAFFIC_BP, NUM_BUCKETS, Arm, bucket_of, slot_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DAY_MS = 86_400_000
STABLE, CANDIDATE = VersionId("5" * 16), VersionId("c" * 16)
SCORE_CLIP = 1e-7  # as the event log clips scores before it takes their logarithm


@dataclass(frozen=True, kw_only=True, slots=True)
class Audience:
    """Who looks, how often, and how they act under stable."""

    users: int = 20_000
    impressions_per_day: float = 3.0  # of a mean user
    activity_spread: float = 1.0  # coefficient of variation between users, as are the other spreads
    ctr: float = 0.05
    ctr_spread: float = 0.5
    view_types: Mapping[str, float] = field(default_factory=lambda: {"grid": 0.6, "closeup": 0.3, "story": 0.1})
    weekend_factor: float = 1.25
    good_click_share: float = 0.5  # of clicks
    hide_rate: float = 0.004
    revenue_per_click: float = 0.5
    revenue_spread: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What the candidate truly does, relative to stable; 0 everywhere is an equal candidate."""

    ctr: float = 0.0
    good_click_rate: float = 0.0  # beyond what follows from clicks
    hide_rate: float = 0.0
    revenue_per_click: float = 0.0
    prediction: float = 0.0  # scores beyond the truth: 0.13 predicts 13 % too many clicks
    score_noise: float = 0.0  # standard deviation of what its scores' logarithm has lost of the truth


class Traffic:
    """A surface under simulation: serve periods under weights, read the moments at any time."""

    def __init__(self, audience: Audience, effects: Effects, *, seed: int, started_at_ms: int) -> None:
        self.audience, self.effects = audience, effects
        self.started_at_ms = self.now_ms = started_at_ms
        self._rng = np.random.default_rng(seed)
        self._draw_users()
        segments, arms = 1 + len(audience.view_types), len(Arm)
        self._sums: dict[Stratum, IntArray] = {}
        self._first: dict[Stratum, IntArray] = {}
        self._pairs_GKP = np.zeros((segments, NUM_BUCKETS, len(PairMeasure)), dtype=np.int64)
        self._bins_GAKB = np.zeros((segments, arms, NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int32)
        self._reliability_GACBR = np.zeros(
            (segments, arms, NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure)), dtype=np.int64
        )
        self._seen_UA = np.zeros((audience.users, arms), dtype=np.bool_)
        self._newest_ms: int | None = None
        self._candidate_newest_ms: int | None = None

    def serve(self, *, until_ms: int, generation: int, candidate_bp: int, shadow_bp: int = 0) -> None:
        """Let users come from now until `until_ms`; a period over midnight falls into two strata."""
        while self.now_ms < until_ms:
            day = self.now_ms // DAY_MS
            end_ms = min(until_ms, (day + 1) * DAY_MS)
            stratum = Stratum(day=day, generation=generation, candidate_bp=candidate_bp)
            days = (end_ms - self.now_ms) / DAY_MS
            self.now_ms = end_ms
            self._serve_within_day(stratum, days, shadow_bp / FULL_TRAFFIC_BP)

    def moments(self) -> Moments:
        strata = tuple(sorted(self._sums))
        segments, arms = len(self._pairs_GKP), len(Arm)
        empty = np.zeros((segments, 0, arms, NUM_BUCKETS, len(Measure)), dtype=np.int64)
        sums_GSAKM = np.stack([self._sums[stratum] for stratum in strata], axis=1) if strata else empty
        sums_MGSAK = np.moveaxis(sums_GSAKM, -1, 0)
        return Moments(
            surface=Surface("rehearsal"),
            stable=STABLE,
            candidate=CANDIDATE,
            segments=(WHOLE_SURFACE, *self.audience.view_types),
            strata=strata,
            counts_MGSAK=np.ascontiguousarray(sums_MGSAK[:NUM_COUNTS], dtype=np.int32),
            values_MGSAK=np.ascontiguousarray(sums_MGSAK[NUM_COUNTS:]),
            pairs_GKP=self._pairs_GKP.copy(),
            score_bins_GAKB=self._bins_GAKB.copy(),
            score_pairs_CBB=np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int32),
            reliability_GACBR=self._reliability_GACBR.copy(),
            shadow_reliability_GACBR=self._reliability_GACBR.copy(),
            first_exposures_SA=np.array([self._first[s] for s in strata], dtype=np.int64).reshape(-1, arms),
            users_A=(int(self._seen_UA[:, 0].sum()), int(self._seen_UA[:, 1].sum())),
            cross_exposed_users=0,
            as_of_ms=self.now_ms,
            newest_event_ms=self._newest_ms,
            candidate_newest_ms=self._candidate_newest_ms,
        )

    def _draw_users(self) -> None:
        audience, effects, rng = self.audience, self.effects, self._rng
        keys = rng.integers(0, 2**64, size=audience.users, dtype=np.uint64)
        self._bucket_U = bucket_of(keys).astype(np.int64)
        self._slot_U = slot_of(keys, f"rehearsal/{int(rng.integers(2**32))}").astype(np.int64)
        share_V = np.array(list(audience.view_types.values()), dtype=np.float64)
        activity_U = _gamma(rng, audience.activity_spread, audience.users) * audience.impressions_per_day
        self._pace_UV = activity_U[:, None] * share_V / share_V.sum()
        taste_U = _gamma(rng, audience.ctr_spread, audience.users)
        ceiling = 0.9 / max(1.0 + effects.ctr, 1.0)
        self._ctr_UV = np.minimum(taste_U[:, None] * audience.ctr, ceiling) * np.ones(share_V.size)
        noise_UV = rng.normal(size=self._ctr_UV.shape) * effects.score_noise
        blur_UV = np.exp(noise_UV - effects.score_noise**2 / 2) * (1 + effects.prediction)
        self._score_UVA = np.clip(
            np.stack([self._ctr_UV, self._ctr_UV * (1 + effects.ctr) * blur_UV], axis=-1), SCORE_CLIP, 1 - SCORE_CLIP
        )
        self._shadow_score_UV = np.clip(self._ctr_UV * blur_UV, SCORE_CLIP, 1 - SCORE_CLIP)

    def _serve_within_day(self, stratum: Stratum, days: float, shadow_share: float) -> None:
        is_weekend = (stratum.day + 3) % 7 >= 5  # day 0 was a Thursday
        pace_UV = self._pace_UV * days * (self.audience.weekend_factor if is_weekend else 1.0)
        impressions_UV = self._rng.poisson(pace_UV)
        arm_U = (self._slot_U < stratum.candidate_bp).astype(np.int64)
        user_C, view_C = np.nonzero(impressions_UV)
        cells = _Cells(
            impressions_C=impressions_UV[user_C, view_C].astype(np.int64),
            user_C=user_C,
            view_C=view_C,
            arm_C=arm_U[user_C],
            bucket_C=self._bucket_U[user_C],
        )
        if not user_C.size:
            return
        clicks_C = self._expose(stratum, cells)
        self._remember(stratum, np.unique(user_C), arm_U)
        if shadow_share:
            self._shadow(cells, clicks_C, shadow_share)

    def _expose(self, stratum: Stratum, cells: "_Cells") -> IntArray:
        audience, effects, rng = self.audience, self.effects, self._rng
        is_candidate_C = cells.arm_C == Arm.CANDIDATE
        impressions_C = cells.impressions_C
        lift_C = np.where(is_candidate_C, 1 + effects.ctr, 1.0)
        clicks_C = rng.binomial(impressions_C, self._ctr_UV[cells.user_C, cells.view_C] * lift_C)
        good_C = rng.binomial(
            clicks_C,
            np.minimum(audience.good_click_share * np.where(is_candidate_C, 1 + effects.good_click_rate, 1), 1),
        )
        hides_C = rng.binomial(impressions_C, audience.hide_rate * np.where(is_candidate_C, 1 + effects.hide_rate, 1))
        price_C = _gamma(rng, audience.revenue_spread, clicks_C.size) * audience.revenue_per_click
        revenue_C = price_C * clicks_C * np.where(is_candidate_C, 1 + effects.revenue_per_click, 1.0)
        score_C = self._score_UVA[cells.user_C, cells.view_C, cells.arm_C]
        columns = {
            Measure.IMPRESSIONS: impressions_C,
            Measure.MATURED_CLICK: impressions_C,
            Measure.CLICK: clicks_C,
            Measure.MATURED_GOOD_CLICK: impressions_C,
            Measure.GOOD_CLICK: good_C,
            Measure.MATURED_HIDE: impressions_C,
            Measure.HIDE: hides_C,
            Measure.MATURED_REVENUE: impressions_C,
            Measure.REVENUE: _fixed(revenue_C),
            Measure.SCORE: _fixed(score_C) * impressions_C,
        }
        segments, arms = len(self._pairs_GKP), len(Arm)
        found = self._sums.setdefault(stratum, np.zeros((segments, arms, NUM_BUCKETS, len(Measure)), dtype=np.int64))
        for measure, column_C in columns.items():
            found[1:, :, :, measure] += cells.summed(column_C, segments - 1)
        found[0] = found[1:].sum(axis=0)
        return np.asarray(clicks_C, dtype=np.int64)

    def _remember(self, stratum: Stratum, user_N: IntArray, arm_U: IntArray) -> None:
        is_new_N = ~self._seen_UA[user_N].any(axis=1)
        first_A = self._first.setdefault(stratum, np.zeros(len(Arm), dtype=np.int64))
        first_A += np.bincount(arm_U[user_N[is_new_N]], minlength=len(Arm))
        self._seen_UA[user_N, arm_U[user_N]] = True
        self._newest_ms = self.now_ms - 1
        if (arm_U[user_N] == Arm.CANDIDATE).any():
            self._candidate_newest_ms = self.now_ms - 1

    def _shadow(self, cells: "_Cells", clicks_C: IntArray, share: float) -> None:
        """The shadow scores whole requests, so a user's impressions of one period are all paired or none."""
        is_paired_C = (self._rng.random(clicks_C.size) < share) & (cells.arm_C == Arm.STABLE)
        impressions_C, clicks_C = cells.impressions_C * is_paired_C, clicks_C * is_paired_C
        stable_C = self._score_UVA[cells.user_C, cells.view_C, Arm.STABLE]
        candidate_C = self._shadow_score_UV[cells.user_C, cells.view_C]
        columns = {
            PairMeasure.PAIRS: impressions_C,
            PairMeasure.MATURED: impressions_C,
            PairMeasure.CLICK: clicks_C,
            PairMeasure.SCORE_STABLE: _fixed(stable_C) * impressions_C,
            PairMeasure.SCORE_CANDIDATE: _fixed(candidate_C) * impressions_C,
            PairMeasure.LOG_LOSS_STABLE: _log_loss(stable_C, clicks_C, impressions_C),
            PairMeasure.LOG_LOSS_CANDIDATE: _log_loss(candidate_C, clicks_C, impressions_C),
            PairMeasure.BRIER_STABLE: _brier(stable_C, clicks_C, impressions_C),
            PairMeasure.BRIER_CANDIDATE: _brier(candidate_C, clicks_C, impressions_C),
            PairMeasure.LOG_RATIO: _fixed(np.log(candidate_C / stable_C)) * impressions_C,
        }
        views = len(self._pairs_GKP) - 1
        for measure, column_C in columns.items():
            self._pairs_GKP[1:, :, measure] += cells.summed(column_C, views)[:, Arm.STABLE]
        self._pairs_GKP[0] = self._pairs_GKP[1:].sum(axis=0)
        for arm, score_C in ((Arm.STABLE, stable_C), (Arm.CANDIDATE, candidate_C)):
            cell = (cells.view_C, cells.bucket_C, _bin_of(score_C))
            np.add.at(self._bins_GAKB[1:, arm], cell, impressions_C)
        self._bins_GAKB[0] = self._bins_GAKB[1:].sum(axis=0)
        if is_paired_C.any():
            self._candidate_newest_ms = self.now_ms - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cells:
    """C pairs of a user and a view type that met in one period."""

    impressions_C: IntArray
    user_C: IntArray
    view_C: IntArray
    arm_C: IntArray
    bucket_C: IntArray

    def summed(self, column_C: IntArray, views: int) -> IntArray:
        """Sums by view type, arm and bucket; exact, for they stay below 2^53 in one period."""
        index_C = (self.view_C * len(Arm) + self.arm_C) * NUM_BUCKETS + self.bucket_C
        sums = np.bincount(index_C, weights=column_C.astype(np.float64), minlength=views * len(Arm) * NUM_BUCKETS)
        return np.rint(sums).astype(np.int64).reshape(views, len(Arm), NUM_BUCKETS)


def _gamma(rng: np.random.Generator, spread: float, size: int) -> FloatArray:
    """Positive factors of mean 1 and the given coefficient of variation."""
    if spread == 0:
        return np.ones(size)
    shape = spread**-2
    return rng.gamma(shape, 1 / shape, size=size)


def _fixed(value: FloatArray) -> IntArray:
    return np.rint(value * FIXED_POINT).astype(np.int64)


def _log_loss(score_C: FloatArray, clicks_C: IntArray, impressions_C: IntArray) -> IntArray:
    return _fixed(-np.log(score_C)) * clicks_C + _fixed(-np.log1p(-score_C)) * (impressions_C - clicks_C)


def _brier(score_C: FloatArray, clicks_C: IntArray, impressions_C: IntArray) -> IntArray:
    return _fixed((1 - score_C) ** 2) * clicks_C + _fixed(score_C**2) * (impressions_C - clicks_C)


def _bin_of(score_C: FloatArray) -> IntArray:
    logit_C = np.log(score_C) - np.log1p(-score_C)
    bin_C = np.floor((logit_C - SCORE_BIN_LOGIT_MIN) / SCORE_BIN_LOGIT_WIDTH)
    return np.clip(bin_C, 0, NUM_SCORE_BINS - 1).astype(np.int64)
