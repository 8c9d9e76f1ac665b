"""Moments computed the slow and obvious way, event by event in plain Python, to check the real ones against."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from control_plane.domain.events import HOME_ARM, Engagement, Exposure, Label, ShadowScore
from control_plane.domain.moments import (
    MATURED_OF,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    NUMERATOR_OF,
    Draw,
    Measure,
    Moments,
    PairMeasure,
    Stratum,
)
from control_plane.domain.split import NUM_BUCKETS, bucket_of, slot_of
from control_plane.evidence.aggregate import MomentsQuery
from control_plane.evidence.event_log import DAY_MS
from tests.evidence.events import Event, as_row
from tests.guardrails.builders import RELIABILITY_SHAPE, packed_sums

T = TypeVar("T", Exposure, ShadowScore, Engagement)
Key = tuple[int, int, int]  # day, user, impression


def brute_force(events: Iterable[Event], query: MomentsQuery) -> Moments:
    return _BruteForce(list(events), query).moments()


class _BruteForce:
    def __init__(self, events: list[Event], query: MomentsQuery) -> None:
        self.query = query
        shown = _once([e for e in events if isinstance(e, Exposure)], lambda e: _key(e))
        scored = _once([e for e in events if isinstance(e, ShadowScore)], lambda e: (*_key(e), e.version_id))
        engaged = _once([e for e in events if isinstance(e, Engagement)], lambda e: (*_key(e), e.label, e.event_id))
        self.shown = [e for e in shown if e.surface == query.surface and self._in_time(e)]
        self.shown_before = [e for e in shown if e.surface == query.surface and self._is_before(e)]
        self.scored = [
            e for e in scored if e.surface == query.surface and self._in_time(e) and e.version_id == query.candidate
        ]
        self.counted = [e for e in self.shown if self._arm(e) is not None and e.generation in query.shares]
        self.engaged: dict[Key, list[Engagement]] = defaultdict(list)
        for engagement in engaged:
            if engagement.surface == query.surface:
                self.engaged[_key(engagement)].append(engagement)

    def moments(self) -> Moments:
        query = self.query
        places = sorted({(e.served_at_ms // DAY_MS, e.generation) for e in self.counted})
        strata = tuple(Stratum(day=day, generation=gen, candidate_bp=query.shares[gen]) for day, gen in places)
        segments = ("*", *query.view_types)
        sums = np.zeros((len(segments), len(strata), 2, NUM_BUCKETS, len(Measure)), np.int64)
        reliability = np.zeros((len(segments), *RELIABILITY_SHAPE), np.int64)
        for exposure in self.counted:
            arm, bucket = self._arm(exposure), int(bucket_of(exposure.user_key))
            stratum = places.index((exposure.served_at_ms // DAY_MS, exposure.generation))
            for segment in self._segments(exposure):
                sums[segment, stratum, arm, bucket] += self._measures(exposure)
                if self._has_matured(exposure, Label.CLICK):
                    row = [1, _fixed(exposure.score), self._label(exposure, Label.CLICK)]
                    reliability[segment, arm, _coarse(bucket), _bin(exposure.score)] += row
        newest = [e.served_at_ms for e in self.shown]
        of_candidate = [e.served_at_ms for e in self.shown if e.version_id == query.candidate or e.arm == HOME_ARM]
        return Moments(
            surface=query.surface,
            stable=query.stable,
            candidate=query.candidate,
            segments=segments,
            strata=strata,
            **packed_sums(sums),
            **self._shadow(len(segments)),
            reliability_GACBR=reliability,
            draws=self._draws(),
            users_A=(len(self._users(0)), len(self._users(1))),
            cross_exposed_users=self._cross_exposed(),
            as_of_ms=query.as_of_ms,
            newest_event_ms=max(newest, default=None),
            candidate_newest_ms=max([*of_candidate, *(e.served_at_ms for e in self.scored)], default=None),
            before_MGAK=self._before(len(segments)),
        )

    def _in_time(self, event: Exposure | ShadowScore) -> bool:
        return self.query.since_ms <= event.served_at_ms <= self.query.as_of_ms

    def _is_before(self, exposure: Exposure) -> bool:
        day, first_day = exposure.served_at_ms // DAY_MS, self.query.since_ms // DAY_MS
        return first_day - self.query.pre_period_days <= day < first_day

    def _before(self, segments: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None":
        shared = [share for _, share in sorted(self.query.shares.items()) if share not in (0, 10_000)]
        if not shared or not self.shown_before:
            return None
        sums = np.zeros((len(Measure), segments, 2, NUM_BUCKETS), np.int64)
        for exposure in self.shown_before:
            arm = int(slot_of(exposure.user_key, self.query.salt) < shared[-1])
            for segment in self._segments(exposure):
                sums[:, segment, arm, int(bucket_of(exposure.user_key))] += self._measures(exposure)
        return sums

    def _arm(self, exposure: Exposure) -> int | None:
        served = (exposure.arm, exposure.version_id)
        return {("stable", self.query.stable): 0, ("candidate", self.query.candidate): 1}.get(served)

    def _segments(self, exposure: Exposure) -> list[int]:
        named = [1 + i for i, view_type in enumerate(self.query.view_types) if view_type == exposure.view_type]
        return [0, *named]

    def _has_matured(self, exposure: Exposure, label: Label) -> bool:
        return self.query.as_of_ms - exposure.served_at_ms >= self.query.windows_ms[label]

    def _came(self, exposure: Exposure, label: Label) -> list[float]:
        window = self.query.windows_ms[label]
        found = [e for e in self.engaged[_key(exposure)] if e.label == label]
        return [e.value for e in found if e.occurred_at_ms - exposure.served_at_ms <= window]

    def _label(self, exposure: Exposure, label: Label) -> int:
        values = self._came(exposure, label)
        if label is Label.REVENUE:
            return min(sum(_fixed(value) for value in values), _fixed(self.query.revenue_cap))
        return int(bool(values))

    def _measures(self, exposure: Exposure) -> list[int]:
        row = dict.fromkeys(Measure, 0)
        row[Measure.IMPRESSIONS] = 1
        for label in Label:
            if self._has_matured(exposure, label):
                row[MATURED_OF[label]] = 1
                row[NUMERATOR_OF[label]] = self._label(exposure, label)
        if row[Measure.MATURED_CLICK]:
            row[Measure.SCORE] = _fixed(exposure.score)
        return [row[measure] for measure in Measure]

    def _shadow(self, segments: int) -> dict[str, Any]:
        pairs = np.zeros((segments, NUM_BUCKETS, len(PairMeasure)), np.int64)
        bins = np.zeros((segments, 2, NUM_BUCKETS, NUM_SCORE_BINS), np.int32)
        both = np.zeros((NUM_COARSE_BUCKETS, NUM_SCORE_BINS, NUM_SCORE_BINS), np.int32)
        reliability = np.zeros((segments, *RELIABILITY_SHAPE), np.int64)
        stable = {_key(e): e for e in self.counted if self._arm(e) == 0}
        for scored in self.scored:
            exposure = stable.get(_key(scored))
            if exposure is None:
                continue
            bucket = int(bucket_of(exposure.user_key))
            both[_coarse(bucket), _bin(exposure.score), _bin(scored.score)] += 1
            for segment in self._segments(exposure):
                for arm, score in enumerate((exposure.score, scored.score)):
                    if self._has_matured(exposure, Label.CLICK):
                        row = [1, _fixed(score), self._label(exposure, Label.CLICK)]
                        reliability[segment, arm, _coarse(bucket), _bin(score)] += row
                pairs[segment, bucket] += self._pair_measures(exposure, scored)
                bins[segment, 0, bucket, _bin(exposure.score)] += 1
                bins[segment, 1, bucket, _bin(scored.score)] += 1
        return {
            "pairs_GKP": pairs,
            "score_bins_GAKB": bins,
            "score_pairs_CBB": both,
            "shadow_reliability_GACBR": reliability,
        }

    def _pair_measures(self, exposure: Exposure, scored: ShadowScore) -> list[int]:
        log_ratio = _fixed(math.log(_clipped(scored.score)) - math.log(_clipped(exposure.score)))
        if not self._has_matured(exposure, Label.CLICK):
            return [1, 0, 0, 0, 0, 0, 0, 0, 0, log_ratio]
        click = self._label(exposure, Label.CLICK)
        scores = (exposure.score, scored.score)
        return [
            *(1, 1, click),
            *(_fixed(score) for score in scores),
            *(_fixed(_loss(score, click)) for score in scores),
            *(_fixed((score - click) * (score - click)) for score in scores),
            log_ratio,
        ]

    def _users(self, arm: int) -> set[int]:
        return {e.user_key for e in self.counted if self._arm(e) == arm}

    def _cross_exposed(self) -> int:
        arms: dict[tuple[int, int], set[int | None]] = defaultdict(set)
        for exposure in self.counted:
            arms[exposure.user_key, exposure.generation].add(self._arm(exposure))
        return len({user for (user, _), seen in arms.items() if len(seen) == 2})

    def _draws(self) -> tuple[Draw, ...]:
        arms: dict[int, dict[int, set[int | None]]] = defaultdict(lambda: defaultdict(set))
        for exposure in self.counted:
            arms[exposure.user_key][exposure.generation].add(self._arm(exposure))
        counts: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        for by_generation in arms.values():
            if any(len(seen) == 2 for seen in by_generation.values()):
                continue
            above = 0
            for generation, seen in sorted(by_generation.items()):
                share = self.query.shares[generation]
                if share in (0, 10_000):
                    continue
                if share > above:
                    counts[generation, above][1 in seen] += 1
                    above = share
                if 1 in seen:
                    break
        return tuple(
            Draw(generation=gen, above_bp=above, candidate_bp=self.query.shares[gen], stable=pair[0], candidate=pair[1])
            for (gen, above), pair in sorted(counts.items())
        )


def _once(events: Sequence[T], identity: Callable[[T], object]) -> list[T]:
    first: dict[object, T] = {}
    for event in sorted(events, key=as_row):
        first.setdefault(identity(event), event)
    return list(first.values())


def _key(event: Event) -> Key:
    return event.served_at_ms // DAY_MS, event.user_key, event.impression_id


def _clipped(score: float) -> float:
    return min(max(score, 1e-7), 1 - 1e-7)


def _loss(score: float, click: int) -> float:
    return -math.log(_clipped(score) if click else 1 - _clipped(score))


def _bin(score: float) -> int:
    p = _clipped(score)
    return min(max(math.floor((math.log(p / (1 - p)) + 10) / 0.5), 0), NUM_SCORE_BINS - 1)


def _coarse(bucket: int) -> int:
    return bucket // (NUM_BUCKETS // NUM_COARSE_BUCKETS)


def _fixed(value: float) -> int:
    """Round half away from zero to millionths."""
    scaled = value * 1_000_000
    return int(math.copysign(math.floor(abs(scaled) + 0.5), scaled))
