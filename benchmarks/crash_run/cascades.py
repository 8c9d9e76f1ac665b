"""What a release's edges ask for: who starts only after whom, and who goes home or is held in the very transaction in
which what is above goes home. Worked out here from the edges alone, not by the code that is run."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.crash_run.violation import Violation
from control_plane.registry.tables import HistoryRow, ReleaseRow, RolloutRow
from control_plane.scheduler.applied import SCHEDULER

GOES_HOME = ("roll_back", "abort", "quarantine", "make_way", "dequeue")  # the last where it may not serve any more
ON_THE_WAY = ("warming", "shadow", "ramping", "watching")
FOLLOWS = re.compile(r"[\w, ]+ was rolled back(:|$)")  # the reason of what is taken along or held
GAVE_UP = "below it nothing was handed back"  # where one that should follow has nothing to land on, all are held

Edges = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A link of a surface's history, `number` as its transaction came to the surface."""

    row: HistoryRow
    number: int
    written_in: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def rollout_id(self) -> int | None:
        was = self.before.get("rollout")
        return self.row.rollout_id if was is None else int(was["rollout_id"])

    @cached_property
    def follows(self) -> bool:
        """Whether it happened for what happened above it."""
        return follows(self.row)

    @property
    def goes_home(self) -> bool:
        becomes = self.after.get("rollout")
        return becomes is not None and becomes["phase"] == "rolled_back" and self.row.command in GOES_HOME


@dataclass(kw_only=True, slots=True)
class _Way:
    """One rollout as its history left it."""

    phase: str = "pending"
    reached: list[tuple[int, datetime]] = field(default_factory=list)  # weights, and when
    went_home_at: datetime | None = None


class Cascades:
    """Of one registry: told of each change once, with all others of its transaction."""

    def __init__(self) -> None:
        self.followed = 0  # changes that were made for what is above
        self._ways: dict[int, _Way] = {}
        self._stands: dict[str, Mapping[str, Any]] = {}

    def problems(self, session: Session, changes: Collection[Change]) -> Iterator[Violation]:
        transactions: dict[str, list[Change]] = {}
        for change in sorted(changes, key=lambda change: change.number):
            transactions.setdefault(change.written_in or f"{change.row.surface}/{change.row.seq}", []).append(change)
        for together in transactions.values():
            yield from self._started(session, together)
            yield from self._went_home(session, together)
            self._note(together)

    def _started(self, session: Session, together: Sequence[Change]) -> Iterator[Violation]:
        """A scheduler starts a surface once what is above it held its share; people start what they like."""
        for change in together:
            if change.row.command != "start" or change.row.by != SCHEDULER:
                continue
            release_id, edges, rollouts = _release_of(session, change.rollout_id)
            for edge in edges:
                above = rollouts.get(edge["upstream"])
                if edge["downstream"] == change.row.surface and above is not None:
                    way = self._ways.get(above.rollout_id, _Way())
                    if what := _too_early(edge, way, change.row.at):
                        where = f"{change.row.surface} of release {release_id}"
                        yield Violation(invariant="releases", where=where, what=f"started, and {what}")

    def _went_home(self, session: Session, together: Sequence[Change]) -> Iterator[Violation]:
        expected: dict[int, str] = {}  # by rollout: what has to happen to it
        gave_up = any(GAVE_UP in change.row.reason for change in together)
        for release_id, gone in _gone(session, together).items():
            _, edges, rollouts = _release_by_id(session, release_id)
            back, held = _below(gone, edges)
            below = {surface: rollouts[surface] for surface in (*back, *held) if surface in rollouts}
            could_fail = any(self._is_done(below[surface]) for surface in back if surface in below)
            for surface, rollout in below.items():
                stays = surface in held or (gave_up and could_fail and self._phase(rollout) != "queued")
                wanted = "be held" if stays else "go home"
                if self._is_able(rollout, wanted):
                    expected[rollout.rollout_id] = wanted
                elif surface in held or gave_up:
                    expected.setdefault(rollout.rollout_id, "")
            for edge in edges:  # what was taken along first and then went for its own sake, in one transaction
                if edge["upstream"] in {*gone, *back} and edge["downstream"] in gone:
                    expected.setdefault(rollouts[edge["downstream"]].rollout_id, "")
        yield from _compared(together, expected)
        self.followed += sum(change.follows for change in together)

    def _is_able(self, rollout: RolloutRow, wanted: str) -> bool:
        phase = self._phase(rollout)
        if wanted == "be held":
            return phase in ON_THE_WAY
        return self._is_done(rollout) or phase in ("queued", "pending", "held", "expired", *ON_THE_WAY)

    def _is_done(self, rollout: RolloutRow) -> bool:
        """Whether it made what is stable still."""
        stands = self._stands.get(rollout.surface, {})
        return self._phase(rollout) == "done" and stands.get("stable") == rollout.candidate

    def _phase(self, rollout: RolloutRow) -> str:
        return self._ways.get(rollout.rollout_id, _Way()).phase

    def _note(self, together: Sequence[Change]) -> None:
        for change in together:
            self._stands[change.row.surface] = change.after
            becomes = change.after.get("rollout")
            if becomes is None:
                continue
            way = self._ways.setdefault(becomes["rollout_id"], _Way())
            if change.row.command in ("restart", "renew_watch"):
                way.reached.clear()
            if change.after["candidate_bp"]:
                way.reached.append((change.after["candidate_bp"], change.row.at))
            way.phase = becomes["phase"]
            way.went_home_at = change.row.at if way.phase == "rolled_back" else None


