"""What must always be true, read from the database alone: invariants 1 to 6 and 9, what a release's edges ask for, and
what people were answered."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from benchmarks.crash_run import answers, growth, standing
from benchmarks.crash_run.answers import Answers
from benchmarks.crash_run.cascades import Cascades, changes_of, follows
from benchmarks.crash_run.moves import broken_move, is_raise, is_waiting
from benchmarks.crash_run.violation import Violation, told
from benchmarks.crash_run.wrote import TOGETHER, WROTE
from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.guardrails.replay import replay
from control_plane.registry import history
from control_plane.registry.session import Sessions
from control_plane.registry.tables import (
    HistoryRow,
    RolloutRow,
    SplitRow,
    SurfaceRow,
    VerdictInputsRow,
    VerdictRow,
)
from control_plane.scheduler.applied import SCHEDULER

GENESIS = "sha256:" + "0" * 64  # what the first change of a surface follows

State = Mapping[str, Any]


@dataclass(kw_only=True, slots=True)
class _Seen:
    """Where one surface's history was left at the last look."""

    seq: int = -1
    hash: str = GENESIS
    after: State = field(default_factory=dict)
    epoch: int = 0
    taken_back: set[str] = field(default_factory=set)
    rollouts: dict[int, tuple[str, int]] = field(default_factory=dict)  # phase and step as the history has them


class Checker:
    """Of one registry: `check` looks at the present and at what is new since its last look."""

    def __init__(self, told_people: Answers | None = None) -> None:
        self.transitions = 0
        self.raises = 0
        self.verdicts = 0
        self.cascades = Cascades()
        self._seen: dict[str, _Seen] = {}
        self._verdict_id = 0
        self._wrote = 0
        self._answers = told_people if told_people is not None else Answers()
        self._answered = 0

    def check(self, sessions: Sessions) -> list[Violation]:
        """The verdicts that are new are judged again."""
        asked = self._answers.asked[self._answered :]
        with sessions.reading() as session:
            found = [
                *self._changes(session),
                *self._verdicts(session),
                *standing.surfaces(session),
                *standing.rollouts(session, {surface: seen.rollouts for surface, seen in self._seen.items()}),
                *standing.leases(session),
                *answers.problems(session, asked),
            ]
        self._answered += len(asked)
        return found

    def check_all(self, sessions: Sessions) -> list[Violation]:
        """The same, with every chain walked from its first link, the outbox, and every answer ever given."""
        found = self.check(sessions)
        with sessions.reading() as session:
            chains = told("9", "history", history.verify(session))
            return [*found, *chains, *standing.outbox(session), *answers.problems(session, self._answers.asked)]

    def _changes(self, session: Session) -> Iterator[Violation]:
        new: list[HistoryRow] = []
        together: dict[tuple[str, int], tuple[int, str]] = {}
        for surface in session.scalars(select(SurfaceRow.surface).order_by(SurfaceRow.surface)).all():
            seen = self._seen.setdefault(surface, _Seen())
            rows = session.scalars(
                select(HistoryRow)
                .where(HistoryRow.surface == surface, HistoryRow.seq > seen.seq)
                .order_by(HistoryRow.seq)
            ).all()
            splits = _splits_above(session, surface, seen.seq)
            wrote = _wrote_above(session, surface, seen.seq)
            together |= _together_above(session, surface, seen.seq)
            new += rows
            for row in rows:
                yield from _one(session, seen, row, splits.pop(row.seq, None), wrote.get(row.seq))
                self.transitions += 1
                self.raises += is_raise(row.command, json.loads(row.before), json.loads(row.after))
            yield from told("1", surface, (f"split {generation} has no change" for generation in splits))
        yield from self.cascades.problems(session, changes_of(new, together))

    def _verdicts(self, session: Session) -> Iterator[Violation]:
        rows = session.execute(
            select(VerdictRow, VerdictInputsRow.content)
            .outerjoin(VerdictInputsRow, VerdictInputsRow.digest == VerdictRow.inputs_digest)
            .where(VerdictRow.verdict_id > self._verdict_id)
            .order_by(VerdictRow.verdict_id)
        ).all()
        wrote = {
            row.verdict_id: row for row in session.execute(select(WROTE).where(WROTE.c.verdict_id > self._verdict_id))
        }
        for row, content in rows:
            yield from told("9", "verdicts", _replayed(row, content))
            yield from told("5", "verdicts", _fenced(f"verdict {row.verdict_id}", wrote.get(row.verdict_id)))
            self._verdict_id = row.verdict_id
            self.verdicts += 1


def _one(
    session: Session, seen: _Seen, row: HistoryRow, split: SplitRow | None, wrote: Row[Any] | None
) -> Iterator[Violation]:
    """All that one change can have got wrong."""
    before, after = json.loads(row.before), json.loads(row.after)
    yield from told("1", row.surface, _linked(seen, row, before))
    yield from told("1", row.surface, _split(row, after, split))
    yield from told("2", row.surface, _served(seen, row, before, after))
    yield from told("3", row.surface, growth.problems(session, row, before, after))
    if row.by == SCHEDULER:
        yield from told("5", row.surface, _fenced(f"change {row.seq}", wrote, after_epoch=seen.epoch))
    yield from told("end state", row.surface, _moved(session, seen, row, before, after))
    seen.seq, seen.hash, seen.after = row.seq, row.hash, _without_rollout(after)
    seen.epoch = max(seen.epoch, 0 if wrote is None else wrote.epoch)


