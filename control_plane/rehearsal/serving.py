"""What runtimes and other systems would report in a rehearsal: all is well, but for the faults that are rehearsed."""

import math

from control_plane.domain.latency import NUM_LATENCY_BINS
from control_plane.domain.moments import FIXED_POINT, Health, ServingCounts
from control_plane.domain.plan import ExternalPlan, OperationalMetric, RolloutPlan
from control_plane.domain.readings import Reading, ReadingOutcome

IMPRESSIONS_PER_REQUEST = 5
REQUESTS_PER_CALL = 8
MOST_DISTINCT_SCORES = 1_024
FEATURES = 100


def health(plan: RolloutPlan, *, scored_stable: int, scored_candidate: int, error_rate: float) -> Health:
    """One sound runtime; the candidate fails the given share of its requests."""
    return Health(
        stable=_counts(plan, scored_stable, 0.0),
        candidate=_counts(plan, scored_candidate, error_rate),
        live_runtimes=1,
        acknowledged_runtimes=1,
    )


def readings(plan: RolloutPlan, *, at_ms: int) -> tuple[Reading, ...]:
    """Every external metric of the plan, within its limits."""
    return tuple(
        Reading(
            name=entry.name,
            outcome=ReadingOutcome.VALUE,
            value=_within(entry),
            sampled_at_ms=at_ms,
            query="rehearsed as within its limits",
        )
        for entry in plan.external
    )


def _counts(plan: RolloutPlan, scored: int, error_rate: float) -> ServingCounts:
    requests = -(-scored // IMPRESSIONS_PER_REQUEST)
    calls = -(-requests // REQUESTS_PER_CALL)
    errors = round(requests * error_rate)
    return ServingCounts(
        requests=requests,
        errors=errors,
        scores=scored,
        distinct_scores=min(scored, MOST_DISTINCT_SCORES),
        calls=calls,
        error_shares=round(calls * FIXED_POINT * error_rate),
        batches=calls,
        latency_bins=(calls, *[0] * (NUM_LATENCY_BINS - 1)),
        latency_us=calls * 100,
        rows=requests * _dedup_ratio(plan),
        users_encoded=requests,
        gate_samples=calls,
        gate_entropy=calls * FIXED_POINT,
        feature_samples=calls,
        features=FEATURES,
    )


def _dedup_ratio(plan: RolloutPlan) -> int:
    limits = [entry.limit for entry in plan.operational if entry.metric is OperationalMetric.DEDUP_RATIO]
    return math.ceil(max([float(IMPRESSIONS_PER_REQUEST), *limits]))


def _within(entry: ExternalPlan) -> float:
    if entry.at_least is not None and entry.at_most is not None:
        return (entry.at_least + entry.at_most) / 2
    return entry.at_most if entry.at_most is not None else entry.at_least or 0.0
