"""One look at one rollout: what plan, stage and moments say together, before any hypothesis is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from control_plane.domain.moments import Measure, Moments
from control_plane.domain.plan import GuardrailPlan, Role, RolloutPlan
from control_plane.domain.rollout import Stage
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray, divide

LONGEST_WAIT_SECONDS = 10 * 365 * 86_400.0  # beyond it "about when" means nothing
WAITS_W = np.geomspace(1.0, LONGEST_WAIT_SECONDS, 500)  # 4 % apart: finer than any rate is known


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
    def in_present_stage(self) -> BoolArray:
        """Strata that the present weight served: earlier generations are not this stage's evidence."""
        return np.array([s.generation >= self.stage.stage_generation for s in self.moments.strata], dtype=np.bool_)

    @cached_property
    def weights(self) -> "Weights":
        return weights_of(self.plan, num_view_types=len(self.moments.segments) - 1)

    @cached_property
    def totals_MGSA(self) -> IntArray:
        """Every measure over all user buckets."""
        counts_MGSA = self.moments.counts_MGSAK.sum(axis=-1, dtype=np.int64)
        return np.concatenate([counts_MGSA, self.moments.values_MGSAK.sum(axis=-1)])

    @cached_property
    def in_stage_MGA(self) -> IntArray:
        """Every measure over the strata of the present stage."""
        return np.asarray(self.totals_MGSA[:, :, self.in_present_stage].sum(axis=2))

    def expected_by_end(self, measure: Measure, matured: Measure) -> FloatArray:
        """Conversions that the candidate would have by the stage's longest duration at stable's rates."""
        sums_MGA = self.totals_MGSA[[measure, matured]].sum(axis=2).astype(np.float64)
        stable_G, candidate_G = sums_MGA[1, :, Arm.STABLE], sums_MGA[1, :, Arm.CANDIDATE]
        rate_G = divide(sums_MGA[0, :, Arm.STABLE], stable_G)
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
        impressions_G = self.totals_MGSA[matured].sum(axis=(1, 2)).astype(np.float64)
        return np.where(impressions_G > 0, impressions_G / max(impressions_G[0], 1.0), 1.0)

    def margin(self, guardrail: GuardrailPlan, segment_share: float) -> float:
        """What must be shown safe before the next step: wide while little is at risk, never below the floor.

        share × margin bounds the engagement lost, so the loss budget over both is the margin; a view type puts
        only its part of the surface at risk.
        """
        at_risk = self.stage.next_share_bp / FULL_TRAFFIC_BP * segment_share
        budgeted = min(self.plan.judge.loss_budget / max(at_risk, 1e-9), self.plan.judge.max_stage_margin)
        return max(guardrail.safe_margin, budgeted)

    def seconds_until(self, holds: Callable[[FloatArray], BoolArray], se: float, stage_part: float) -> float | None:
        """When `holds` will be true of the standard error, if information goes on growing as in this stage.

        `stage_part` is the part of the information gathered so far that this stage gathered. None if never or unknown.
        """
        if not (np.isfinite(se) and stage_part > 0 and self.seconds_in_stage > 0):
            return None
        information = se**-2.0
        per_second = information * stage_part / self.seconds_in_stage
        is_true_W = holds(1.0 / np.sqrt(information + per_second * WAITS_W))
        return float(WAITS_W[np.argmax(is_true_W)]) if is_true_W.any() else None

    def seconds_until_count(self, have: float, in_stage: float, wanted: float) -> float | None:
        """When a count reaches what is wanted at this stage's pace."""
        if in_stage <= 0 or self.seconds_in_stage <= 0:
            return None
        return min(max(0.0, (wanted - have) / in_stage * self.seconds_in_stage), LONGEST_WAIT_SECONDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Of one hypothesis in the rollback mean; all hypotheses of a plan together weigh 1."""

    surface: float
    rest: float


def weights_of(plan: RolloutPlan, *, num_view_types: int) -> Weights:
    """Half on the surface's engagement and calibration, half spread over view types and the shadow's entropy.

    A function of the plan and the surface's view types alone, never of data: that keeps the mean an e-process.
    """
    kinds = sum(guardrail.role is not Role.MONITOR for guardrail in plan.guardrails)
    kinds += plan.calibration.role is not Role.MONITOR
    return Weights(surface=0.5 / kinds, rest=0.5 / (kinds * num_view_types + 1))
