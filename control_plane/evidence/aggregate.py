"""From the event log to the moments of one rollout: day after day, and where days are large, shard after shard."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import duckdb
import numpy as np

from control_plane.domain.errors import InvalidMoments, LogUnavailable
from control_plane.domain.events import Label
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.moments import (
    MAX_COUNT,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    WHOLE_SURFACE,
    Draw,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.split import FULL_TRAFFIC_BP, NUM_BUCKETS, Arm
from control_plane.evidence.event_log import DAY_MS, EventLog, Snapshot
from control_plane.evidence.in_step import run_in_step
from control_plane.evidence.partition_query import Bands, PartitionQuery, Scope
from control_plane.evidence.shard_sums import Asking, ShardSums, shard_groups
from control_plane.evidence.sums import NONE_YET_MS, Sums, add_up
from control_plane.evidence.users import Users

if TYPE_CHECKING:
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]

BINS_SHAPE = (len(Arm), NUM_BUCKETS, NUM_SCORE_BINS, 1)
SCORE_PAIRS_SHAPE = (NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS, 1)
RELIABILITY_SHAPE = (len(Arm), NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure))
ATTEMPTS = 3  # a reader slower than the log's sweep looks again at what is there now


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentsQuery:
    """Which part of the log speaks about one rollout.

    Attributes:
        shares: generation to the candidate's basis points; exposures of other generations do not count.
        windows_ms: attribution window of every label.
        revenue_cap: currency units per impression.
        since_ms: the first served millisecond that counts.
        as_of_ms: the last one; a label counts on impressions whose window has ended by then.
        pre_period_days: how many full UTC days before that of `since_ms` are summed, for variance reduction.
        salt: of the split, by which the users of these days fall to the arms.
        weights_bp: that the candidate may come to have; when it does, these days need not be read again.
    """

    surface: Surface
    view_types: Sequence[ViewType]
    stable: VersionId
    candidate: VersionId
    shares: Mapping[int, int]
    windows_ms: Mapping[Label, int]
    revenue_cap: float
    since_ms: int
    as_of_ms: int
    pre_period_days: int = 0
    salt: str = ""
    weights_bp: Collection[int] = ()

    @property
    def days(self) -> range:
        return range(self.since_ms // DAY_MS, self.as_of_ms // DAY_MS + 1)

    @property
    def days_before(self) -> range:
        return range(self.days.start - self.pre_period_days, self.days.start)

    @property
    def shared_bp(self) -> int | None:
        """The last weight under which both arms served: what users before the start are split by."""
        shared = (self.shares[generation] for generation in sorted(self.shares, reverse=True))
        return next((share for share in shared if 0 < share < FULL_TRAFFIC_BP), None)

    @property
    def bands(self) -> Bands:
        weights = {*self.weights_bp, *self.shares.values()} - {0, FULL_TRAFFIC_BP}
        return Bands(salt=self.salt, cuts_bp=tuple(sorted(weights)))

    @property
    def scope(self) -> Scope:
        return Scope(
            surface=self.surface,
            view_types=tuple(self.view_types),
            stable=self.stable,
            candidate=self.candidate,
            click_ms=self.windows_ms[Label.CLICK],
            good_click_ms=self.windows_ms[Label.GOOD_CLICK],
            hide_ms=self.windows_ms[Label.HIDE],
            revenue_ms=self.windows_ms[Label.REVENUE],
            revenue_cap=float(self.revenue_cap),
        )


def moments(log: EventLog, query: MomentsQuery) -> Moments:
    """Sum the log for one rollout; the same events give the same bits, however they got into the log.

    Memory is that of one day of one user shard (or of few events), and of these shards' users. A shadow score
    counts as a pair with the stable's exposure of the same impression, whatever its own generation says.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _moments(log, query)
        except duckdb.IOException:
            continue
    try:
        return _moments(log, query)
    except duckdb.IOException as error:
        raise LogUnavailable(str(log.root), str(error).partition("\n")[0]) from error


