"""Impressions and conversions behind one guardrail's estimates: is there enough of them to be judged?"""

from dataclasses import dataclass

import numpy as np

from control_plane.domain.events import Label
from control_plane.domain.moments import FIXED_POINT, MATURED_OF, NUMERATOR_OF, Measure
from control_plane.domain.plan import LABEL_OF, GuardrailPlan, JudgePlan, Metric
from control_plane.domain.split import Arm
from control_plane.guardrails.estimate import FloatArray, IntArray, LogRatios, divide, effective_count
from control_plane.guardrails.look import Look

CONVERSION_NAMES = {
    Metric.CTR: "clicks",
    Metric.GOOD_CLICK_RATE: "good clicks",
    Metric.HIDE_RATE: "hides",
    Metric.REVENUE_PER_IMPRESSION: "clicks",  # revenue has no count of its own; the clicks it follows stand in
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversions:
    """One segment's, over the strata that both arms live in; tuples by arm.

    Attributes:
        expected: the candidate's conversions at stable's rates.
        payers: how many equal payers each arm's revenue is worth; infinite for metrics that count.
        stage_part: the part of the comparable impressions that came in the present stage.
        value: clicks, hides, … or revenue in currency units, as shown to people.
    """

    label: Label
    name: str
    matured: tuple[int, int]
    conversions: tuple[int, int]
    in_stage: tuple[int, int]
    value: tuple[float, float]
    expected: float
    buckets: int
    payers: tuple[float, float]
    stage_part: float

    @property
    def has_data(self) -> bool:
        return min(self.matured) > 0

    def judges_harm(self, plan: JudgePlan) -> bool:
        """Gated on what stable's rates promise, never on the candidate's own: a dead candidate must not hide."""
        is_expected = self.expected >= plan.min_expected_conversions
        return is_expected and self.buckets >= plan.min_buckets <= self.payers[Arm.STABLE]

    def gap(self, plan: JudgePlan) -> str:
        """What is missing before safety may be judged, in words; empty if nothing is."""
        for arm in (Arm.CANDIDATE, Arm.STABLE):
            if self.conversions[arm] < plan.min_conversions:
                return f"{self.conversions[arm]} of {plan.min_conversions} matured {self.name} on {arm.name.lower()}"
        if self.buckets < plan.min_buckets:
            return f"users in {self.buckets} of {plan.min_buckets} buckets"
        if min(self.payers) < plan.min_buckets:
            return f"revenue worth {min(self.payers):.0f} of {plan.min_buckets} equal payers"
        if self.expected < plan.min_expected_conversions:
            return f"{self.expected:.0f} of {plan.min_expected_conversions:g} expected {self.name}"
        return ""

    def seconds_until_enough(self, look: Look) -> float | None:
        """When both arms have the conversions the plan asks for; None if that cannot be told."""
        wanted = look.plan.judge.min_conversions
        waits = [
            look.seconds_until_count(have, in_stage, wanted, self.label)
            for have, in_stage in zip(self.conversions, self.in_stage, strict=True)
            if have < wanted
        ]
        known = [wait for wait in waits if wait is not None]
        return max(known) if known and len(known) == len(waits) else None


def conversion_of(metric: Metric) -> Measure:
    return Measure.CLICK if metric is Metric.REVENUE_PER_IMPRESSION else NUMERATOR_OF[LABEL_OF[metric]]


def conversions_of(look: Look, guardrail: GuardrailPlan, ratios: LogRatios) -> list[Conversions]:
    """Per segment; `ratios` are the guardrail's over all strata."""
    label, counted = LABEL_OF[guardrail.metric], conversion_of(guardrail.metric)
    is_revenue = guardrail.metric is Metric.REVENUE_PER_IMPRESSION
    shared = look.shared(label)
    value_GA = shared.totals_MGA[NUMERATOR_OF[label]] / (FIXED_POINT if is_revenue else 1)
    expected_G = _expected_clicks(shared.totals_MGSA) if is_revenue else ratios.expected_H
    payers_GA = np.full(value_GA.shape, np.inf)
    if is_revenue:
        payers_GA = effective_count(look.moments.cells_of(Measure.REVENUE).sum(axis=1))
    columns = zip(
        shared.totals_MGA[MATURED_OF[label]].tolist(),
        shared.totals_MGA[counted].tolist(),
        shared.in_stage_MGA[counted].tolist(),
        value_GA.tolist(),
        expected_G.tolist(),
        ratios.buckets_H.tolist(),
        payers_GA.tolist(),
        shared.stage_part_G.tolist(),
        strict=True,
    )
    return [
        Conversions(
            label=label,
            name=CONVERSION_NAMES[guardrail.metric],
            matured=tuple(matured),
            conversions=tuple(conversions),
            in_stage=tuple(in_stage),
            value=tuple(value),
            expected=expected,
            buckets=buckets,
            payers=tuple(payers),
            stage_part=stage_part,
        )
        for matured, conversions, in_stage, value, expected, buckets, payers, stage_part in columns
    ]


def _expected_clicks(shared_MGSA: IntArray) -> FloatArray:
    shared = shared_MGSA.astype(np.float64)
    rate_GS = divide(shared[Measure.CLICK, :, :, Arm.STABLE], shared[Measure.MATURED_CLICK, :, :, Arm.STABLE])
    return np.asarray((rate_GS * shared[Measure.MATURED_CLICK, :, :, Arm.CANDIDATE]).sum(axis=1))
