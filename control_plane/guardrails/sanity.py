"""Plans that cannot be armed, and sums that no event log can have produced, are refused before anything is computed."""

from collections import Counter
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidMoments
from control_plane.domain.events import Label
from control_plane.domain.moments import (
    FIXED_POINT,
    MATURED_OF,
    MAX_COUNT,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    NUMERATOR_OF,
    WHOLE_SURFACE,
    Draw,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    ServingCounts,
)
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping, plan_to_mapping
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import IntArray

IntegerArray = NDArray[np.signedinteger]

MAX_TOTAL = 2.0**62  # half of int64: sums of two arms still fit
_PAIR_SUMS = (
    PairMeasure.SCORE_STABLE,
    PairMeasure.SCORE_CANDIDATE,
    PairMeasure.BRIER_STABLE,
    PairMeasure.BRIER_CANDIDATE,
)
_WHOLE = (int, np.integer)
_DRAW_NUMBERS = attrgetter(*(field.name for field in fields(Draw)))


@lru_cache(maxsize=4_096)  # a rollout is judged by one plan again and again
def check_plan(plan: RolloutPlan) -> None:
    """Raise `InvalidPlan` naming the key and the rule it breaks: whoever made the plan, it is read like any other."""
    plan_from_mapping(plan_to_mapping(plan))


def check_moments(moments: Moments) -> None:
    """Raise `InvalidMoments` naming the field and the rule it breaks."""
    _check_numbers(moments)
    _check_names(moments)
    _check_arrays(moments)
    _check_exposures(moments)
    _check_reliability("reliability_GACBR", moments.reliability_GACBR)
    _check_reliability("shadow_reliability_GACBR", moments.shadow_reliability_GACBR)
    _check_pairs(moments.pairs_GKP)
    _check_users(moments)
    _check_draws(moments)


def is_possible(counts: ServingCounts) -> bool:
    """Whether a runtime can have counted this; counters are read one by one, so ratios may overshoot a little."""
    values = (counts.requests, counts.errors, counts.timeouts, counts.scores, counts.bad_scores, counts.distinct_scores)
    return all(isinstance(value, int) and 0 <= value < 2**63 for value in values)


def _check_numbers(moments: Moments) -> None:
    """NaN is below and above no limit, so it would pass all that follow."""
    for field, numbers in (
        ("strata", [number for one in moments.strata for number in (one.day, one.generation, one.candidate_bp)]),
        ("draws", [number for one in moments.draws for number in _DRAW_NUMBERS(one)]),
        ("users_A", moments.users_A),
        ("cross_exposed_users", [moments.cross_exposed_users]),
        ("as_of_ms", [moments.as_of_ms]),
        ("newest_event_ms", _if_any(moments.newest_event_ms)),
        ("candidate_newest_ms", _if_any(moments.candidate_newest_ms)),
    ):
        if not all(isinstance(number, _WHOLE) and abs(int(number)) < MAX_TOTAL for number in numbers):
            _fail(field, "must be whole numbers of 62 bits")


def _if_any(number: int | None) -> list[int]:
    return [] if number is None else [number]


def _check_names(moments: Moments) -> None:
    if not moments.segments or moments.segments[0] != WHOLE_SURFACE:
        _fail("segments", f"must begin with {WHOLE_SURFACE!r}")
    if len(set(moments.segments)) != len(moments.segments):
        _fail("segments", "must differ from one another")
    for earlier, later in pairwise(moments.strata):
        if not earlier < later:
            _fail("strata", "must ascend by day, then generation")
    if any(not 0 <= stratum.candidate_bp <= FULL_TRAFFIC_BP for stratum in moments.strata):
        _fail("strata.candidate_bp", f"must be 0 to {FULL_TRAFFIC_BP}")


def _check_arrays(moments: Moments) -> None:
    segments, strata, arms = len(moments.segments), len(moments.strata), len(Arm)
    buckets = moments.counts_MGSAK.shape[4] if moments.counts_MGSAK.ndim == 5 else 0
    reliability = (segments, arms, NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure))
    num_values = len(Measure) - NUM_COUNTS
    for field, dtype, shape in (
        ("counts_MGSAK", np.int32, (NUM_COUNTS, segments, strata, arms, buckets)),
        ("values_MGSAK", np.int64, (num_values, segments, strata, arms, buckets)),
        ("pairs_GKP", np.int64, (segments, buckets, len(PairMeasure))),
        ("score_bins_GAKB", np.int32, (segments, arms, buckets, NUM_SCORE_BINS)),
        ("score_pairs_CBB", np.int32, (NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS)),
        ("reliability_GACBR", np.int64, reliability),
        ("shadow_reliability_GACBR", np.int64, reliability),
    ):
        _check_array(field, getattr(moments, field), dtype, shape)
    if moments.before_MGAK is not None:
        _check_array("before_MGAK", moments.before_MGAK, np.int64, (len(Measure), segments, arms, buckets))


