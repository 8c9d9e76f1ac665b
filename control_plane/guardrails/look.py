"""One look at one rollout: what plan, stage and moments say together, before any hypothesis is judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from control_plane.domain.events import Label
from control_plane.domain.moments import MATURED_OF, Measure, Moments
from control_plane.domain.plan import GuardrailPlan, RolloutPlan
from control_plane.domain.rollout import Stage
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import BoolArray, Comparison, FloatArray, IntArray, divide

DAY_MS = 86_400_000
LONGEST_WAIT_SECONDS = 10 * 365 * 86_400.0  # beyond it "about when" means nothing
NUM_WAITS = 14
ZOOMS = 3  # each time between two of the waits before: in the end 1 % apart, finer than any rate is known
LOG_WAITS_W = np.linspace(0.0, math.log(LONGEST_WAIT_SECONDS), NUM_WAITS)
PARTS_W = np.linspace(0.0, 1.0, NUM_WAITS)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Letters of the shapes as in `domain.moments`."""

    plan: RolloutPlan
    stage: Stage
    moments: Moments

    @cached_property
    def seconds_in_stage(self) -> float:
        return max(0.0, (self.moments.as_of_ms - self.stage.entered_at_ms) / 1_000)

    @cached_property
    def seconds_since_start(self) -> float:
        return max(0.0, (self.moments.as_of_ms - self.stage.started_at_ms) / 1_000)

    @cached_property
    def seconds_under_weight(self) -> float:
        """How long the present weight has been gathering evidence.

        That is the time in the stage, but where a person held the rollout and resumed it: the stage's time then began
        anew, its evidence did not. Of when it did, strata tell the day; noon of it is near enough for a forecast.
        """
        days = [stratum.day for stratum in self.moments.strata if stratum.generation >= self.stage.stage_generation]
        first_day_ms = min(days, default=0) * DAY_MS
        if not days or self.stage.entered_at_ms < first_day_ms + DAY_MS:
            return self.seconds_in_stage
        began_ms = max(first_day_ms + DAY_MS // 2, self.stage.started_at_ms)
        return max(0.0, (self.moments.as_of_ms - began_ms) / 1_000)

    def maturing_seconds(self, label: Label) -> float:
        """How long the present weight's impressions have been maturing for a label; 0 before the first has."""
        return max(0.0, self.seconds_under_weight - self.windows_ms[label] / 1_000)

    @cached_property
    def in_present_stage(self) -> BoolArray:
        """Strata that the present weight served: earlier generations are not this stage's evidence."""
        return np.array([s.generation >= self.stage.stage_generation for s in self.moments.strata], dtype=np.bool_)

    def comparison(self, label: Label) -> Comparison:
        """Both arms' impressions that have matured for a label; labels of one window share them."""
        window = self.windows_ms[label]
        if window not in self._comparisons:
            self._comparisons[window] = Comparison(self.moments.cells_of(MATURED_OF[label]))
        return self._comparisons[window]

    def shared(self, label: Label) -> "Shared":
        """What both arms have in common strata, among impressions that have matured for a label."""
        window = self.windows_ms[label]
        if window not in self._shared:
            overlap_GS = self.comparison(label).overlap_HS
            totals_MGSA = self.totals_MGSA * (overlap_GS > 0)[:, :, None]
            self._shared[window] = Shared(
                totals_MGSA=totals_MGSA,
                totals_MGA=totals_MGSA.sum(axis=2),
                in_stage_MGA=totals_MGSA[:, :, self.in_present_stage].sum(axis=2),
                stage_part_G=divide(overlap_GS[:, self.in_present_stage].sum(axis=1), overlap_GS.sum(axis=1)),
            )
        return self._shared[window]

    @cached_property
    def windows_ms(self) -> dict[Label, int]:
        return self.plan.windows_ms()

    @cached_property
    def _shared(self) -> "dict[int, Shared]":
        return {}

    @cached_property
    def _comparisons(self) -> dict[int, Comparison]:
        return {}

    @cached_property
    def is_feed_stale(self) -> bool:
        """No exposure of the surface for longer than the plan allows, or since the stage's start before any came."""
        newest = self.moments.newest_event_ms
        return self.is_old(newest if newest is not None else self.stage.entered_at_ms)

    def is_old(self, at_ms: int) -> bool:
        return self.moments.as_of_ms - at_ms > self.plan.judge.stale_intervals * self.plan.check_seconds * 1_000

    @cached_property
    def weights(self) -> "Weights":
        return weights_of(self.plan, num_view_types=len(self.moments.segments) - 1)

    @cached_property
    def totals_MGSA(self) -> IntArray:
        """Every measure over all user buckets."""
        counts_MGSA = self.moments.counts_MGSAK.sum(axis=-1, dtype=np.int64)
        return np.concatenate([counts_MGSA, self.moments.values_MGSAK.sum(axis=-1)])

    @cached_property
    def totals_MGA(self) -> IntArray:
        """Every measure over all strata."""
        return np.asarray(self.totals_MGSA.sum(axis=2))

    @cached_property
    def totals_MG(self) -> FloatArray:
        """Every measure over both arms."""
        return np.asarray(self.totals_MGA.sum(axis=2), dtype=np.float64)

    @cached_property
    def in_stage_MGA(self) -> IntArray:
        """Every measure over the strata of the present stage."""
        return np.asarray(self.totals_MGSA[:, :, self.in_present_stage].sum(axis=2))

    def expected_by_end(self, measure: Measure, matured: Measure) -> FloatArray:
        """Conversions that the candidate would have by the stage's longest duration at stable's rates."""
        stable_G, candidate_G = self.totals_MGA[matured].T
        rate_G = divide(self.totals_MGA[measure, :, Arm.STABLE].astype(np.float64), stable_G.astype(np.float64))
        pace_G = (stable_G + candidate_G) / max(self.seconds_since_start, 1.0)
        left = max(0.0, self.plan.max_stage_seconds - self.seconds_in_stage)
        coming_G = pace_G * left * self.stage.share_bp / FULL_TRAFFIC_BP
        return np.asarray(rate_G * (candidate_G + coming_G))

    @cached_property
    def requires_clicks(self) -> BoolArray:
        """View types whose clicks will suffice to be judged on their own; the surface always is."""
        return self.requires(Measure.CLICK, Measure.MATURED_CLICK)

    def requires(self, measure: Measure, matured: Measure) -> BoolArray:
        is_required_G = self.expected_by_end(measure, matured) >= self.plan.judge.min_conversions
        is_required_G[0] = True
        return is_required_G

    def traffic_share(self, matured: Measure) -> FloatArray:
        """Each segment's part of the surface's matured impressions, 1 where there are none yet."""
        impressions_G = self.totals_MG[matured]
        return np.where(impressions_G > 0, impressions_G / max(impressions_G[0], 1.0), 1.0)

    def margin(self, guardrail: GuardrailPlan, segment_share: float) -> float:
        """What must be shown safe before the next step: wide while little is at risk, never below the floor.

        share × margin bounds the engagement lost, so the loss budget over both is the margin; a view type puts
        only its part of the surface at risk.
        """
        at_risk = self.stage.next_share_bp / FULL_TRAFFIC_BP * segment_share
        budgeted = min(self.plan.judge.loss_budget / max(at_risk, 1e-9), self.plan.judge.max_stage_margin)
        return max(guardrail.safe_margin, budgeted)

    def pace(self, stage_part: float, label: Label = Label.CLICK) -> float:
        """Of information: what a second adds, relative to all so far; `stage_part` of it came under this weight."""
        seconds = self.maturing_seconds(label)
        return stage_part / seconds if seconds > 0 else 0.0

    def seconds_until_count(
        self, have: float, in_stage: float, wanted: float, label: Label = Label.CLICK
    ) -> float | None:
        """When a count of what has matured for a label reaches what is wanted, at the present weight's pace."""
        seconds = self.maturing_seconds(label)
        if in_stage <= 0 or seconds <= 0:
            return None
        return min(max(0.0, (wanted - have) / in_stage * seconds), LONGEST_WAIT_SECONDS)


def seconds_until(
    excess: Callable[[FloatArray], FloatArray], se_H: FloatArray, pace_H: FloatArray
) -> list[float | None]:
    """When `excess` will no longer be negative, if information goes on growing at `Look.pace`.

    `excess` is a rising function of information: it takes standard errors and gives its values, (H, W) both.
    None if never or unknown.
    """
    is_known_H = np.isfinite(se_H) & (pace_H > 0)
    if not is_known_H.any():
        return [None] * len(se_H)
    log_wait_HW = np.broadcast_to(LOG_WAITS_W, (len(se_H), NUM_WAITS))
    for _ in range(ZOOMS):
        excess_HW = excess(se_H[:, None] / np.sqrt(1.0 + pace_H[:, None] * np.exp(log_wait_HW)))
        is_past_HW = excess_HW >= 0
        place_H = np.maximum(np.argmax(is_past_HW, axis=1) - 1, 0)
        is_known_H &= is_past_HW.any(axis=1)
        start_H1 = np.take_along_axis(log_wait_HW, place_H[:, None], axis=1)
        step_H1 = np.take_along_axis(log_wait_HW, place_H[:, None] + 1, axis=1) - start_H1
        log_wait_HW = start_H1 + step_H1 * PARTS_W
    wait_H = np.exp(start_H1[:, 0])
    return [wait if known else None for wait, known in zip(wait_H.tolist(), is_known_H.tolist(), strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shared:
    """Sums over the strata that both arms live in; `stage_part_G` of the comparable impressions came in this stage."""

    totals_MGSA: IntArray
    totals_MGA: IntArray
    in_stage_MGA: IntArray
    stage_part_G: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Of one hypothesis in the rollback mean; all hypotheses of a plan together weigh 1."""

    surface: float
    rest: float


def weights_of(plan: RolloutPlan, *, num_view_types: int) -> Weights:
    """Half on the surface's engagement and calibration, half spread over view types, the shadow's entropy and serving.

    A function of the plan and the surface's view types alone, never of data: that keeps the mean an e-process.
    """
    kinds = sum(guardrail.role.rolls_back for guardrail in plan.guardrails) + plan.calibration.role.rolls_back
    others = 1 + sum(entry.weighs for entry in plan.operational)  # the shadow's entropy, and rates of the serving
    return Weights(surface=0.5 / max(kinds, 1), rest=0.5 / (kinds * num_view_types + others))
