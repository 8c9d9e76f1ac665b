"""What this runtime counted for each version since it started: how its calls went, how long they took, what came in.

Shapes: N rows, T tasks, K experts.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.latency import NUM_LATENCY_BINS, latency_bin
from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import FIXED_POINT, ServingCounts
from model_runtime.feature_watch import FeatureWatch
from model_runtime.networks.nulls import RateArray

MAX_DISTINCT = 1_000  # far more than a broken model has, little enough to hold
LOOKED_AT = 2_048  # scores of one call that the search for distinct ones looks at
SCORE_DECIMALS = 6  # the same row in another batch differs by 6e-8; that is no distinct score
FIRST_CALLS, THEN_ONE_IN = 64, 32  # whose gates and features are looked at: soon enough to tell, then nearly free


class Call(NamedTuple):
    """One batch that a version was asked to score, and what came of it.

    `scores` and `bad_scores` are of the click; rows whose forward raised have none.
    """

    users: int
    failed_users: int = 0
    slow_users: int = 0
    scores: int = 0
    bad_scores: int = 0


class Served(NamedTuple):
    """The same of a call that answered users, as a shadow's does not; `seconds` is the whole of it."""

    seconds: float
    rows: int
    users_encoded: int
    is_split: bool  # by the cap on unique users


@dataclass(slots=True)
class _Count:
    """Names as in `ServingCounts`."""

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    scores: int = 0
    bad_scores: int = 0
    distinct: set[float] = field(default_factory=set)
    asked_calls: int = 0
    calls: int = 0
    error_shares: int = 0
    timeout_shares: int = 0
    bad_score_shares: int = 0
    batches: int = 0
    latency_bins: list[int] = field(default_factory=lambda: [0] * NUM_LATENCY_BINS)
    latency_us: int = 0
    split_batches: int = 0
    rows: int = 0
    users_encoded: int = 0
    gate_samples: int = 0
    gate_entropy: int = 0
    feature_samples: int = 0
    feature_nulls: int = 0
    feature_nulls_expected: int = 0
    feature_watch: FeatureWatch | None = None


class Tally:
    """Thread-safe counts by version. A request is one user's: a call that brings 1 000 users counts 1 000."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[VersionId, _Count] = defaultdict(_Count)

    def asked(self, version_id: VersionId, *, users: int) -> bool:
        """Count a call before it runs; whether its gates and features are to be looked at."""
        with self._lock:
            count = self._counts[version_id]
            count.requests += users
            count.asked_calls += 1
            return _is_looked_at(count.asked_calls)

    def is_due(self, version_id: VersionId) -> bool:
        """Whether the next call's gates and features are to be looked at."""
        with self._lock:
            return _is_looked_at(self._counts[version_id].asked_calls + 1)

    def scored(self, version_id: VersionId, score_N: NDArray[np.float32]) -> int:
        """Look at the clicks of one forward; how many of them are bad."""
        is_bad_N = is_bad(score_N)
        with self._lock:
            count = self._counts[version_id]
            if len(count.distinct) < MAX_DISTINCT:
                count.distinct |= _some_distinct(score_N[~is_bad_N])
        return int(is_bad_N.sum())

    def called(self, version_id: VersionId, call: Call, served: Served | None = None) -> None:
        """Count how a call went."""
        with self._lock:
            count = self._counts[version_id]
            count.calls += 1
            count.scores += call.scores
            if call.failed_users or call.slow_users or call.bad_scores:
                _add_trouble(count, call)
            if served is not None:
                _add_served(count, served)

    def saw_gates(self, version_id: VersionId, gate_NTK: NDArray[np.float32]) -> None:
        """Count how evenly a call's gates spread their rows; nothing of one expert, or of gates that are not finite."""
        entropy = normalised_entropy(gate_NTK)
        if entropy is None:
            return
        with self._lock:
            count = self._counts[version_id]
            count.gate_samples += 1
            count.gate_entropy += round(entropy * FIXED_POINT)

    def saw_features(self, version_id: VersionId, null_F: RateArray, expected_F: RateArray) -> None:
        """Count how much of a call's features was null, beside training's null rates."""
        with self._lock:
            count = self._counts[version_id]
            if count.feature_watch is None:
                count.feature_watch = FeatureWatch(expected_F)
            count.feature_watch.see(null_F)
            count.feature_samples += 1
            count.feature_nulls += round(float(null_F.mean()) * FIXED_POINT)
            count.feature_nulls_expected += round(float(expected_F.mean()) * FIXED_POINT)

    def counts(self) -> dict[VersionId, ServingCounts]:
        with self._lock:
            return {version_id: _counts(count) for version_id, count in self._counts.items()}


def _is_looked_at(call: int) -> bool:
    return call <= FIRST_CALLS or call % THEN_ONE_IN == 0


def is_bad(score_N: NDArray[np.float32]) -> NDArray[np.bool_]:
    """NaN, infinite or outside [0, 1]."""
    return ~((score_N >= 0) & (score_N <= 1))


def normalised_entropy(gate_NTK: NDArray[np.float32]) -> float | None:
    """Mean entropy of the gates as a share of that of all experts alike; None where it has no meaning."""
    num_experts = gate_NTK.shape[-1]
    if num_experts < 2 or not gate_NTK.size or not np.isfinite(gate_NTK).all():
        return None
    entropy_NT = -(gate_NTK * np.log(np.maximum(gate_NTK, np.finfo(np.float32).tiny))).sum(axis=-1)
    return min(1.0, max(0.0, float(entropy_NT.mean()) / float(np.log(num_experts))))


def _add_trouble(count: _Count, call: Call) -> None:
    count.errors += call.failed_users
    count.timeouts += call.slow_users
    count.bad_scores += call.bad_scores
    count.error_shares += _share(call.failed_users, call.users)
    count.timeout_shares += _share(call.slow_users, call.users)
    count.bad_score_shares += _share(call.bad_scores, call.scores)


def _add_served(count: _Count, served: Served) -> None:
    count.batches += 1
    count.latency_bins[latency_bin(served.seconds * 1e3)] += 1
    count.latency_us += round(served.seconds * 1e6)
    count.split_batches += served.is_split
    count.rows += served.rows
    count.users_encoded += served.users_encoded


def _share(part: int, whole: int) -> int:
    """In fixed point, of 0 to 1: a user cut over several slow forwards is counted in each."""
    return round(min(part, whole) / whole * FIXED_POINT) if whole else 0


def _some_distinct(score_N: NDArray[np.float32]) -> set[float]:
    return set(np.unique(np.round(score_N[:LOOKED_AT], SCORE_DECIMALS)).tolist())


def _counts(count: _Count) -> ServingCounts:
    watch = count.feature_watch
    return ServingCounts(
        requests=count.requests,
        errors=count.errors,
        timeouts=count.timeouts,
        scores=count.scores,
        bad_scores=count.bad_scores,
        distinct_scores=min(len(count.distinct), MAX_DISTINCT),
        calls=count.calls,
        error_shares=count.error_shares,
        timeout_shares=count.timeout_shares,
        bad_score_shares=count.bad_score_shares,
        batches=count.batches,
        latency_bins=tuple(count.latency_bins),
        latency_us=count.latency_us,
        split_batches=count.split_batches,
        rows=count.rows,
        users_encoded=count.users_encoded,
        gate_samples=count.gate_samples,
        gate_entropy=count.gate_entropy,
        feature_samples=count.feature_samples,
        feature_nulls=count.feature_nulls,
        feature_nulls_expected=count.feature_nulls_expected,
        features=0 if watch is None else len(watch.expected_F),
        features_lost=0 if watch is None else watch.num_lost(),
    )
