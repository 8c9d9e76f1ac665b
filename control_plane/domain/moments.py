"""Sums over the event log: all that the judge ever sees of users.

Letters of the shapes: G segments, S strata, A arms (2), K user buckets, C coarse buckets, M measures, P pair
measures, B score bins, R reliability measures. Everything is an integer, fractions in fixed point, so that sums
are the same bits in whatever order they were added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from control_plane.domain.events import Label
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import FULL_TRAFFIC_BP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    CountArray = NDArray[np.int32]

WHOLE_SURFACE = "*"  # the first segment always; the others are the surface's view types
FIXED_POINT = 1_000_000  # one unit of a score, loss or value is a million of its fixed-point units
NUM_SCORE_BINS = 32
SCORE_BIN_LOGIT_MIN = -10.0  # bin b holds logits in [min + b·width, min + (b+1)·width), ends open
SCORE_BIN_LOGIT_WIDTH = 0.5
NUM_COARSE_BUCKETS = 32  # neighbouring user buckets merged, for sums too many to keep per bucket
MAX_COUNT = 2**31 - 1  # of a cell: a bucket's day with two billion impressions is a bug


class Measure(IntEnum):
    """Sums over exposures per segment × stratum × arm × bucket: counts first, then values in fixed point.

    `MATURED_x` counts impressions at least as old as label x's attribution window; `x` counts those of
    them on which the label came within it. The score is of the click label, over MATURED_CLICK impressions;
    revenue is the value of matured revenue, winsorised.
    """

    IMPRESSIONS = 0
    MATURED_CLICK = 1
    CLICK = 2
    MATURED_GOOD_CLICK = 3
    GOOD_CLICK = 4
    MATURED_HIDE = 5
    HIDE = 6
    MATURED_REVENUE = 7
    REVENUE = 8
    SCORE = 9


NUM_COUNTS = 8  # measures below it count impressions; the others are in fixed point


class PairMeasure(IntEnum):
    """Sums over shadow-scored impressions that stable served, per segment × bucket.

    Scores and losses are of the click label ×`FIXED_POINT`, over MATURED pairs but for LOG_RATIO,
    which is Σ log(candidate score / stable score) over all PAIRS.
    """

    PAIRS = 0
    MATURED = 1
    CLICK = 2
    SCORE_STABLE = 3
    SCORE_CANDIDATE = 4
    LOG_LOSS_STABLE = 5
    LOG_LOSS_CANDIDATE = 6
    BRIER_STABLE = 7
    BRIER_CANDIDATE = 8
    LOG_RATIO = 9


class ReliabilityMeasure(IntEnum):
    """Sums over click-matured impressions per segment × arm × coarse bucket × score bin."""

    IMPRESSIONS = 0
    SCORE = 1  # ×FIXED_POINT
    CLICK = 2


MATURED_OF = {
    Label.CLICK: Measure.MATURED_CLICK,
    Label.GOOD_CLICK: Measure.MATURED_GOOD_CLICK,
    Label.HIDE: Measure.MATURED_HIDE,
    Label.REVENUE: Measure.MATURED_REVENUE,
}
NUMERATOR_OF = {
    Label.CLICK: Measure.CLICK,
    Label.GOOD_CLICK: Measure.GOOD_CLICK,
    Label.HIDE: Measure.HIDE,
    Label.REVENUE: Measure.REVENUE,
}


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Stratum:
    """Traffic that is comparable across arms: one UTC day under one generation of the split."""

    day: int  # days since 1970-01-01 UTC
    generation: int
    candidate_bp: int  # what the split promised the candidate in this generation


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Draw:
    """Users whose arm one generation was the first to tell: what the split promised of them, and where they landed.

    Until then all that was known of their slot is that it is not below `above_bp`.
    """

    generation: int
    above_bp: int  # the largest weight under which they were seen on stable; 0 where they never met a split
    candidate_bp: int  # of the generation, larger
    stable: int
    candidate: int

    @property
    def promised(self) -> float:
        """Users that the split sends to the candidate, on average."""
        share = (self.candidate_bp - self.above_bp) / (FULL_TRAFFIC_BP - self.above_bp)
        return share * (self.stable + self.candidate)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """One rollout's evidence as of one moment.

    Attributes:
        segments: G names, `WHOLE_SURFACE` first.
        strata: S strata, ascending by day, then generation.
        counts_MGSAK: the counts among `Measure`, int32; arms by `Arm`.
        values_MGSAK: the fixed-point ones, int64, from `NUM_COUNTS` on.
        pairs_GKP: see `PairMeasure`; the candidate's shadow scores against the stable's own.
        score_bins_GAKB: shadow pairs by bin of each version's score, for drift.
        score_pairs_CBB: the surface's shadow pairs by bin of stable's score × bin of the candidate's.
        reliability_GACBR: see `ReliabilityMeasure`, of what each arm served.
        shadow_reliability_GACBR: the same of the shadow pairs, each version by its own scores.
        before_MGAK: sums of the days before the start by `Measure`, users by the arm that the last split with
            both arms gives them; None where the plan does not ask, or there is nothing.
        draws: ascending, one for each generation and `above_bp`; see `Draw`.
        users_A: distinct users seen in each arm.
        cross_exposed_users: users seen in both arms within one generation.
        as_of_ms: labels matured up to here count.
        newest_event_ms: latest exposure of the surface, None before any.
        candidate_newest_ms: latest exposure or shadow score of the candidate, or exposure while it was at home,
            None before any.
    """

    surface: Surface
    stable: VersionId
    candidate: VersionId
    segments: tuple[str, ...]
    strata: tuple[Stratum, ...]
    counts_MGSAK: "CountArray"
    values_MGSAK: "IntArray"
    pairs_GKP: "IntArray"
    score_bins_GAKB: "CountArray"
    score_pairs_CBB: "CountArray"
    reliability_GACBR: "IntArray"
    shadow_reliability_GACBR: "IntArray"
    draws: tuple[Draw, ...]
    users_A: tuple[int, int]
    cross_exposed_users: int
    as_of_ms: int
    newest_event_ms: int | None
    candidate_newest_ms: int | None
    before_MGAK: "IntArray | None" = None

    def cells_of(self, measure: Measure) -> "IntArray | CountArray":
        """One measure, (G, S, A, K), in the width it is kept in: a sum of few cells may not fit."""
        is_count = measure < NUM_COUNTS
        cells: IntArray | CountArray = (
            self.counts_MGSAK[measure] if is_count else self.values_MGSAK[measure - NUM_COUNTS]
        )
        return cells

    def sums_of(self, measure: Measure) -> "IntArray":
        """One measure, (G, S, A, K), int64."""
        return self.cells_of(measure).astype("int64")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingCounts:
    """What runtimes counted for one version since the rollout started.

    A call is one batch that a version was asked to score. What goes wrong in a call goes wrong for its users
    together, so evidence is counted in calls: `…_shares` add up, over calls, the share of a call's users (or
    scores) concerned. Shares, entropies and null rates are ×`FIXED_POINT`.

    `batches` up to `users_encoded` are of calls that answered users: the shadow's batches have another shape, one
    row a user. Gates and features are looked at in a sample of all calls.
    """

    requests: int = 0  # users
    errors: int = 0
    timeouts: int = 0
    scores: int = 0
    bad_scores: int = 0  # NaN, infinite or outside [0, 1]
    distinct_scores: int = 0  # at most what the runtime tracks; 1 on many scores is a constant model
    calls: int = 0
    error_shares: int = 0
    timeout_shares: int = 0
    bad_score_shares: int = 0
    batches: int = 0
    latency_bins: tuple[int, ...] = ()  # of batches, see `latency.LATENCY_BOUNDS_MS`
    latency_us: int = 0
    split_batches: int = 0  # that the cap on unique users cut
    rows: int = 0
    users_encoded: int = 0
    gate_samples: int = 0
    gate_entropy: int = 0  # Σ over samples of the mean over rows and tasks; 1 is all experts alike
    feature_samples: int = 0
    feature_nulls: int = 0  # Σ over samples of the mean over features of the share that is null
    feature_nulls_expected: int = 0  # the same as training had it
    features: int = 0  # whose null rate training knows; with the next the latest told, not a sum
    features_lost: int = 0  # of them, null far more often lately than in training

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> "ServingCounts":
        """Read what `asdict` or JSON made of one: what an older runtime did not count is 0."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "latency_bins": tuple(known.get("latency_bins", ()))})


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What the runtimes reported, beside what the log says."""

    stable: ServingCounts
    candidate: ServingCounts
    live_runtimes: int
    acknowledged_runtimes: int  # live, and serving the surface's present generation
    shadow_dropped: int = 0
