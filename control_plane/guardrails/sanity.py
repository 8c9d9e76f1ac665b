"""Sums that no event log can have produced are refused before anything is computed from them."""

from itertools import pairwise
from typing import NoReturn

import numpy as np

from control_plane.domain.errors import InvalidMoments
from control_plane.domain.events import Label
from control_plane.domain.moments import (
    FIXED_POINT,
    MATURED_OF,
    NUM_SCORE_BINS,
    NUMERATOR_OF,
    WHOLE_SURFACE,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    ServingCounts,
)
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm
from control_plane.guardrails.estimate import IntArray

MAX_TOTAL = 2.0**62  # half of int64: sums of two arms still fit
MAX_CELL_COUNT = 2**40  # impressions: a trillion users' bucket is a bug


def check_moments(moments: Moments) -> None:
    """Raise `InvalidMoments` naming the field and the rule it breaks."""
    _check_names(moments)
    _check_arrays(moments)
    _check_exposures(moments.sums_GSAKM)
    _check_pairs(moments.pairs_GKP)
    _check_users(moments)


def is_possible(counts: ServingCounts) -> bool:
    """Whether a runtime can have counted this; counters are read one by one, so ratios may overshoot a little."""
    values = (counts.requests, counts.errors, counts.timeouts, counts.scores, counts.bad_scores, counts.distinct_scores)
    return all(isinstance(value, int) and 0 <= value < 2**63 for value in values)


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
    buckets = moments.sums_GSAKM.shape[3] if moments.sums_GSAKM.ndim == 5 else 0
    for field, shape in {
        "sums_GSAKM": (segments, strata, arms, buckets, len(Measure)),
        "pairs_GKP": (segments, buckets, len(PairMeasure)),
        "score_bins_GAKB": (segments, arms, buckets, NUM_SCORE_BINS),
        "reliability_GABR": (segments, arms, NUM_SCORE_BINS, len(ReliabilityMeasure)),
        "first_exposures_SA": (strata, arms),
    }.items():
        array = getattr(moments, field)
        if not isinstance(array, np.ndarray) or array.dtype != np.int64:
            _fail(field, "must be an array of int64")
        if array.shape != shape or not buckets:
            _fail(field, f"must have the shape {shape}, not {array.shape}")
        _check_range(field, array, may_be_negative=field == "pairs_GKP")


def _check_range(field: str, array: IntArray, *, may_be_negative: bool) -> None:
    if not array.size:
        return
    if not may_be_negative and int(array.min()) < 0:
        _fail(field, "must not be negative")
    total = np.abs(array.astype(np.float64)).sum() if may_be_negative else array.sum(dtype=np.float64)
    if total >= MAX_TOTAL:
        _fail(field, "overflows: its total no longer fits into 64 bits")


def _check_exposures(sums_GSAKM: IntArray) -> None:
    impressions = sums_GSAKM[..., Measure.IMPRESSIONS]
    if impressions.size and int(impressions.max()) > MAX_CELL_COUNT:
        _fail("sums_GSAKM.IMPRESSIONS", f"must be at most {MAX_CELL_COUNT} in one bucket")
    for label in Label:
        matured, numerator = MATURED_OF[label], NUMERATOR_OF[label]
        _check_at_most(sums_GSAKM, "sums_GSAKM", matured, impressions)
        if label is not Label.REVENUE:
            _check_at_most(sums_GSAKM, "sums_GSAKM", numerator, sums_GSAKM[..., matured])
    scored = sums_GSAKM[..., Measure.MATURED_CLICK] * FIXED_POINT
    _check_at_most(sums_GSAKM, "sums_GSAKM", Measure.SCORE, scored)
    _check_at_most(sums_GSAKM, "sums_GSAKM", Measure.SCORE_SQUARED, scored)
    if (impressions[1:].sum(axis=0) > impressions[0]).any():
        _fail("sums_GSAKM.IMPRESSIONS", "view types together must not exceed the surface")


def _check_pairs(pairs_GKP: IntArray) -> None:
    if (np.delete(pairs_GKP, PairMeasure.LOG_RATIO, axis=2) < 0).any():
        _fail("pairs_GKP", "must not be negative, but for LOG_RATIO")
    if pairs_GKP.size and int(pairs_GKP[..., PairMeasure.PAIRS].max()) > MAX_CELL_COUNT:
        _fail("pairs_GKP.PAIRS", f"must be at most {MAX_CELL_COUNT} in one bucket")
    matured = pairs_GKP[..., PairMeasure.MATURED]
    _check_at_most(pairs_GKP, "pairs_GKP", PairMeasure.MATURED, pairs_GKP[..., PairMeasure.PAIRS])
    _check_at_most(pairs_GKP, "pairs_GKP", PairMeasure.CLICK, matured)
    for measure in (
        PairMeasure.SCORE_STABLE,
        PairMeasure.SCORE_CANDIDATE,
        PairMeasure.BRIER_STABLE,
        PairMeasure.BRIER_CANDIDATE,
    ):
        _check_at_most(pairs_GKP, "pairs_GKP", measure, matured * FIXED_POINT)


def _check_users(moments: Moments) -> None:
    if len(moments.users_A) != len(Arm) or min(moments.users_A) < 0:
        _fail("users_A", "must be two counts of 0 or more")
    if not 0 <= moments.cross_exposed_users <= min(moments.users_A):
        _fail("cross_exposed_users", "must be 0 to the users of the smaller arm")
    if int(moments.first_exposures_SA.sum()) > sum(moments.users_A):
        _fail("first_exposures_SA", "must not exceed the users of both arms")


def _check_at_most(array: IntArray, field: str, measure: Measure | PairMeasure, limit: IntArray) -> None:
    if (array[..., measure] > limit).any():
        _fail(f"{field}.{measure.name}", "is more than the impressions allow")


def _fail(field: str, rule: str) -> NoReturn:
    raise InvalidMoments(field, rule)