class MomentsReader:
    """Moments of many rollouts, for one thread: what they share of the log is read, and summed, once.

    The same events give the bits that `moments` gives. `on_progress` is called before each query.
    """

    def __init__(self, log: EventLog, *, on_progress: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._on_progress = on_progress
        self._sql: PartitionQuery | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def moments_of(self, queries: Sequence[MomentsQuery]) -> list[Moments | Exception]:
        """The moments of each query, or why there are none; all are of one moment of the log."""
        if not queries:
            return []
        if self._sql is None:
            self._sql = PartitionQuery(self._log.root / "scratch")
        snapshot = self._log.snapshot()
        runs = [_summed(self._log, query, snapshot) for query in queries]
        found = run_in_step(self._sql, runs, on_progress=self._on_progress)
        if any(isinstance(one, duckdb.Error) for one in found):
            self._close()  # files that were swept meanwhile, or a connection that is of no use any more
        return [
            self._alone(query) if isinstance(one, duckdb.Error) else one
            for query, one in zip(queries, found, strict=True)
        ]

    def _alone(self, query: MomentsQuery) -> Moments | Exception:
        self._on_progress()
        try:
            return moments(self._log, query)
        except Exception as error:
            return error

    def _close(self) -> None:
        if self._sql is not None:
            self._sql.close()
            self._sql = None


def _moments(log: EventLog, query: MomentsQuery) -> Moments:
    with PartitionQuery(log.root / "scratch") as sql:
        (found,) = run_in_step(sql, [_summed(log, query, log.snapshot())])
    if isinstance(found, Exception):
        raise found
    return found


def _summed(log: EventLog, query: MomentsQuery, snapshot: Snapshot) -> Asking[Moments]:
    assembly = _Assembly(query)
    scope = query.scope
    for shards in shard_groups(snapshot):
        since_start = ShardSums(
            log,
            snapshot,
            scope,
            shards=shards,
            days=query.days,
            generations=query.shares,
            since_ms=query.since_ms,
            as_of_ms=query.as_of_ms,
        )
        assembly.add(*(yield from since_start.read()))
        if query.pre_period_days and query.bands.cuts_bp:  # in the shadow already, when nothing waits for it
            before = ShardSums(
                log,
                snapshot,
                scope,
                shards=shards,
                days=query.days_before,
                as_of_ms=query.as_of_ms,
                bands=query.bands,
            )
            assembly.add(*(yield from before.read()))
    return assembly.moments()


def _counts(field: str, counts: "IntArray") -> "NDArray[np.int32]":
    """Narrowed; a count too large to be one is refused, not wrapped."""
    if counts.size and int(counts.max()) > MAX_COUNT:
        raise InvalidMoments(field, f"a cell counts more than {MAX_COUNT} impressions")
    return np.ascontiguousarray(counts, dtype=np.int32)


class _Assembly:
    """Sums of disjoint user shards in; dense arrays out."""

    def __init__(self, query: MomentsQuery) -> None:
        self._query = query
        self._generations = np.array(sorted(query.shares), np.int64)
        self._shards: list[Sums] = []
        self._drawn: Counter[tuple[int, int, Arm]] = Counter()  # users by generation, what was known, arm
        self._users_A = np.zeros(len(Arm), np.int64)
        self._cross_exposed = 0

    def add(self, sums: Sums, users: Users) -> None:
        """Count the users, who live in no other shard, and keep the sums."""
        self._shards.append(sums)
        self._users_A += users.seen_by_arm()
        self._cross_exposed += users.cross_exposed()
        self._drawn += users.draws(self._query.shares)

    def moments(self) -> Moments:
        query, sums = self._query, add_up(self._shards)
        strata = self._strata(sums)
        sums_MGSAK = np.moveaxis(self._sums(sums, strata), -1, 0)
        newest_ms, candidate_newest_ms = (int(value) for value in sums.newest_ms)
        return Moments(
            surface=query.surface,
            stable=query.stable,
            candidate=query.candidate,
            segments=(WHOLE_SURFACE, *query.view_types),
            strata=strata,
            counts_MGSAK=_counts("counts_MGSAK", sums_MGSAK[:NUM_COUNTS]),
            values_MGSAK=np.ascontiguousarray(sums_MGSAK[NUM_COUNTS:]),
            pairs_GKP=self._dense(sums.pair_keys, sums.pairs, (NUM_BUCKETS, len(PairMeasure))),
            score_bins_GAKB=_counts("score_bins_GAKB", self._dense(sums.bin_keys, sums.bins, BINS_SHAPE)[..., 0]),
            score_pairs_CBB=_counts(
                "score_pairs_CBB", self._dense(sums.score_pair_keys, sums.score_pairs, SCORE_PAIRS_SHAPE)[0, ..., 0]
            ),
            reliability_GACBR=self._dense(sums.reliability_keys, sums.reliability, RELIABILITY_SHAPE),
            shadow_reliability_GACBR=self._dense(
                sums.shadow_reliability_keys, sums.shadow_reliability, RELIABILITY_SHAPE
            ),
            draws=self._draws(),
            users_A=(int(self._users_A[Arm.STABLE]), int(self._users_A[Arm.CANDIDATE])),
            cross_exposed_users=self._cross_exposed,
            as_of_ms=query.as_of_ms,
            newest_event_ms=None if newest_ms == NONE_YET_MS else newest_ms,
            candidate_newest_ms=None if candidate_newest_ms == NONE_YET_MS else candidate_newest_ms,
            before_MGAK=self._before(sums),
        )

    def _draws(self) -> tuple[Draw, ...]:
        return tuple(
            Draw(
                generation=generation,
                above_bp=above_bp,
                candidate_bp=self._query.shares[generation],
                stable=self._drawn[generation, above_bp, Arm.STABLE],
                candidate=self._drawn[generation, above_bp, Arm.CANDIDATE],
            )
            for generation, above_bp in sorted({(generation, above_bp) for generation, above_bp, _ in self._drawn})
        )

    def _before(self, sums: Sums) -> "IntArray | None":
        """Sums of the days before the start, bands joined to the arms of the last split that both shared."""
        weight = self._query.shared_bp
        if weight is None or not len(sums.before):
            return None
        band_N, view_type_N, bucket_N = sums.before_keys.T
        arm_N = np.where(band_N <= self._query.bands.cuts_bp.index(weight), Arm.CANDIDATE, Arm.STABLE)
        before = np.zeros((1 + len(self._query.view_types), len(Arm), NUM_BUCKETS, len(Measure)), np.int64)
        _add_by_segment(before, view_type_N, (arm_N, bucket_N), sums.before)
        return np.ascontiguousarray(np.moveaxis(before, -1, 0))

    def _strata(self, sums: Sums) -> tuple[Stratum, ...]:
        counts = np.isin(sums.cell_keys[:, 1], self._generations)
        places = sorted(set(zip(*sums.cell_keys[counts, :2].T.tolist(), strict=True)))
        return tuple(
            Stratum(day=day, generation=generation, candidate_bp=self._query.shares[generation])
            for day, generation in places
        )

    def _sums(self, sums: Sums, strata: Sequence[Stratum]) -> "IntArray":
        day_N, generation_N = sums.cell_keys[:, :2].T
        stratum_N = np.zeros_like(day_N)
        for index, stratum in enumerate(strata):
            stratum_N[(day_N == stratum.day) & (generation_N == stratum.generation)] = index
        keys = np.column_stack([generation_N, sums.cell_keys[:, 2], stratum_N, sums.cell_keys[:, 3:]])
        return self._dense(keys, sums.cells, (len(strata), len(Arm), NUM_BUCKETS, len(Measure)))

    def _dense(self, keys: "IntArray", values: "IntArray", shape: tuple[int, ...]) -> "IntArray":
        """Spread rows keyed (generation, view type, …) over segments × `shape`; the first segment is all of them."""
        dense = np.zeros((1 + len(self._query.view_types), *shape), np.int64)
        counts = np.isin(keys[:, 0], self._generations)
        _add_by_segment(dense, keys[counts, 1], tuple(keys[counts, 2:].T), values[counts])
        return dense


def _add_by_segment(
    dense: "IntArray", view_type_N: "IntArray", places: "tuple[IntArray, ...]", values: "IntArray"
) -> None:
    """Add rows to the first segment, which is all, and to that of their view type, if the query names it."""
    np.add.at(dense, (np.zeros_like(view_type_N), *places), values)
    named = view_type_N > 0
    np.add.at(dense, (view_type_N[named], *(place[named] for place in places)), values[named])
