"""Keeps simulated or replayed traffic in the judge's own sums, and shows labels only once they have matured.

Letters of the shapes: V view types, P pair measures; others as in `domain.moments`.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.events import Label
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.moments import (
    MATURED_OF,
    NUM_COARSE_BUCKETS,
    NUM_COUNTS,
    NUM_SCORE_BINS,
    NUMERATOR_OF,
    WHOLE_SURFACE,
    Measure,
    Moments,
    PairMeasure,
    ReliabilityMeasure,
    Stratum,
)
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.rehearsal.first_meetings import Drawn, draws_of

IntArray = NDArray[np.int64]

STABLE, CANDIDATE = VersionId("5" * 16), VersionId("c" * 16)
SURFACE = Surface("rehearsal")
AT_ONCE = [PairMeasure.PAIRS, PairMeasure.LOG_RATIO]  # pairs that count before their labels do
ROOM = 16  # strata that a fresh ledger has room for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """Shadow-scored impressions of one cohort."""

    pairs_VKP: IntArray
    score_bins_VAKB: IntArray
    score_pairs_CBB: IntArray
    reliability_VACBR: IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cohort:
    """Impressions of one stratum that mature together: a label counts once the last of them is old enough."""

    stratum: Stratum
    end_ms: int
    impressions_VAK: IntArray
    labels_VAK: Mapping[Label, IntArray]  # that came within their windows; revenue in fixed point
    score_VAK: IntArray  # fixed point
    reliability_VACBR: IntArray
    pairs: Pairs | None = None


class Ledger:
    def __init__(self, view_types: Sequence[str], windows_ms: Mapping[Label, int]) -> None:
        segments, arms = 1 + len(view_types), len(Arm)
        self.segments = (WHOLE_SURFACE, *view_types)
        self._windows_ms = windows_ms
        self._strata: list[Stratum] = []
        self._counts_MGSAK = np.zeros((NUM_COUNTS, segments, ROOM, arms, NUM_BUCKETS), dtype=np.int32)
        self._values_MGSAK = np.zeros((len(Measure) - NUM_COUNTS, segments, ROOM, arms, NUM_BUCKETS), dtype=np.int64)
        self._drawn: Counter[tuple[int, int, int, Arm]] = Counter()
        self._pairs_GKP = np.zeros((segments, NUM_BUCKETS, len(PairMeasure)), dtype=np.int64)
        self._score_bins_GAKB = np.zeros((segments, arms, NUM_BUCKETS, NUM_SCORE_BINS), dtype=np.int32)
        self._score_pairs_CBB = np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), dtype=np.int32)
        reliability = (segments, arms, NUM_COARSE_BUCKETS, NUM_SCORE_BINS, len(ReliabilityMeasure))
        self._reliability_GACBR = np.zeros(reliability, dtype=np.int64)
        self._shadow_reliability_GACBR = np.zeros(reliability, dtype=np.int64)
        self._immature: dict[Label, deque[tuple[int, Cohort]]] = {label: deque() for label in Label}
        self._newest_ms: int | None = None
        self._candidate_newest_ms: int | None = None

    def add(self, cohort: Cohort, *, drawn: Drawn) -> None:
        """Take a cohort in, and the users who were first met under its weight; cohorts come in order of time."""
        place = self._place(cohort.stratum)
        _add(self._counts_MGSAK[Measure.IMPRESSIONS, :, place], cohort.impressions_VAK)
        split = cohort.stratum
        for (above_bp, arm), users in drawn.items():
            self._drawn[split.generation, above_bp, split.candidate_bp, arm] += users
        for label in Label:
            self._immature[label].append((place, cohort))
        by_arm_A = cohort.impressions_VAK.sum(axis=(0, 2))
        if cohort.pairs is not None:
            self._add_pairs(cohort.pairs)
        if by_arm_A.any():
            self._newest_ms = cohort.end_ms - 1
        if by_arm_A[Arm.CANDIDATE] or (cohort.pairs is not None and cohort.pairs.pairs_VKP.any()):
            self._candidate_newest_ms = cohort.end_ms - 1

    def impressions(self, arm: Arm) -> int:
        return int(self._counts_MGSAK[Measure.IMPRESSIONS, 0, :, arm].sum(dtype=np.int64))

    def pairs(self) -> int:
        return int(self._pairs_GKP[0, :, PairMeasure.PAIRS].sum())

    def moments(self, *, as_of_ms: int, users_A: tuple[int, int], before_MGAK: IntArray | None = None) -> Moments:
        self._mature(as_of_ms)
        size = len(self._strata)
        return Moments(
            surface=SURFACE,
            stable=STABLE,
            candidate=CANDIDATE,
            segments=self.segments,
            strata=tuple(self._strata),
            counts_MGSAK=self._counts_MGSAK[:, :, :size].copy(),
            values_MGSAK=self._values_MGSAK[:, :, :size].copy(),
            pairs_GKP=self._pairs_GKP.copy(),
            score_bins_GAKB=self._score_bins_GAKB.copy(),
            score_pairs_CBB=self._score_pairs_CBB.copy(),
            reliability_GACBR=self._reliability_GACBR.copy(),
            shadow_reliability_GACBR=self._shadow_reliability_GACBR.copy(),
            draws=draws_of(self._drawn),
            users_A=users_A,
            cross_exposed_users=0,
            as_of_ms=as_of_ms,
            newest_event_ms=self._newest_ms,
            candidate_newest_ms=self._candidate_newest_ms,
            before_MGAK=before_MGAK,
        )

    def _place(self, stratum: Stratum) -> int:
        if not self._strata or self._strata[-1] != stratum:
            self._strata.append(stratum)
        if len(self._strata) > self._counts_MGSAK.shape[2]:
            self._counts_MGSAK = _doubled(self._counts_MGSAK, axis=2)
            self._values_MGSAK = _doubled(self._values_MGSAK, axis=2)
        return len(self._strata) - 1

    def _add_pairs(self, pairs: Pairs) -> None:
        for measure in AT_ONCE:
            _add(self._pairs_GKP[..., measure], pairs.pairs_VKP[..., measure])
        _add(self._score_bins_GAKB, pairs.score_bins_VAKB)
        self._score_pairs_CBB += pairs.score_pairs_CBB.astype(np.int32)

    def _mature(self, as_of_ms: int) -> None:
        for label, waiting in self._immature.items():
            while waiting and waiting[0][1].end_ms + self._windows_ms[label] <= as_of_ms:
                self._count(label, *waiting.popleft())

    def _count(self, label: Label, place: int, cohort: Cohort) -> None:
        _add(self._counts_MGSAK[MATURED_OF[label], :, place], cohort.impressions_VAK)
        numerator = NUMERATOR_OF[label]
        if numerator < NUM_COUNTS:
            _add(self._counts_MGSAK[numerator, :, place], cohort.labels_VAK[label])
        else:
            _add(self._values_MGSAK[numerator - NUM_COUNTS, :, place], cohort.labels_VAK[label])
        if label is Label.CLICK:
            _add(self._values_MGSAK[Measure.SCORE - NUM_COUNTS, :, place], cohort.score_VAK)
            _add(self._reliability_GACBR, cohort.reliability_VACBR)
            if cohort.pairs is not None:
                for measure in set(PairMeasure) - set(AT_ONCE):
                    _add(self._pairs_GKP[..., measure], cohort.pairs.pairs_VKP[..., measure])
                _add(self._shadow_reliability_GACBR, cohort.pairs.reliability_VACBR)


def _add(sums_G: NDArray[np.signedinteger], part_V: IntArray) -> None:
    """Add view types to their segments and, together, to the surface."""
    sums_G[1:] += part_V.astype(sums_G.dtype, copy=False)
    sums_G[0] += part_V.sum(axis=0).astype(sums_G.dtype, copy=False)


def _doubled(array: NDArray[np.signedinteger], *, axis: int) -> NDArray[np.signedinteger]:
    return np.concatenate([array, np.zeros_like(array)], axis=axis)