def _linked(seen: _Seen, row: HistoryRow, before: State) -> Iterator[str]:
    if row.seq != seen.seq + 1:
        yield f"change {row.seq} follows {seen.seq}: there is a gap"
    elif row.previous_hash != seen.hash:
        yield f"change {row.seq} does not follow the hash of {seen.seq}"
    elif seen.seq >= 0 and _without_rollout(before) != seen.after:
        yield f"change {row.seq} begins where {seen.seq} did not end"


def _split(row: HistoryRow, after: State, split: SplitRow | None) -> Iterator[str]:
    if after["stable"] is None:
        return
    if split is None:
        yield f"generation {row.seq} has no split"
    elif any(getattr(split, name) != after[name] for name in standing.SERVED):
        yield f"the split of generation {row.seq} is not what its change made"
    if not 0 <= after["candidate_bp"] <= FULL_TRAFFIC_BP or (after["candidate_bp"] and not after["candidate"]):
        yield f"generation {row.seq} gives {after['candidate_bp']} basis points to {after['candidate']}"


def _served(seen: _Seen, row: HistoryRow, before: State, after: State) -> Iterator[str]:
    """Nothing that was taken back serves again, and a way home ends where it should."""
    back = seen.taken_back & {after["stable"], after["candidate"], after["shadow"]}
    if back:
        yield f"generation {row.seq} serves {', '.join(sorted(back))}, which was taken back"
    if row.command not in ("roll_back", "abort") or is_waiting(before):
        return
    if after["candidate"] is not None or after["candidate_bp"] or after["shadow"] is not None:
        yield f"generation {row.seq} went home and still serves a candidate"
    if after["stable"] not in (before["stable"], before["last_proven"]):
        yield f"generation {row.seq} went home to {after['stable']}, neither stable nor last proven"
    if not follows(row):  # what follows an upstream surface home bears no stain
        seen.taken_back |= {before["candidate"], before["shadow"]} - {None}
        seen.taken_back |= {before["stable"]} - {after["stable"], None}


def _fenced(what: str, wrote: Row[Any] | None, *, after_epoch: int = 0) -> Iterator[str]:
    if wrote is None:
        yield f"{what} is the scheduler's, and none wrote it"
        return
    if wrote.believed_epoch != wrote.epoch:
        yield f"{what} was written under epoch {wrote.believed_epoch} when the lease was at {wrote.epoch}"
    if wrote.epoch < after_epoch:
        yield f"{what} under epoch {wrote.epoch} comes after one under {after_epoch}"


def _moved(session: Session, seen: _Seen, row: HistoryRow, before: State, after: State) -> Iterator[str]:
    """One step of what an uninterrupted run does: the same commands one by one lead to the same state."""
    was, becomes = before.get("rollout"), after.get("rollout")
    known = None if was is None else seen.rollouts.get(was["rollout_id"])
    if was is not None and known is not None and known != (was["phase"], was["step"]):
        yield f"change {row.seq} finds rollout {was['rollout_id']} {was['phase']}, it was left {known[0]}"
    plan: Mapping[str, Any] = {}
    if becomes is not None:
        seen.rollouts[becomes["rollout_id"]] = (becomes["phase"], becomes["step"])
        rollout = session.get(RolloutRow, becomes["rollout_id"])
        plan = {} if rollout is None else rollout.plan
    if problem := broken_move(row.command, before, after, plan):
        yield f"change {row.seq} ({row.command}) {problem}"


def _replayed(row: VerdictRow, content: bytes | None) -> Iterator[str]:
    if content is None:
        yield f"verdict {row.verdict_id} has lost its inputs"
        return
    try:
        again = replay(bytes(content))
    except ControlPlaneError as error:
        yield f"verdict {row.verdict_id} cannot be replayed: {error}"
        return
    if again.to_json() != row.verdict:
        yield f"verdict {row.verdict_id} replays differently"


def _splits_above(session: Session, surface: str, seq: int) -> dict[int, SplitRow]:
    rows = session.scalars(select(SplitRow).where(SplitRow.surface == surface, SplitRow.generation > seq))
    return {row.generation: row for row in rows}


def _wrote_above(session: Session, surface: str, seq: int) -> dict[int, Row[Any]]:
    rows = session.execute(select(WROTE).where(WROTE.c.surface == surface, WROTE.c.seq > seq))
    return {row.seq: row for row in rows}


def _together_above(session: Session, surface: str, seq: int) -> dict[tuple[str, int], tuple[int, str]]:
    rows = session.execute(select(TOGETHER).where(TOGETHER.c.surface == surface, TOGETHER.c.seq > seq))
    return {(row.surface, row.seq): (row.number, row.written_in) for row in rows}


def _without_rollout(state: State) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "rollout"}
