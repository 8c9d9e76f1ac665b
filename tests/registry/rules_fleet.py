"""Runtimes in small: who was heard lately, what each serves and holds. They fall silent by saying nothing."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from control_plane.domain.model_version import Surface, VersionId

SILENT = timedelta(minutes=10)
LEAST_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a runtime said last."""

    heard_at: datetime
    generations: dict[Surface, int]
    loaded: frozenset[VersionId]


@dataclass(kw_only=True)
class Fleet:
    beats: dict[str, Beat] = field(default_factory=dict)  # by runtime

    def live(self, at: datetime) -> list[Beat]:
        return [beat for beat in self.beats.values() if beat.heard_at >= at - SILENT]

    def serves(self, surface: Surface, generation: int, at: datetime) -> bool:
        """Whether nearly all that live have come to a generation; never where none lives."""
        live = self.live(at)
        reached = sum(beat.generations[surface] >= generation for beat in live)
        return bool(live) and reached >= LEAST_SHARE * len(live)

    def holds(self, version: VersionId, at: datetime) -> bool:
        live = self.live(at)
        return bool(live) and all(version in beat.loaded for beat in live)
