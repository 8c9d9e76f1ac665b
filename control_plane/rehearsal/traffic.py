"""Simulated traffic with a known truth, in the judge's own sums: what a plan is rehearsed on.

Users come back at their own pace and like ads to a different degree; new ones enter; weekends are busier and click
less; labels come late and count only within the plan's attribution windows; novelty wears off for each user from the
day they were given the candidate. Scores know the user's taste, the weekend and (unless an effect is unforeseen) what
the candidate does to CTR: the stable model is perfectly calibrated to labels that come in time.

Letters: V view types, W waves, K buckets, J types of user (a taste with a score error); others as in `domain.moments`.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.events import Label
from control_plane.domain.moments import NUMERATOR_OF, Measure, Moments, Stratum
from control_plane.domain.plan import DAY, RolloutPlan
from control_plane.domain.split import FULL_TRAFFIC_BP, NUM_BUCKETS, Arm
from control_plane.rehearsal.audience import DAY_MS, Audience, Calendar, Effects, Faults
from control_plane.rehearsal.crowd import Crowd, Met, gamma
from control_plane.rehearsal.ledger import Cohort, Ledger, Pairs
from control_plane.rehearsal.losses import Losses
from control_plane.rehearsal.scores import fixed, pairs_of, reliability
from control_plane.rehearsal.truth import Tastes, Truth

IntArray = NDArray[np.int64]

SPARE_DAYS = 45  # of calendar beyond the plan's longest duration


class Traffic:
    """A surface under simulation: serve periods under weights, read the moments at any time.

    A period is cut where the day changes and where a label's window ends with the period, so that each piece matures
    as a whole; with periods of equal length labels mature at the very look at which they do in the log.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        audience: Audience,
        effects: Effects,
        faults: Faults | None = None,
        *,
        seed: int | np.random.SeedSequence,
        started_at_ms: int,
    ) -> None:
        self.audience, self.effects, self.faults = audience, effects, faults or Faults()
        self.now_ms = self._started_at_ms = started_at_ms
        self.losses = Losses()
        self._windows_ms = plan.windows_ms()
        self._in_time = audience.in_time(self._windows_ms)
        self._cap = plan.revenue_cap
        self._rng = np.random.default_rng(seed)
        days = round(plan.max_total_seconds / DAY) + SPARE_DAYS
        self._calendar = Calendar(audience, self.faults, started_at_ms=started_at_ms, days=days)
        self._share_V = np.array(list(audience.view_types.values()), dtype=np.float64)
        self._share_V /= self._share_V.sum()
        self._tastes = Tastes.drawn(audience, has_errors=any(effects.noises))
        self._crowd = Crowd(
            self._rng,
            audience,
            self.faults,
            days=days,
            type_share_J=self._tastes.share_J,
            has_waves=effects.has_novelty,
        )
        self._ledger = Ledger(tuple(audience.view_types), self._windows_ms)
        self._candidate_bp = 0
        self._before = self._serve_before(plan) if plan.judge.pre_period_days else None

    def serve(self, *, until_ms: int, generation: int, candidate_bp: int, shadow_bp: int = 0) -> None:
        """Let users come from now until `until_ms`; a period over midnight falls into two strata."""
        if candidate_bp != self._candidate_bp:
            self._crowd.assign(candidate_bp, clock=float(self._calendar.at(self.now_ms)), at_ms=self.now_ms)
            self._candidate_bp = candidate_bp
        for end_ms in self._ends(until_ms):
            stratum = Stratum(day=self.now_ms // DAY_MS, generation=generation, candidate_bp=candidate_bp)
            self._serve_piece(stratum, end_ms, shadow_bp / FULL_TRAFFIC_BP)
            self.now_ms = end_ms

    def moments(self) -> Moments:
        before_MGAK = None
        if self._before is not None:
            before_MGAK = self._before.by_arm(self._candidate_bp)
        return self._ledger.moments(as_of_ms=self.now_ms, users_A=self._crowd.users_A, before_MGAK=before_MGAK)

    def served(self, arm: Arm) -> int:
        """Impressions so far."""
        return self._ledger.impressions(arm)

    def shadowed(self) -> int:
        """Impressions that the candidate scored in the shadow so far."""
        return self._ledger.pairs()

    def _ends(self, until_ms: int) -> list[int]:
        gap = until_ms - self.now_ms
        if gap <= 0:
            return []
        ends = {until_ms - window % gap for window in self._windows_ms.values()} | {until_ms}
        ends |= set(self._calendar.edges_between(self.now_ms, until_ms))
        return sorted(end for end in ends if end > self.now_ms)

    def _serve_piece(self, stratum: Stratum, end_ms: int, shadow_share: float) -> None:
        start, end = (float(clock) for clock in self._calendar.at(np.array([self.now_ms, end_ms], dtype=np.float64)))
        if start == end:
            return
        at_ms = (self.now_ms + end_ms) // 2
        truth = Truth.of(
            self._tastes, self.audience, self.effects, self._in_time, joined_ms=self._crowd.joined_ms, at_ms=at_ms
        )
        met = self._crowd.meet(start, end)
        shown_VWKJ, clicks_VWKJ = self._impressions(met, truth)
        if not shown_VWKJ.any():
            return
        cohort = self._cohort(stratum, end_ms, truth, shown_VWKJ, clicks_VWKJ)
        if shadow_share:
            pairs = self._pairs(truth, shown_VWKJ[:, 0], clicks_VWKJ[:, 0], shadow_share)
            cohort = replace(cohort, pairs=pairs)
        self._account(truth, shown_VWKJ.sum(axis=2))
        self._ledger.add(cohort, drawn=met.drawn)

    def _account(self, truth: Truth, shown_VWJ: IntArray) -> None:
        candidate_VWJ = shown_VWJ[:, 1:]
        failed = self.faults.error_rate * float(candidate_VWJ.sum())
        is_worse = truth.is_worse_VWJ[:, 1:]
        self.losses.add(
            lost={name: float((loss[:, 1:] * candidate_VWJ).sum()) for name, loss in truth.lost.items()},
            at_stable={name: float((rate * shown_VWJ).sum()) for name, rate in truth.at_stable.items()},
            harmed=max(failed, float(candidate_VWJ[np.broadcast_to(is_worse, candidate_VWJ.shape)].sum())),
        )

    def _impressions(self, met: Met, truth: Truth) -> tuple[IntArray, IntArray]:
        """Impressions, and clicks in time on them, by view type and cell."""
        shape = (self._share_V.size, *met.rate_WKJ.shape)
        clicks, others = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        wave_N, bucket_N, type_N = np.nonzero(met.rate_WKJ)
        rate_VN = met.rate_WKJ[wave_N, bucket_N, type_N] * self._share_V[:, None]
        chance_VN = truth.click_VWJ[:, wave_N, type_N]
        clicks[:, wave_N, bucket_N, type_N] = self._rng.poisson(rate_VN * chance_VN)
        others[:, wave_N, bucket_N, type_N] = self._rng.poisson(rate_VN * (1 - chance_VN))
        view_F = self._rng.choice(self._share_V.size, p=self._share_V, size=met.cell_F.size)
        wave_F, bucket_F, type_F = np.unravel_index(met.cell_F, met.rate_WKJ.shape)
        is_click_F = self._rng.random(view_F.size) < truth.click_VWJ[view_F, wave_F, type_F]
        np.add.at(clicks, (view_F, wave_F, bucket_F, type_F), is_click_F)
        np.add.at(others, (view_F, wave_F, bucket_F, type_F), ~is_click_F)
        return clicks + others, clicks

    def _cohort(
        self, stratum: Stratum, end_ms: int, truth: Truth, shown_VWKJ: IntArray, clicks_VWKJ: IntArray
    ) -> Cohort:
        shown_VAK, clicks_VAK = _by_arm(shown_VWKJ.sum(axis=-1)), _by_arm(clicks_VWKJ.sum(axis=-1))
        score_VWKJ = shown_VWKJ * fixed(truth.score_VWJ)[:, :, None]
        arm_W = np.minimum(np.arange(shown_VWKJ.shape[1]), 1)
        return Cohort(
            stratum=stratum,
            end_ms=end_ms,
            impressions_VAK=shown_VAK,
            labels_VAK=self._labels(shown_VAK, clicks_VAK, truth),
            score_VAK=_by_arm(score_VWKJ.sum(axis=-1)),
            reliability_VACBR=reliability(shown_VWKJ, clicks_VWKJ, truth.score_VWJ, arm_W),
        )

    def _labels(self, shown_VAK: IntArray, clicks_VAK: IntArray, truth: Truth) -> dict[Label, IntArray]:
        return {
            Label.CLICK: clicks_VAK,
            Label.GOOD_CLICK: self._rng.binomial(clicks_VAK, truth.good_VA1),
            Label.HIDE: self._rng.binomial(shown_VAK, truth.hide_VA1),
            Label.REVENUE: self._revenue(clicks_VAK, truth),
        }

    def _revenue(self, clicks_VAK: IntArray, truth: Truth) -> IntArray:
        """One price a click, each rounded and winsorised on its own, as the log does it."""
        paid_VAK = self._rng.binomial(clicks_VAK, self._in_time[Label.REVENUE])
        cell_N = np.repeat(np.arange(paid_VAK.size), paid_VAK.ravel())
        factor_N = np.broadcast_to(truth.price_VA1, paid_VAK.shape).ravel()[cell_N]
        price_N = gamma(self._rng, self.audience.revenue_spread, cell_N.size) * factor_N
        value_N = fixed(np.minimum(price_N, self._cap)).astype(np.float64)
        return np.rint(np.bincount(cell_N, value_N, paid_VAK.size)).astype(np.int64).reshape(paid_VAK.shape)

    def _pairs(self, truth: Truth, shown_VKJ: IntArray, clicks_VKJ: IntArray, share: float) -> Pairs:
        if share < 1:
            others_VKJ = self._rng.binomial(shown_VKJ - clicks_VKJ, share)
            clicks_VKJ = self._rng.binomial(clicks_VKJ, share)
            shown_VKJ = clicks_VKJ + others_VKJ
        return pairs_of(truth.score_VWJ[:, 0], truth.shadow_score_VJ, shown_VKJ, clicks_VKJ)

    def _serve_before(self, plan: RolloutPlan) -> "_Before":
        """The days before the start, when stable served everyone, kept by the slots that the steps will move."""
        edges = np.array([0, *(step.share_bp for step in plan.steps)])
        crowd, slices = self._crowd, len(edges) - 1
        is_there = crowd.entry_U == 0
        slice_U = np.searchsorted(edges, crowd.slot_U[is_there], side="right") - 1
        cell_U = (slice_U * NUM_BUCKETS + crowd.bucket_U[is_there]) * crowd.num_types + crowd.type_U[is_there]
        shape = (slices, NUM_BUCKETS, crowd.num_types)
        rate = np.bincount(cell_U, crowd.activity_U[is_there] * plan.judge.pre_period_days, int(np.prod(shape)))
        truth = Truth.of(
            self._tastes, self.audience, Effects(), self._in_time, joined_ms=[0] * slices, at_ms=self._started_at_ms
        )
        nobody = np.zeros(0, dtype=np.int64)
        met = Met(rate_WKJ=rate.astype(np.float64).reshape(shape), cell_F=nobody, drawn=Counter())
        shown_VIKJ, clicks_VIKJ = self._impressions(met, truth)
        shown_VIK = shown_VIKJ.sum(axis=-1)
        labels = self._labels(shown_VIK, clicks_VIKJ.sum(axis=-1), truth.of_stable_alone())
        columns = dict.fromkeys(Measure, shown_VIK) | {NUMERATOR_OF[label]: found for label, found in labels.items()}
        columns[Measure.SCORE] = (shown_VIKJ * fixed(truth.score_VWJ)[:, :, None]).sum(axis=-1)
        return _Before(edges_bp=edges, sums_MVIK=np.stack([columns[measure] for measure in Measure]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Before:
    """Sums of the pre-period by slices of slots (I), whose edges are the plan's steps."""

    edges_bp: IntArray
    sums_MVIK: IntArray

    def by_arm(self, candidate_bp: int) -> IntArray:
        is_candidate_I = self.edges_bp[1:] <= candidate_bp
        arms = [self.sums_MVIK[:, :, is_arm_I].sum(axis=2) for is_arm_I in (~is_candidate_I, is_candidate_I)]
        sums_MVAK = np.stack(arms, axis=2)
        return np.concatenate([sums_MVAK.sum(axis=1, keepdims=True), sums_MVAK], axis=1)


def _by_arm(sums_VWK: IntArray) -> IntArray:
    return np.stack([sums_VWK[:, 0], sums_VWK[:, 1:].sum(axis=1)], axis=1)
