"""One surface's changes as a chain of hashes: a row that was altered, dropped or slipped in shows.

The same checks walk a registry and a file that was exported from one. Changes are looked at one after another, and
only the last is kept.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from control_plane.domain.model_version import Surface, digest_of
from control_plane.registry.tables import canonical_json

GENESIS = "sha256:" + "0" * 64  # what the first row of a surface follows
SPLIT_FIELDS = ("stable", "candidate", "candidate_bp", "shadow", "shadow_sample_bp", "salt")

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One change; `seq` is the generation it made. `before` and `after` are JSON objects of the surface,
    with the rollout's phase and step under "rollout" where one took part."""

    surface: Surface
    seq: int
    at: datetime
    by: str
    command: str
    reason: str
    before: str
    after: str
    rollout_id: int | None
    verdict_id: int | None
    code_version: str
    previous_hash: str
    hash: str
    evidence_digest: str | None = None  # of the verdict and its inputs; None without one, or before it was kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The verdict that a change was made on."""

    verdict: str  # JSON, as the judge wrote it
    inputs_digest: str

    @property
    def digest(self) -> str:
        return evidence_digest(self.verdict, self.inputs_digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A change, with what stands beside it: the split that it made and the verdict that it names."""

    entry: Entry
    split: Json | None
    evidence: Evidence | None


def evidence_digest(verdict: str, inputs_digest: str) -> str:
    return digest_of(canonical_json({"verdict": digest_of(verdict.encode()), "inputs": inputs_digest}).encode())


def hash_of(entry: Entry) -> str:
    """What `entry.hash` must be. Rows from before evidence was kept have none in their hash either."""
    content: dict[str, object] = {
        "surface": entry.surface,
        "seq": entry.seq,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "by": entry.by,
        "command": entry.command,
        "reason": entry.reason,
        "before": entry.before,
        "after": entry.after,
        "rollout_id": entry.rollout_id,
        "verdict_id": entry.verdict_id,
        "code_version": entry.code_version,
    }
    if entry.evidence_digest is not None:
        content["evidence_digest"] = entry.evidence_digest
    return digest_of(f"{entry.previous_hash}\n{canonical_json(content)}".encode())


class Chain:
    """Takes a surface's links in order and tells, in words, what does not fit."""

    def __init__(self) -> None:
        self.last: Entry | None = None

    def add(self, link: Link) -> Iterator[str]:
        yield from self._place(link.entry)
        if link.entry.hash != hash_of(link.entry):
            yield f"change {link.entry.seq} was altered"
        yield from _split_problems(link)
        yield from _evidence_problems(link)
        self.last = link.entry

    def end(self, state: Json) -> Iterator[str]:
        """`state` is what the surface is now."""
        if self.last is None:
            yield "has no history"
        elif self.last.seq != state["generation"]:
            yield f"its history ends at {self.last.seq}, it is at generation {state['generation']}"
        elif _surface_part(self.last.after) != state:
            yield f"it is not what change {self.last.seq} left"

    def _place(self, entry: Entry) -> Iterator[str]:
        last = self.last
        if last is None:
            if entry.seq != 0 or entry.previous_hash != GENESIS:
                yield "its first change is missing"
            return
        if entry.seq != last.seq + 1:
            yield f"changes between {last.seq} and {entry.seq} are missing"
        if entry.previous_hash != last.hash:
            yield f"change {entry.seq} does not follow change {last.seq}"
        if _surface_part(entry.before) != _surface_part(last.after):
            yield f"change {entry.seq} begins where change {last.seq} did not end"


def _split_problems(link: Link) -> Iterator[str]:
    after = _surface_part(link.entry.after)
    if after.get("stable") is None:
        return
    if link.split is None:
        yield f"the split of generation {link.entry.seq} is missing"
    elif any(link.split.get(name) != after.get(name) for name in SPLIT_FIELDS):
        yield f"the split of generation {link.entry.seq} is not what its change made"


def _evidence_problems(link: Link) -> Iterator[str]:
    if link.entry.evidence_digest is None:
        return
    if link.evidence is None:
        yield f"verdict {link.entry.verdict_id}, on which change {link.entry.seq} was made, is missing"
    elif link.evidence.digest != link.entry.evidence_digest:
        yield f"verdict {link.entry.verdict_id}, on which change {link.entry.seq} was made, was altered"


def _surface_part(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    value.pop("rollout", None)
    return value