def follows(row: HistoryRow) -> bool:
    return row.command in ("roll_back", "hold") and FOLLOWS.match(row.reason) is not None


def changes_of(rows: Collection[HistoryRow], together: Mapping[tuple[str, int], tuple[int, str]]) -> list[Change]:
    """`together` has number and transaction by surface and place in its history; the first changes have none."""
    found = []
    for row in rows:
        number, written_in = together.get((row.surface, row.seq), (0, ""))
        before, after = json.loads(row.before), json.loads(row.after)
        found.append(Change(row=row, number=number, written_in=written_in, before=before, after=after))
    return found


def _gone(session: Session, together: Sequence[Change]) -> dict[int, set[str]]:
    """By release: the surfaces that went home for their own sake."""
    found: dict[int, set[str]] = {}
    for change in together:
        if change.goes_home and not change.follows:
            release_id, _, _ = _release_of(session, change.rollout_id)
            if release_id is not None:
                found.setdefault(release_id, set()).add(change.row.surface)
    return found


def _compared(together: Sequence[Change], expected: Mapping[int, str]) -> Iterator[Violation]:
    """What is expected happened, and nothing was taken along that is below nothing."""
    for rollout_id, wanted in expected.items():
        own = [change for change in together if change.rollout_id == rollout_id]
        has_happened = any(change.goes_home if wanted == "go home" else change.row.command == "hold" for change in own)
        went_anyway = wanted == "be held" and any(change.goes_home for change in own)
        if wanted and not (has_happened or went_anyway):
            where = f"generation {together[0].row.seq} of {together[0].row.surface}"
            yield Violation(invariant="releases", where=where, what=f"rollout {rollout_id} below it had to {wanted}")
    for change in together:
        if change.follows and change.rollout_id not in expected:
            where = f"generation {change.row.seq} of {change.row.surface}"
            yield Violation(invariant="releases", where=where, what="was taken along, and stands below nothing")


def _below(gone: Collection[str], edges: Edges) -> tuple[set[str], set[str]]:
    """The surfaces that go home with those that did, and those that are held."""

    def under(surfaces: Collection[str], policy: str) -> set[str]:
        return {edge["downstream"] for edge in edges if edge["upstream"] in surfaces and edge["on_rollback"] == policy}

    back: set[str] = set()
    while more := under({*gone, *back}, "cascade") - back - set(gone):
        back |= more
    return back, under({*gone, *back}, "hold") - back - set(gone)


def _too_early(edge: Mapping[str, Any], above: _Way, at: datetime) -> str | None:
    since = min((when for bp, when in above.reached if bp >= edge["share_bp"]), default=None)
    if above.went_home_at is not None and edge["on_rollback"] != "ignore":
        return f"{edge['upstream']} had been rolled back"
    by = above.went_home_at or at
    if since is None or since + timedelta(seconds=edge["held_seconds"]) > by:
        return f"{edge['upstream']} had not held {edge['share_bp']} basis points for {edge['held_seconds']:g} s"
    return None


def _release_of(session: Session, rollout_id: int | None) -> tuple[int | None, Edges, dict[str, RolloutRow]]:
    rollout = None if rollout_id is None else session.get(RolloutRow, rollout_id)
    if rollout is None or rollout.release_id is None:
        return None, (), {}
    return _release_by_id(session, rollout.release_id)


def _release_by_id(session: Session, release_id: int) -> tuple[int | None, Edges, dict[str, RolloutRow]]:
    release = session.get(ReleaseRow, release_id)
    rows = session.scalars(select(RolloutRow).where(RolloutRow.release_id == release_id))
    return release_id, () if release is None else release.edges, {row.surface: row for row in rows}
