"""Hard stops: what ends a rollout without statistics, since no sound candidate does it."""

from collections.abc import Iterator
from dataclasses import dataclass

from control_plane.domain.moments import FIXED_POINT, Health, Measure, PairMeasure
from control_plane.domain.plan import HardStops
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.domain.verdict import percent
from control_plane.guardrails.look import Look

MIN_EXPECTED_IDLE = 20.0  # impressions the candidate should have had: fewer can fail to come by chance


@dataclass(frozen=True, kw_only=True, slots=True)
class HardStop:
    """`culprit` is "metric/segment", as among the findings."""

    culprit: str
    reason: str


def serving_stops(look: Look, health: Health) -> Iterator[HardStop]:
    """Errors and impossible scores, in the shadow as in the ramp.

    A budget of `min_requests` requests already overdrawn is overdrawn for good: a candidate that fails every
    request is not given a thousand of them.
    """
    stops, counts = look.plan.hard_stops, health.candidate
    failed = counts.errors + counts.timeouts
    if failed > stops.max_error_rate * max(counts.requests, stops.min_requests):
        reason = f"{failed} of the candidate's {counts.requests} requests failed, over the budget of "
        yield HardStop(culprit="errors/*", reason=reason + percent(stops.max_error_rate, signed=False))
    if counts.bad_scores > stops.max_bad_score_rate * max(counts.scores, stops.min_requests):
        reason = f"{counts.bad_scores} of the candidate's {counts.scores} scores are NaN, infinite or outside 0 to 1"
        yield HardStop(culprit="bad_scores/*", reason=reason)
    if counts.distinct_scores == 1 and counts.scores - counts.bad_scores >= stops.min_requests:
        yield HardStop(culprit="constant_scores/*", reason=f"all {counts.scores} scores of the candidate are the same")


def shadow_calibration_stop(look: Look) -> Iterator[HardStop]:
    pairs_P = look.pair_totals_GP[0]
    yield from _calibration_stop(
        look.plan.hard_stops, pairs_P[PairMeasure.SCORE_CANDIDATE] / FIXED_POINT, pairs_P[PairMeasure.CLICK]
    )


def served_calibration_stop(look: Look) -> Iterator[HardStop]:
    sums_M = look.totals_MGSA[:, 0, :, Arm.CANDIDATE].sum(axis=1).tolist()
    yield from _calibration_stop(look.plan.hard_stops, sums_M[Measure.SCORE] / FIXED_POINT, sums_M[Measure.CLICK])


def idle_stop(look: Look) -> Iterator[HardStop]:
    """The candidate has weight and the surface has traffic, yet nothing reaches the candidate."""
    moments, stage = look.moments, look.stage
    patience = look.plan.hard_stops.idle_intervals * look.plan.check_seconds
    candidate_at = max(moments.candidate_newest_ms or 0, stage.entered_at_ms)
    idle_seconds = (moments.as_of_ms - candidate_at) / 1_000
    if not stage.share_bp or idle_seconds <= patience or look.is_feed_stale:
        return
    share = stage.share_bp / FULL_TRAFFIC_BP
    impressions = int(look.in_stage_MGA[Measure.IMPRESSIONS, 0].sum())
    missed = impressions * share * idle_seconds / max(look.seconds_under_weight, 1.0)
    if missed >= MIN_EXPECTED_IDLE:
        reason = (
            f"no traffic reached the candidate for {idle_seconds:.0f} s, though about {missed:.0f} impressions were"
        )
        yield HardStop(culprit="idle/*", reason=f"{reason} due at {percent(share, signed=False)}")


def is_shadow_stale(look: Look) -> bool:
    """Stable serves, but the shadow has stopped scoring."""
    newest = look.moments.candidate_newest_ms
    return newest is not None and look.is_old(max(newest, look.stage.entered_at_ms))


def stage_impressions(look: Look) -> int:
    """Matured impressions that the candidate served under the present weight."""
    return _in_stage(look, Measure.MATURED_CLICK)


def stage_clicks(look: Look) -> int:
    return _in_stage(look, Measure.CLICK)


def _calibration_stop(stops: HardStops, predicted: float, observed: float) -> Iterator[HardStop]:
    """Either count may speak for the size of the evidence, or a candidate that predicts nothing would never stop."""
    if max(predicted, observed) < stops.min_expected_clicks:
        return
    if not stops.calibration_low * observed <= predicted <= stops.calibration_high * observed:
        reason = f"the candidate predicted {predicted:.0f} clicks where {observed:.0f} came, outside "
        limits = f"{stops.calibration_low:g} to {stops.calibration_high:g} times"
        yield HardStop(culprit="calibration/*", reason=reason + limits)


def _in_stage(look: Look, measure: Measure) -> int:
    return int(look.in_stage_MGA[measure, 0, Arm.CANDIDATE])
