"""What serves by surface: the splits in force, those that wait for their versions, and when a lease runs out.

What must hold here: a surface's generation never falls. A version is loaded before it gets weight, while weight
is taken away at once. A candidate that nobody watches any more goes home when its seconds are used up, whether or
not the control plane can be reached: seconds count on the monotonic clock from when they were asked for.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from control_plane.domain.errors import InvalidSplit
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Split

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A split and when, on the monotonic clock, its candidate goes home (inf where nothing runs out)."""

    split: Split
    home_at: float

    def effective(self, now: float) -> Split:
        return self.split if now < self.home_at else stable_only(self.split)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What GET /v1/splits answers."""

    splits: Mapping[Surface, Split]
    artifact_uris: Mapping[VersionId, str]

    def to_json(self) -> str:
        return json.dumps({"splits": [s.to_json() for s in self.splits.values()], "versions": self.artifact_uris})

    @classmethod
    def from_json(cls, body: bytes | str) -> "Snapshot":
        """Read it; `InvalidSplit` names what is wrong."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidSplit("splits", f"is not JSON: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("splits"), list):
            raise InvalidSplit("splits", "must be a list")
        versions = value.get("versions")
        if not isinstance(versions, dict) or not all(isinstance(uri, str) for uri in versions.values()):
            raise InvalidSplit("versions", "must map version ids to artifact URIs")
        if not all(isinstance(split, dict) for split in value["splits"]):
            raise InvalidSplit("splits", "must be objects")
        splits = [Split.from_json(split) for split in value["splits"]]
        return cls(splits={split.surface: split for split in splits}, artifact_uris=versions)


class SplitTable:
    """The held splits by surface, and those ordered but not yet loaded. Thread-safe; does no I/O."""

    def __init__(self, *, is_ready: Callable[[Split], bool], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._is_ready = is_ready
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: dict[Surface, Held] = {}
        self._ordered: dict[Surface, Held] = {}
        self._artifact_uris: dict[VersionId, str] = {}

    def split(self, surface: Surface) -> Split | None:
        """What serves on a surface now."""
        held = self._held.get(surface)
        return None if held is None else held.effective(self._monotonic())

    def splits(self) -> dict[Surface, Split]:
        now = self._monotonic()
        with self._lock:
            return {surface: held.effective(now) for surface, held in self._held.items()}

    def ordered(self) -> frozenset[Surface]:
        """Surfaces whose newest split waits for its versions to load."""
        with self._lock:
            return frozenset(self._ordered)

    def wanted(self) -> dict[VersionId, str]:
        """Artifact URIs of every version that a held or an ordered split names, the most urgent first."""
        with self._lock:
            splits = [held.split for held in (*self._ordered.values(), *self._held.values())]
            by_urgency = [s.stable for s in splits] + [s.candidate for s in splits] + [s.shadow for s in splits]
            return {v: self._artifact_uris.get(v, "") for v in by_urgency if v is not None}

    def offer(self, snapshot: Snapshot, *, asked_at: float) -> bool:
        """Take in what the control plane said at or after `asked_at`; True if a split is newer, or a version lies
        elsewhere, than before."""
        with self._lock:
            has_moved = any(self._artifact_uris.get(v) != uri for v, uri in snapshot.artifact_uris.items())
            self._artifact_uris.update(snapshot.artifact_uris)
            newer = [self._order(split, asked_at) for split in snapshot.splits.values()]
            self._forget_uris()
            return any(newer) or has_moved

    def offer_pushed(self, snapshot: Snapshot, *, asked_at: float) -> bool:
        """Take in those pushed splits that are newer than what is known; True if there are any.

        `asked_at` is of the latest question that was answered. That answer was older than a split which is newer than
        it, so the split's seconds were counted after the question, however long the push then lay in a buffer. Of one
        that is not newer nobody knows that, so it renews no lease.
        """
        with self._lock:
            newer = [split for split in snapshot.splits.values() if self._is_newer(split)]
            named = {v for split in newer for v in (split.stable, split.candidate, split.shadow)}
            self._artifact_uris.update({v: uri for v, uri in snapshot.artifact_uris.items() if v in named})
            for split in newer:
                self._order(split, asked_at)
            return bool(newer)

    def settle(self) -> None:
        """Let those ordered splits take effect whose versions are loaded."""
        with self._lock:
            for surface, ordered in list(self._ordered.items()):
                if self._is_ready(ordered.split):
                    self._held[surface] = self._ordered.pop(surface)

    def snapshot(self) -> Snapshot:
        """The newest splits known, for the disk."""
        with self._lock:
            newest = {surface: held.split for surface, held in {**self._held, **self._ordered}.items()}
            named = {v for s in newest.values() for v in (s.stable, s.candidate, s.shadow)}
            uris = {v: uri for v, uri in self._artifact_uris.items() if v in named}
            return Snapshot(splits=newest, artifact_uris=uris)

    def _forget_uris(self) -> None:
        splits = [held.split for held in (*self._held.values(), *self._ordered.values())]
        named = {v for s in splits for v in (s.stable, s.candidate, s.shadow)}
        self._artifact_uris = {v: uri for v, uri in self._artifact_uris.items() if v in named}

    def _is_newer(self, split: Split) -> bool:
        newest = self._ordered.get(split.surface) or self._held.get(split.surface)
        return newest is None or split.generation > newest.split.generation

    def _order(self, split: Split, asked_at: float) -> bool:
        offered = Held(split=split, home_at=asked_at + _seconds_left(split))
        newest = self._ordered.get(split.surface) or self._held.get(split.surface)
        if newest is not None and split.generation < newest.split.generation:
            log.warning(
                "%s: generation %d offered after %d; ignored", split.surface, split.generation, newest.split.generation
            )
            return False
        if newest is not None and split.generation == newest.split.generation:
            self._renew(offered)
            return False
        self._ordered[split.surface] = offered
        if (held := self._held.get(split.surface)) is not None:
            self._held[split.surface] = replace(held, split=meanwhile(held.split, split))
        return True

    def _renew(self, offered: Held) -> None:
        for table in (self._held, self._ordered):
            known = table.get(offered.split.surface)
            if known is not None and known.split.generation == offered.split.generation:
                # An answer that was long on its way must not shorten what a later question brought.
                table[offered.split.surface] = replace(known, home_at=max(known.home_at, offered.home_at))


def stable_only(split: Split) -> Split:
    """The same generation with all weight on stable."""
    return replace(split, candidate_bp=0) if split.candidate_bp else split


def meanwhile(held: Split, ordered: Split) -> Split:
    """What to serve while an ordered split's versions load: never more of the held candidate than is ordered."""
    allowed_bp = ordered.weights_bp.get(held.candidate, 0) if held.candidate is not None else 0
    return replace(held, candidate_bp=min(held.candidate_bp, allowed_bp))


def _seconds_left(split: Split) -> float:
    """A candidate with weight is always on a lease: where none is named, none is left."""
    if split.unwatched_seconds_left is not None:
        return split.unwatched_seconds_left
    return 0.0 if split.candidate_bp else math.inf
