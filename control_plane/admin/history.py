"""Changes as lines: who, why, and what was different afterwards."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.admin import wording
from control_plane.domain.rollout import Command
from control_plane.registry.history import Entry

VERSIONS = ("stable", "candidate", "shadow", "last_proven")
SHARES = ("candidate_bp", "shadow_sample_bp")
NAMES = {
    "stable": "stable",
    "candidate": "candidate",
    "candidate_bp": "candidate's share",
    "shadow": "shadow",
    "shadow_sample_bp": "shadow's sample",
    "last_proven": "last proven",
    "phase": "phase",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One change; `generation` is the one it made."""

    surface: str
    generation: int
    at: datetime
    by: str
    command: str
    reason: str
    differences: tuple[Difference, ...]
    rollout_id: int | None
    verdict_id: int | None
    hash: str


def withdrawn(entries: Sequence[Entry]) -> frozenset[int]:
    """The rollouts that a person aborted: they end as rolled back ones do, though nobody found fault with them."""
    return frozenset(
        entry.rollout_id for entry in entries if entry.rollout_id is not None and entry.command == Command.ABORT
    )


def lines(entries: Sequence[Entry]) -> tuple[Line, ...]:
    return tuple(_line(entry) for entry in entries)


def _line(entry: Entry) -> Line:
    before, after = _flat(json.loads(entry.before)), _flat(json.loads(entry.after))
    return Line(
        surface=entry.surface,
        generation=entry.seq,
        at=entry.at,
        by=entry.by,
        command=entry.command.replace("_", " "),
        reason=entry.reason,
        differences=tuple(
            Difference(name=name, before=_words(key, before.get(key)), after=_words(key, after.get(key)))
            for key, name in NAMES.items()
            if (before.get(key) or None) != (after.get(key) or None)
        ),
        rollout_id=entry.rollout_id,
        verdict_id=entry.verdict_id,
        hash=entry.hash,
    )


def _flat(state: Mapping[str, object]) -> dict[str, object]:
    """A surface with its rollout's phase beside its own fields."""
    rollout = state.get("rollout")
    phase = rollout.get("phase") if isinstance(rollout, Mapping) else None
    return {**state, "phase": phase}


def _words(key: str, value: object) -> str:
    if key in SHARES:
        return wording.share(value if isinstance(value, int) else 0)
    if value is None:
        return "none"
    if key in VERSIONS:
        return wording.short_version(str(value))
    return str(value).replace("_", " ")
