"""One look at one rollout: what plan, stage and moments say together, before any hypothesis is judged."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from control_plane.domain.events import Label
from control_plane.domain.moments import MATURED_OF, NUM_COUNTS, NUMERATOR_OF, Measure, Moments
from control_plane.domain.plan import LABEL_OF, GuardrailPlan, Metric, RolloutPlan
from control_plane.domain.rollout import Stage
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import BoolArray, Comparison, FloatArray, IntArray, LogRatios, divide, log_ratios
from control_plane.guardrails.variance_reduction import adjusted
from control_plane.guardrails.waiting import LONGEST_WAIT_SECONDS

DAY_MS = 86_400_000


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

    def sum_up(self) -> None:
        """Read what is large once, while it still lies in the processor's cache; what is asked later is remembered."""
        _ = self.totals_MG, self.in_stage_MGA, self.ratios, self.weighted_scores, self.weighted_clicks
        for measure in (Measure.MATURED_CLICK, Measure.SCORE, Measure.CLICK):
            self.candidate_by_bucket(measure)

    def candidate_by_bucket(self, measure: Measure) -> IntArray:
        """What the candidate served, per segment and user bucket: (G, K)."""
        if measure not in self._candidate_by_bucket:
            candidate_GSK = self.moments.cells_of(measure)[:, :, Arm.CANDIDATE]
            self._candidate_by_bucket[measure] = candidate_GSK.sum(axis=1, dtype=np.int64)
        return self._candidate_by_bucket[measure]

    @cached_property
    def weighted_scores(self) -> tuple[FloatArray, FloatArray]:
        """The surface's candidate and stable scores, comparable over strata: see `Comparison.of_surface`."""
        return self.comparison(Label.CLICK).of_surface(self.moments.cells_of(Measure.SCORE))

    @cached_property
    def weighted_clicks(self) -> tuple[FloatArray, FloatArray]:
        """The same of clicks."""
        return self.comparison(Label.CLICK).of_surface(self.moments.cells_of(Measure.CLICK))

    @cached_property
    def ratios(self) -> list[LogRatios]:
        """Every guardrail's, per segment. What is counted over the same impressions is computed together."""
        found: dict[Metric, LogRatios] = {}
        together: dict[int, list[GuardrailPlan]] = {}
        for guardrail in self.plan.guardrails:
            together.setdefault(self.windows_ms[LABEL_OF[guardrail.metric]], []).append(guardrail)
        for guardrails in together.values():
            labels = [LABEL_OF[guardrail.metric] for guardrail in guardrails]
            unit_QG = np.array([self.conversion_size(guardrail) for guardrail in guardrails])
            numerators = [self.moments.cells_of(NUMERATOR_OF[label]) for label in labels]
            ratios = self.comparison(labels[0]).all_log_ratios(numerators, unit_QG)
            for guardrail, label, ratio, unit_G in zip(guardrails, labels, ratios, unit_QG, strict=True):
                found[guardrail.metric] = self._without_the_past(label, ratio, unit_G)
        return [found[guardrail.metric] for guardrail in self.plan.guardrails]

    def conversion_size(self, guardrail: GuardrailPlan) -> FloatArray:
        """What one conversion adds to the numerator, per segment: 1, or the mean revenue of a click."""
        if guardrail.metric is not Metric.REVENUE_PER_IMPRESSION:
            return np.ones(len(self.moments.segments))
        return np.asarray(self.totals_MG[Measure.REVENUE] / np.maximum(self.totals_MG[Measure.CLICK], 1.0))

    def _without_the_past(self, label: Label, ratios: LogRatios, unit_G: FloatArray) -> LogRatios:
        """Where the plan asks for it, without what the same users' days before the rollout predict (CUPED)."""
        before_MGAK = self.moments.before_MGAK
        if before_MGAK is None:
            return ratios
        numerator_GAK = before_MGAK[NUMERATOR_OF[label]]
        before = log_ratios(numerator_GAK[:, None], before_MGAK[MATURED_OF[label]][:, None], unit_G)
        fewer_G = numerator_GAK.sum(axis=2).min(axis=1)  # of either arm, so that arms may be exchanged
        has_enough_G = fewer_G >= self.plan.judge.min_expected_conversions * unit_G
        found = adjusted(
            ratios.theta_HJ,
            ratios.se_H,
            ratios.has_data_HK,
            before.theta_HJ,
            before.has_data_HK & has_enough_G[:, None],
            min_buckets=self.plan.judge.min_buckets,
        )
        buckets_H = ratios.buckets_H - found.is_adjusted_H  # a fitted slope costs a degree of freedom
        return replace(ratios, theta_H=found.theta_H, se_H=found.se_H, buckets_H=buckets_H)

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
    def _candidate_by_bucket(self) -> dict[Measure, IntArray]:
        return {}

    @cached_property
    def _expected_by_end(self) -> dict[Measure, FloatArray]:
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
        counts, values = self.moments.counts_MGSAK, self.moments.values_MGSAK
        found = np.empty((len(Measure), *counts.shape[1:-1]), dtype=np.int64)
        fits = not counts.size or int(counts.max()) * counts.shape[-1] <= np.iinfo(np.int32).max
        found[:NUM_COUNTS] = counts.sum(axis=-1, dtype=np.int32 if fits else np.int64)  # half the time where it fits
        values.sum(axis=-1, out=found[NUM_COUNTS:])
        return found

    @cached_property
    def totals_MGA(self) -> IntArray:
        """Every measure over all strata."""
        return np.asarray(self.totals_MGSA.sum(axis=2))

    @cached_property
    def totals_MG(self) -> FloatArray:
        """Every measure over both arms."""
        return np.asarray(self.totals_MGA.sum(axis=2), dtype=np.float64)

    @cached_property
    def pair_totals_GP(self) -> list[list[int]]:
        """What the shadow's pairs come to, per segment and `PairMeasure`."""
        totals: list[list[int]] = self.moments.pairs_GKP.sum(axis=1).tolist()
        return totals

    @cached_property
    def in_stage_MGA(self) -> IntArray:
        """Every measure over the strata of the present stage."""
        return np.asarray(self.totals_MGSA[:, :, self.in_present_stage].sum(axis=2))

    def expected_by_end(self, measure: Measure, matured: Measure) -> FloatArray:
        """Conversions that the candidate would have by the stage's longest duration at stable's rates."""
        if measure not in self._expected_by_end:
            stable_G, candidate_G = self.totals_MGA[matured].T
            rate_G = divide(self.totals_MGA[measure, :, Arm.STABLE].astype(np.float64), stable_G.astype(np.float64))
            pace_G = (stable_G + candidate_G) / max(self.seconds_since_start, 1.0)
            left = max(0.0, self.plan.longest_stage_seconds(self.stage.step) - self.seconds_in_stage)
            coming_G = pace_G * left * self.stage.share_bp / FULL_TRAFFIC_BP
            self._expected_by_end[measure] = rate_G * (candidate_G + coming_G)
        return self._expected_by_end[measure]

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