def _check_array(field: str, array: object, dtype: type[np.signedinteger], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        _fail(field, f"must be an array of {dtype.__name__}")
    if array.shape != shape or not shape[-1]:
        _fail(field, f"must have the shape {shape}, not {array.shape}")
    if not array.size:
        return
    if field == "pairs_GKP":
        largest = max(int(array.max()), -int(array.min()))
    else:
        largest = int(array.view(f"u{array.itemsize}").max())  # one pass: what is negative is huge there
        if largest > np.iinfo(dtype).max:
            _fail(field, "must not be negative")
    is_small = largest < MAX_TOTAL / array.size
    if not is_small and np.abs(array.astype(np.float64)).sum() >= MAX_TOTAL:
        _fail(field, "overflows: its total no longer fits into 64 bits")


def _check_exposures(moments: Moments) -> None:
    counts_MGSAK = moments.counts_MGSAK
    impressions = counts_MGSAK[Measure.IMPRESSIONS]
    _check_labels("counts_MGSAK", counts_MGSAK)
    scored = counts_MGSAK[Measure.MATURED_CLICK] * np.int64(FIXED_POINT)
    _check_at_most("values_MGSAK.SCORE", moments.cells_of(Measure.SCORE), scored)
    if (impressions[1:].sum(axis=0, dtype=np.int64) > impressions[0]).any():
        _fail("counts_MGSAK.IMPRESSIONS", "view types together must not exceed the surface")
    if moments.before_MGAK is not None:
        _check_labels("before_MGAK", moments.before_MGAK)


def _check_labels(field: str, sums_MX: IntegerArray) -> None:
    """X are cells of any shape."""
    impressions = sums_MX[Measure.IMPRESSIONS]
    for label in Label:
        matured, numerator = MATURED_OF[label], NUMERATOR_OF[label]
        _check_at_most(f"{field}.{matured.name}", sums_MX[matured], impressions)
        if label is not Label.REVENUE:
            _check_at_most(f"{field}.{numerator.name}", sums_MX[numerator], sums_MX[matured])


def _check_reliability(field: str, table_GACBR: IntArray) -> None:
    shown = table_GACBR[..., ReliabilityMeasure.IMPRESSIONS]
    if float(shown.sum(dtype=np.float64)) * FIXED_POINT >= MAX_TOTAL:
        _fail(f"{field}.IMPRESSIONS", "overflows: its total score may not fit into 64 bits")
    _check_at_most(f"{field}.CLICK", table_GACBR[..., ReliabilityMeasure.CLICK], shown)
    _check_at_most(f"{field}.SCORE", table_GACBR[..., ReliabilityMeasure.SCORE], shown * FIXED_POINT)


def _check_pairs(pairs_GKP: IntArray) -> None:
    if pairs_GKP.size and int(pairs_GKP[..., PairMeasure.PAIRS].max()) > MAX_COUNT:
        _fail("pairs_GKP.PAIRS", f"must be at most {MAX_COUNT} in one bucket")
    if pairs_GKP.size and int(pairs_GKP[..., : PairMeasure.LOG_RATIO].min()) < 0:
        _fail("pairs_GKP", "must not be negative, but for LOG_RATIO")
    matured = pairs_GKP[..., PairMeasure.MATURED]
    _check_at_most("pairs_GKP.MATURED", matured, pairs_GKP[..., PairMeasure.PAIRS])
    _check_at_most("pairs_GKP.CLICK", pairs_GKP[..., PairMeasure.CLICK], matured)
    limit = matured * FIXED_POINT
    for measure in _PAIR_SUMS:
        _check_at_most(f"pairs_GKP.{measure.name}", pairs_GKP[..., measure], limit)


def _check_users(moments: Moments) -> None:
    if len(moments.users_A) != len(Arm) or min(moments.users_A) < 0:
        _fail("users_A", "must be two counts of 0 or more")
    if not 0 <= moments.cross_exposed_users <= min(moments.users_A):
        _fail("cross_exposed_users", "must be 0 to the users of the smaller arm")


def _check_draws(moments: Moments) -> None:
    weights = {(stratum.generation, stratum.candidate_bp) for stratum in moments.strata}
    for earlier, later in pairwise(moments.draws):
        if not (earlier.generation, earlier.above_bp) < (later.generation, later.above_bp):
            _fail("draws", "must ascend by generation, then what was known")
    for draw in moments.draws:
        if (draw.generation, draw.candidate_bp) not in weights:
            _fail("draws", "must be of the strata's generations and their weights")
        if not 0 <= draw.above_bp < draw.candidate_bp < FULL_TRAFFIC_BP:
            _fail("draws", f"must be of weights above what was known, and below {FULL_TRAFFIC_BP}")
        if min(draw.stable, draw.candidate) < 0:
            _fail("draws", "must not count less than 0 users")
    drawn_A = _drawn_by_arm(moments)
    if any(drawn > users for drawn, users in zip(drawn_A, moments.users_A, strict=True)):
        _fail("draws", "must not exceed the users of an arm")


def _drawn_by_arm(moments: Moments) -> tuple[int, int]:
    """Users of stable in the generation with most, since many are drawn again; of the candidate in all."""
    by_generation: Counter[int] = Counter()
    for draw in moments.draws:
        by_generation[draw.generation] += draw.stable
    return max(by_generation.values(), default=0), sum(draw.candidate for draw in moments.draws)


def _check_at_most(field: str, sums: IntegerArray, limit: IntegerArray) -> None:
    if (sums > limit).any():
        _fail(field, "is more than the impressions allow")


def _fail(field: str, rule: str) -> NoReturn:
    raise InvalidMoments(field, rule)
