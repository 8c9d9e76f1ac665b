"""What this runtime counted for each version since it started: users answered, errors, bad scores."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.model_version import VersionId
from control_plane.domain.moments import ServingCounts

MAX_DISTINCT = 1_000  # far more than a broken model has, little enough to hold
LOOKED_AT = 2_048  # scores of one call that the search for distinct ones looks at
SCORE_DECIMALS = 6  # the same row in another batch differs by 6e-8; that is no distinct score


@dataclass(slots=True)
class _Count:
    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    scores: int = 0
    bad_scores: int = 0
    distinct: set[float] = field(default_factory=set)


class Tally:
    """Thread-safe counts by version. A request is one user's: a call that brings 1 000 users counts 1 000."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[VersionId, _Count] = defaultdict(_Count)

    def asked(self, version_id: VersionId, *, users: int) -> None:
        with self._lock:
            self._counts[version_id].requests += users

    def scored(self, version_id: VersionId, score_N: NDArray[np.float32], *, slow_users: int = 0) -> None:
        """Count one forward's scores; its users are timeouts where it took too long."""
        is_bad_N = is_bad(score_N)
        with self._lock:
            count = self._counts[version_id]
            count.timeouts += slow_users
            count.scores += len(score_N)
            count.bad_scores += int(is_bad_N.sum())
            if len(count.distinct) < MAX_DISTINCT:
                count.distinct |= _some_distinct(score_N[~is_bad_N])

    def failed(self, version_id: VersionId, *, users: int) -> None:
        """Users that got no usable answer from the version: it raised, it is not loaded, or it gave bad scores."""
        with self._lock:
            self._counts[version_id].errors += users

    def counts(self) -> dict[VersionId, ServingCounts]:
        with self._lock:
            return {
                version_id: ServingCounts(
                    requests=count.requests,
                    errors=count.errors,
                    timeouts=count.timeouts,
                    scores=count.scores,
                    bad_scores=count.bad_scores,
                    distinct_scores=min(len(count.distinct), MAX_DISTINCT),
                )
                for version_id, count in self._counts.items()
            }


def is_bad(score_N: NDArray[np.float32]) -> NDArray[np.bool_]:
    """NaN, infinite or outside [0, 1]."""
    return ~((score_N >= 0) & (score_N <= 1))


def _some_distinct(score_N: NDArray[np.float32]) -> set[float]:
    return set(np.unique(np.round(score_N[:LOOKED_AT], SCORE_DECIMALS)).tolist())
