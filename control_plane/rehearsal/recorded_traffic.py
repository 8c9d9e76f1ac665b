"""Recorded users, given to the arms anew: how they came, came back and clicked is real, what the candidate does is not.

Effects thin or add what followed the candidate's impressions. Of several impressions in one row (a user's of one
period, view type and score bin) the mean score stands for each.

Letters: N rows, U users, V view types; others as in `domain.moments`.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.events import Label
from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.split import FULL_TRAFFIC_BP, NUM_BUCKETS, Arm, bucket_of, slot_of
from control_plane.rehearsal.audience import DAY_MS, Effects, Faults
from control_plane.rehearsal.first_meetings import FirstMeetings
from control_plane.rehearsal.ledger import Cohort, Ledger, Pairs
from control_plane.rehearsal.losses import Losses
from control_plane.rehearsal.recording import Recording, Rows
from control_plane.rehearsal.scores import COARSE_K, SCORE_CLIP, fixed, score_bin

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Factors:
    """What the candidate does to each row, relative to stable."""

    clicks_N: FloatArray
    good_N: FloatArray
    hides_N: FloatArray
    revenue_N: FloatArray
    score_N: FloatArray
    shadow_score_N: FloatArray
    is_worse_N: BoolArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Habits:
    """What the recorded users did by view type: where more of it may be put, and what comes with it."""

    clicks_V: FloatArray  # clicks for each unit of odds on impressions without one
    good_odds_V: FloatArray
    good_share_V: FloatArray
    hide_odds_V: FloatArray
    revenue_per_click_V: FloatArray  # fixed point

    @classmethod
    def of(cls, recording: Recording) -> Self:
        rows = recording.all_rows()
        others_N = rows.shown_N - rows.clicks_N

        def total(value_N: FloatArray | IntArray) -> FloatArray:
            sums_V = np.bincount(rows.view_N, weights=value_N, minlength=len(recording.view_types))
            return sums_V.astype(np.float64, copy=False)

        clicks_V, good_V, hides_V = (total(count_N) for count_N in (rows.clicks_N, rows.good_N, rows.hides_N))
        return cls(
            clicks_V=_ratio(clicks_V, total(_odds(rows) * others_N)),
            good_odds_V=_ratio(good_V, clicks_V - good_V),
            good_share_V=_ratio(good_V, clicks_V),
            hide_odds_V=_ratio(hides_V, total(rows.shown_N) - hides_V),
            revenue_per_click_V=_ratio(total(rows.revenue_N), clicks_V),
        )


class RecordedTraffic:
    """One run over a recording: a fresh salt makes the arms, all else is as it was."""

    def __init__(
        self,
        plan: RolloutPlan,
        recording: Recording,
        effects: Effects,
        faults: Faults,
        *,
        seed: np.random.SeedSequence,
    ) -> None:
        self.effects, self.faults, self.losses = effects, faults, Losses()
        self._recording, self._habits = recording, _Habits.of(recording)
        self._rng = np.random.default_rng(seed)
        users = recording.user_U.size
        self._slot_U = slot_of(recording.user_U, f"rehearsal/{int(self._rng.integers(2**32))}").astype(np.int64)
        self._bucket_U = bucket_of(recording.user_U).astype(np.int64)
        self._error_U = self._rng.normal(size=users)
        self._is_lost_U = self._rng.random(users) < faults.lost_users
        self._joined_ms_U = np.zeros(users, dtype=np.int64)
        self._seen_UA = np.zeros((users, len(Arm)), dtype=np.bool_)
        self._first_meetings = FirstMeetings(users)
        self._by_view = [effects.at(view_type) for view_type in recording.view_types]
        self._ledger = Ledger(recording.view_types, plan.windows_ms())
        self._start_ms = self.now_ms = recording.first_day * DAY_MS
        self._period_ms = DAY_MS // recording.periods_per_day
        self._candidate_bp = 0

    def serve(self, *, until_ms: int, generation: int, candidate_bp: int, shadow_bp: int = 0) -> None:
        """Serve whole periods up to `until_ms`."""
        joins = (self._slot_U < candidate_bp) & (self._slot_U >= self._candidate_bp)
        self._joined_ms_U[joins] = self.now_ms
        self._candidate_bp = candidate_bp
        while self.now_ms + self._period_ms <= until_ms:
            stratum = Stratum(day=self.now_ms // DAY_MS, generation=generation, candidate_bp=candidate_bp)
            period = (self.now_ms - self._start_ms) // self._period_ms
            if not self._is_stopped():
                self._serve(stratum, self._recording.rows(period), shadow_bp / FULL_TRAFFIC_BP)
            self.now_ms += self._period_ms

    def moments(self) -> Moments:
        users = self._seen_UA.sum(axis=0)
        return self._ledger.moments(as_of_ms=self.now_ms, users_A=(int(users[0]), int(users[1])))

    def served(self, arm: Arm) -> int:
        return self._ledger.impressions(arm)

    def shadowed(self) -> int:
        return self._ledger.pairs()

    def _is_stopped(self) -> bool:
        stop, day = self.faults.feed_stops_at_day, (self.now_ms - self._start_ms) / DAY_MS
        return stop is not None and stop <= day < stop + self.faults.feed_stops_for_days

    def _serve(self, stratum: Stratum, rows: Rows, shadow_share: float) -> None:
        is_candidate_N = self._slot_U[rows.user_N] < stratum.candidate_bp
        kept = ~(is_candidate_N & self._is_lost_U[rows.user_N])
        rows = Rows(**{name: getattr(rows, name)[kept] for name in Rows.__slots__})
        is_candidate_N = is_candidate_N[kept]
        if not rows.user_N.size:
            return
        factors = self._factors(rows)
        self._account(rows, factors, is_candidate_N)
        arm_N = is_candidate_N.astype(np.int64)
        self._seen_UA[rows.user_N, arm_N] = True
        drawn = self._first_meetings.meet(rows.user_N, arm_N, stratum.candidate_bp)
        acted = self._acted(rows, factors, is_candidate_N)
        score_N = np.where(is_candidate_N, factors.score_N, 1.0) * rows.score_N
        mean_N = _clipped(score_N / FIXED_POINT / acted.shown_N)
        pairs = None
        if shadow_share:
            pairs = self._pairs(acted, mean_N, _clipped(mean_N * factors.shadow_score_N), is_candidate_N, shadow_share)
        self._ledger.add(
            Cohort(
                stratum=stratum,
                end_ms=self.now_ms + self._period_ms,
                impressions_VAK=self._summed(acted.shown_N, acted, is_candidate_N),
                labels_VAK={
                    Label.CLICK: self._summed(acted.clicks_N, acted, is_candidate_N),
                    Label.GOOD_CLICK: self._summed(acted.good_N, acted, is_candidate_N),
                    Label.HIDE: self._summed(acted.hides_N, acted, is_candidate_N),
                    Label.REVENUE: self._summed(acted.revenue_N, acted, is_candidate_N),
                },
                score_VAK=self._summed(_total(mean_N, acted.shown_N), acted, is_candidate_N),
                reliability_VACBR=self._reliability(acted, mean_N, arm_N),
                pairs=pairs,
            ),
            drawn=drawn,
        )

    def _factors(self, rows: Rows) -> _Factors:
        days_N = (self.now_ms - self._joined_ms_U[rows.user_N]) / DAY_MS
        clicks_N = np.ones(rows.user_N.size)
        for view, effects in enumerate(self._by_view):
            here = rows.view_N == view
            left_N = 0.5 ** (days_N[here] / effects.novelty_half_life_days)
            clicks_N[here] = np.maximum(0.0, 1 + effects.ctr + effects.novelty * left_N)
        noise_N = self._of_view("score_noise", rows)
        blur_N = np.exp(self._error_U[rows.user_N] * noise_N - noise_N**2 / 2)
        off_N = (1 + self._of_view("prediction", rows)) * blur_N
        good_N, hides_N = 1 + self._of_view("good_click_rate", rows), 1 + self._of_view("hide_rate", rows)
        revenue_N = 1 + self._of_view("revenue_per_click", rows)
        is_off_N = (self._of_view("prediction", rows) != 0) | (noise_N > 0)
        return _Factors(
            clicks_N=clicks_N,
            good_N=good_N,
            hides_N=hides_N,
            revenue_N=revenue_N,
            score_N=np.where(self._of_view("is_foreseen", rows) > 0, clicks_N, 1.0) * off_N,
            shadow_score_N=off_N,
            is_worse_N=(clicks_N < 1) | (clicks_N * good_N < 1) | (clicks_N * revenue_N < 1) | (hides_N > 1) | is_off_N,
        )

    def _of_view(self, name: str, rows: Rows) -> FloatArray:
        return np.array([float(getattr(effects, name)) for effects in self._by_view])[rows.view_N]

    def _account(self, rows: Rows, factors: _Factors, is_candidate_N: BoolArray) -> None:
        lost_N = {
            "clicks": rows.clicks_N * (1 - factors.clicks_N),
            "good_clicks": rows.good_N * (1 - factors.clicks_N * factors.good_N),
            "hides": rows.hides_N * (factors.hides_N - 1),
            "revenue": rows.revenue_N / FIXED_POINT * (1 - factors.clicks_N * factors.revenue_N),
        }
        shown = float(rows.shown_N[is_candidate_N].sum())
        worse = float(rows.shown_N[is_candidate_N & factors.is_worse_N].sum())
        self.losses.add(
            lost={name: float(loss_N[is_candidate_N].sum()) for name, loss_N in lost_N.items()},
            at_stable={
                "clicks": float(rows.clicks_N.sum()),
                "good_clicks": float(rows.good_N.sum()),
                "hides": float(rows.hides_N.sum()),
                "revenue": float(rows.revenue_N.sum()) / FIXED_POINT,
            },
            harmed=max(self.faults.error_rate * shown, worse),
        )

    def _acted(self, rows: Rows, factors: _Factors, is_candidate_N: BoolArray) -> Rows:
        """What followed the same impressions once the candidate served its part of them.

        Less than before is thinned out. More is put where nothing was yet: clicks by the odds that stable's score
        gives, the rest evenly; so that on average there are as many times more as stated.
        """
        habits, rng = self._habits, self._rng
        clicks_N, goods_N, hides_N, revenue_N = (
            np.where(is_candidate_N, factor_N, 1.0)
            for factor_N in (factors.clicks_N, factors.good_N, factors.hides_N, factors.revenue_N)
        )
        kept_N = np.minimum(clicks_N, 1.0)
        good_N = rng.binomial(rows.good_N, kept_N)
        left_N = good_N + rng.binomial(rows.clicks_N - rows.good_N, kept_N)
        odds_N = _odds(rows) * habits.clicks_V[rows.view_N]
        extra_N = rng.binomial(rows.shown_N - rows.clicks_N, _chance(clicks_N, odds_N))
        good_N = good_N + rng.binomial(extra_N, habits.good_share_V[rows.view_N])
        click_N = left_N + extra_N
        paying_N = np.where(rows.clicks_N > 0, left_N / np.maximum(rows.clicks_N, 1), kept_N)
        value_N = rows.revenue_N * paying_N + extra_N * habits.revenue_per_click_V[rows.view_N]
        return replace(
            rows,
            clicks_N=click_N,
            good_N=self._changed(good_N, click_N, goods_N, habits.good_odds_V[rows.view_N]),
            hides_N=self._changed(rows.hides_N, rows.shown_N, hides_N, habits.hide_odds_V[rows.view_N]),
            revenue_N=np.rint(value_N * revenue_N).astype(np.int64),
        )

    def _changed(self, count_N: IntArray, whole_N: IntArray, factor_N: FloatArray, odds_N: FloatArray) -> IntArray:
        kept_N = self._rng.binomial(count_N, np.minimum(factor_N, 1.0))
        return kept_N + self._rng.binomial(whole_N - count_N, _chance(factor_N, odds_N))

    def _pairs(
        self, rows: Rows, stable_N: FloatArray, candidate_N: FloatArray, is_candidate_N: BoolArray, share: float
    ) -> Pairs:
        """The shadow scores what stable serves."""
        here = ~is_candidate_N
        rows = Rows(**{name: getattr(rows, name)[here] for name in Rows.__slots__})
        stable_N, candidate_N = stable_N[here], candidate_N[here]
        clicks_N = self._rng.binomial(rows.clicks_N, share)
        others_N = self._rng.binomial(rows.shown_N - rows.clicks_N, share)
        rows = replace(rows, clicks_N=clicks_N, shown_N=clicks_N + others_N)
        views, bucket_N = len(self._by_view), self._bucket_U[rows.user_N]
        columns = {
            PairMeasure.PAIRS: rows.shown_N,
            PairMeasure.MATURED: rows.shown_N,
            PairMeasure.CLICK: clicks_N,
            PairMeasure.SCORE_STABLE: _total(stable_N, rows.shown_N),
            PairMeasure.SCORE_CANDIDATE: _total(candidate_N, rows.shown_N),
            PairMeasure.LOG_LOSS_STABLE: _log_loss(stable_N, clicks_N, others_N),
            PairMeasure.LOG_LOSS_CANDIDATE: _log_loss(candidate_N, clicks_N, others_N),
            PairMeasure.BRIER_STABLE: _brier(stable_N, clicks_N, others_N),
            PairMeasure.BRIER_CANDIDATE: _brier(candidate_N, clicks_N, others_N),
            PairMeasure.LOG_RATIO: fixed(np.log(candidate_N) - np.log(stable_N)) * rows.shown_N,
        }
        place_N = rows.view_N * NUM_BUCKETS + bucket_N
        pairs_PVK = np.stack([_counted(place_N, columns[one], (views, NUM_BUCKETS)) for one in PairMeasure])
        both_A = [(arm, score_bin(score_N)) for arm, score_N in ((0, stable_N), (1, candidate_N))]
        shape = (views, NUM_BUCKETS, NUM_SCORE_BINS)
        bins_AVKB = [_counted(place_N * NUM_SCORE_BINS + bin_N, rows.shown_N, shape) for _, bin_N in both_A]
        cell_N = (COARSE_K[bucket_N] * NUM_SCORE_BINS + both_A[0][1]) * NUM_SCORE_BINS + both_A[1][1]
        by_arm = [
            self._reliability(rows, score_N, np.full(rows.user_N.size, arm))
            for arm, score_N in ((0, stable_N), (1, candidate_N))
        ]
        return Pairs(
            pairs_VKP=np.moveaxis(pairs_PVK, 0, -1),
            score_bins_VAKB=np.stack(bins_AVKB, axis=1),
            score_pairs_CBB=_counted(cell_N, rows.shown_N, (NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS)),
            reliability_VACBR=by_arm[0] + by_arm[1],
        )

    def _reliability(self, rows: Rows, score_N: FloatArray, arm_N: IntArray) -> IntArray:
        shape = (len(self._by_view), len(Arm), NUM_COARSE_BUCKETS, NUM_SCORE_BINS)
        coarse_N = COARSE_K[self._bucket_U[rows.user_N]]
        place_N = np.ravel_multi_index((rows.view_N, arm_N, coarse_N, score_bin(score_N)), shape)
        columns = {
            ReliabilityMeasure.IMPRESSIONS: rows.shown_N,
            ReliabilityMeasure.SCORE: _total(score_N, rows.shown_N),
            ReliabilityMeasure.CLICK: rows.clicks_N,
        }
        return np.stack([_counted(place_N, columns[one], shape) for one in ReliabilityMeasure], axis=-1)

    def _summed(self, value_N: IntArray, rows: Rows, is_candidate_N: BoolArray) -> IntArray:
        shape = (len(self._by_view), len(Arm), NUM_BUCKETS)
        place_N = np.ravel_multi_index(
            (rows.view_N, is_candidate_N.astype(np.int64), self._bucket_U[rows.user_N]), shape
        )
        return _counted(place_N, value_N, shape)


def _odds(rows: Rows) -> FloatArray:
    mean_N = _clipped(rows.score_N / FIXED_POINT / rows.shown_N)
    return mean_N / (1 - mean_N)


def _chance(factor_N: FloatArray, odds_N: FloatArray) -> FloatArray:
    """That something happens where it did not, if it is to happen `factor` times as often."""
    return np.clip((factor_N - 1) * odds_N, 0.0, 1.0)


def _ratio(numerator_V: FloatArray, denominator_V: FloatArray) -> FloatArray:
    return np.divide(numerator_V, denominator_V, out=np.zeros_like(numerator_V), where=denominator_V > 0)


def _counted(place_N: IntArray, value_N: IntArray, shape: tuple[int, ...]) -> IntArray:
    """Exact: what one period adds to a cell stays below 2^53."""
    sums = np.bincount(place_N, weights=value_N.astype(np.float64), minlength=int(np.prod(shape)))
    return np.rint(sums).astype(np.int64).reshape(shape)


def _total(score_N: FloatArray, shown_N: IntArray) -> IntArray:
    return np.rint(score_N * shown_N * FIXED_POINT).astype(np.int64)


def _log_loss(score_N: FloatArray, clicks_N: IntArray, others_N: IntArray) -> IntArray:
    return fixed(-np.log(score_N)) * clicks_N + fixed(-np.log1p(-score_N)) * others_N


def _brier(score_N: FloatArray, clicks_N: IntArray, others_N: IntArray) -> IntArray:
    return fixed((1 - score_N) ** 2) * clicks_N + fixed(score_N**2) * others_N


def _clipped(score_N: FloatArray) -> FloatArray:
    return np.clip(score_N, SCORE_CLIP, 1 - SCORE_CLIP)
