"""From the event log to the moments of one rollout: one user shard after another, one day after another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from control_plane.domain.errors import LogUnavailable
from control_plane.domain.events import Label
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.moments import (
    NUM_SCORE_BINS,
    WHOLE_SURFACE,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.evidence.event_log import DAY_MS, NUM_SHARDS, EventLog, Snapshot
from control_plane.evidence.partition_query import PartitionQuery, Scope
from control_plane.evidence.shard_sums import ShardSums
from control_plane.evidence.sums import NEVER_MS, NONE_YET_MS, Sums, add_up, no_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]

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

    Memory is that of one day of one user shard, and of one shard's users. A shadow score counts as a pair
    with the stable's exposure of the same impression, whatever its own generation says.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _moments(log, query, log.snapshot())
        except duckdb.IOException:
            continue
    try:
        return _moments(log, query, log.snapshot())
    except duckdb.IOException as error:
        raise LogUnavailable(str(log.root), str(error).partition("\n")[0]) from error


def _moments(log: EventLog, query: MomentsQuery, snapshot: Snapshot) -> Moments:
    assembly = _Assembly(query)
    scope = query.scope
    with PartitionQuery(log.root / "scratch") as sql:
        for shard in range(NUM_SHARDS):
            reader = ShardSums(log, snapshot, scope, shard=shard, since_ms=query.since_ms, as_of_ms=query.as_of_ms)
            assembly.add(reader.read(sql))
    return assembly.moments()


class _Assembly:
    """Shards in, one at a time; dense arrays out."""

    def __init__(self, query: MomentsQuery) -> None:
        self._query = query
        self._generations = np.array(sorted(query.shares), np.int64)
        self._shards: list[Sums] = []
        self._first: Counter[tuple[int, int, int]] = Counter()  # users by day, generation, arm
        self._users_A = np.zeros(len(Arm), np.int64)
        self._crossed = 0

    def add(self, sums: Sums) -> None:
        """Count the shard's users, who live in no other shard, and keep the rest."""
        counts = np.isin(sums.user_generations, self._generations)
        user_N, generation_N, first_ms_NA = (
            sums.users[counts],
            sums.user_generations[counts],
            sums.user_first_ms[counts],
        )
        seen_NA = first_ms_NA < NEVER_MS
        for arm in Arm:
            self._users_A[arm] += len(np.unique(user_N[seen_NA[:, arm]]))
        self._crossed += len(np.unique(user_N[seen_NA.all(axis=1)]))
        self._first.update(_first_exposures(user_N, generation_N, first_ms_NA))
        nobody = no_sums()
        self._shards.append(
            replace(
                sums, users=nobody.users, user_generations=nobody.user_generations, user_first_ms=nobody.user_first_ms
            )
        )

    def moments(self) -> Moments:
        query, sums = self._query, add_up(self._shards)
        strata = self._strata(sums)
        newest_ms, candidate_newest_ms = (int(value) for value in sums.newest_ms)
        return Moments(
            surface=query.surface,
            stable=query.stable,
            candidate=query.candidate,
            segments=(WHOLE_SURFACE, *query.view_types),
            strata=strata,
            sums_GSAKM=self._sums(sums, strata),
            pairs_GKP=self._dense(sums.pair_keys, sums.pairs, (NUM_BUCKETS, len(PairMeasure))),
            score_bins_GAKB=self._dense(sums.bin_keys, sums.bins, (len(Arm), NUM_BUCKETS, NUM_SCORE_BINS, 1))[..., 0],
            reliability_GABR=self._dense(
                sums.reliability_keys, sums.reliability, (len(Arm), NUM_SCORE_BINS, len(ReliabilityMeasure))
            ),
            first_exposures_SA=np.array(
                [[self._first[stratum.day, stratum.generation, arm] for arm in Arm] for stratum in strata], np.int64
            ).reshape(len(strata), len(Arm)),
            users_A=(int(self._users_A[Arm.STABLE]), int(self._users_A[Arm.CANDIDATE])),
            cross_exposed_users=self._crossed,
            as_of_ms=query.as_of_ms,
            newest_event_ms=None if newest_ms == NONE_YET_MS else newest_ms,
            candidate_newest_ms=None if candidate_newest_ms == NONE_YET_MS else candidate_newest_ms,
        )

    def _strata(self, sums: Sums) -> tuple[Stratum, ...]:
        places = np.unique(sums.cell_keys[np.isin(sums.cell_keys[:, 1], self._generations), :2], axis=0)
        return tuple(
            Stratum(day=int(day), generation=int(generation), candidate_bp=self._query.shares[int(generation)])
            for day, generation in places
        )

    def _sums(self, sums: Sums, strata: Sequence[Stratum]) -> "IntArray":
        place = {(stratum.day, stratum.generation): index for index, stratum in enumerate(strata)}
        stratum_N = np.array([place.get((day, gen), -1) for day, gen in sums.cell_keys[:, :2].tolist()], np.int64)
        keys = np.column_stack([sums.cell_keys[:, 1], sums.cell_keys[:, 2], stratum_N, sums.cell_keys[:, 3:]])
        return self._dense(keys, sums.cells, (len(strata), len(Arm), NUM_BUCKETS, len(Measure)))

    def _dense(self, keys: "IntArray", values: "IntArray", shape: tuple[int, ...]) -> "IntArray":
        """Spread rows keyed (generation, view type, …) over segments × `shape`; the first segment is all of them."""
        dense = np.zeros((1 + len(self._query.view_types), *shape), np.int64)
        counts = np.isin(keys[:, 0], self._generations)
        view_type_N, places, values = keys[counts, 1], tuple(keys[counts, 2:].T), values[counts]
        np.add.at(dense, (np.zeros_like(view_type_N), *places), values)
        named = view_type_N > 0
        np.add.at(dense, (view_type_N[named], *(place[named] for place in places)), values[named])
        return dense


def _first_exposures(
    user_N: "NDArray[np.uint64]", generation_N: "IntArray", first_ms_NA: "IntArray"
) -> dict[tuple[int, int, int], int]:
    """Users by day, generation and arm of their first exposure; ties go to the lower generation, then to stable."""
    if len(user_N) == 0:
        return {}
    arm_N = np.argmin(first_ms_NA, axis=1)
    first_ms_N = first_ms_NA.min(axis=1)
    order = np.lexsort((generation_N, first_ms_N, user_N))
    user_N, generation_N, first_ms_N, arm_N = user_N[order], generation_N[order], first_ms_N[order], arm_N[order]
    is_first_N = np.r_[True, user_N[1:] != user_N[:-1]]
    places, counts = np.unique(
        np.column_stack([first_ms_N // DAY_MS, generation_N, arm_N])[is_first_N], axis=0, return_counts=True
    )
    return {(day, gen, arm): count for (day, gen, arm), count in zip(places.tolist(), counts.tolist(), strict=True)}
