"""What may go after a while: what judges saw of rollouts long over, and what was only on its way.

The history, the verdicts and the splits stay for ever. Of the inputs, those of a verdict that something was done on
stay too, and those of each rollout's last: they are what people ask about later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Select, Text, cast, delete, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from control_plane.domain.errors import InvalidField
from control_plane.domain.rollout import FINISHED
from control_plane.registry import deliveries, idempotency, leases
from control_plane.registry.session import Sessions
from control_plane.registry.tables import (
    HistoryRow,
    IdempotencyRow,
    OutboxRow,
    RetentionPassRow,
    RolloutRow,
    RuntimeCountsRow,
    RuntimeRow,
    VerdictInputsRow,
    VerdictRow,
)

ROWS_AT_ONCE = 200  # in one transaction, so that a rollback never waits for long
SHORTEST = timedelta(days=1)  # younger things are still being looked at

T = TypeVar("T")


class What(StrEnum):
    VERDICT_INPUTS = "verdict_inputs"
    OUTBOX = "outbox"
    IDEMPOTENCY = "idempotency"
    RUNTIMES = "runtimes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """Things of one kind that may go; `keys` are their primary keys, each with its size in bytes."""

    what: What
    keys: Sequence[tuple[Any, int]]

    @property
    def rows(self) -> int:
        return len(self.keys)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.keys)


def survey(session: Session, *, keep: timedelta, now: datetime, wall_now: datetime) -> list[Old]:
    """What is older than `keep`, by kind; changes nothing. `wall_now` is for runtimes, which are seen on wall time.

    Raises:
        InvalidField: `keep` is shorter than a day.
    """
    if keep < SHORTEST:
        raise InvalidField("older_than", "must be at least one day")
    before = now - keep
    keys = {
        What.VERDICT_INPUTS: _sized(session, _inputs(before)),
        What.OUTBOX: deliveries.prunable_outbox(session, before=before),
        What.IDEMPOTENCY: _sized(session, _answers(min(before, now - idempotency.KEPT))),
        What.RUNTIMES: _sized(session, _runtimes(wall_now - keep)),
    }
    return [Old(what=what, keys=found) for what, found in keys.items()]


def prune(
    sessions: Sessions, *, keep: timedelta, by: str, now: datetime, wall_now: datetime, epoch: int | None = None
) -> list[Old]:
    """Let go of what is old, a little at a time; return what went. Killed on the way, it goes on at its next call.

    Raises:
        InvalidField; Deposed: `epoch` is not the scheduler lease's present one.
    """
    with sessions.reading() as session:
        found = survey(session, keep=keep, now=now, wall_now=wall_now)
    for old in found:
        for batch in _batches(old.keys):
            with sessions.writing() as session:
                if epoch is not None:
                    leases.check(session, leases.SCHEDULER, epoch)
                _let_go(session, Old(what=old.what, keys=batch), by=by, now=now)
    return found


def _let_go(session: Session, old: Old, *, by: str, now: datetime) -> None:
    """Inside an open pass, which is what the triggers ask for; it is closed before anyone else can see it."""
    row = RetentionPassRow(by=by, started_at=now, what=old.what.value, rows=old.rows, bytes=old.bytes)
    session.add(row)
    session.flush()
    keys = [key for key, _ in old.keys]
    match old.what:
        case What.VERDICT_INPUTS:
            _empty_inputs(session, keys, now)
        case What.OUTBOX:
            session.execute(_gone(delete(OutboxRow).where(OutboxRow.outbox_id.in_(keys))))
        case What.IDEMPOTENCY:
            key = tuple_(IdempotencyRow.operator, IdempotencyRow.key)
            session.execute(_gone(delete(IdempotencyRow).where(key.in_([tuple(pair) for pair in keys]))))
        case What.RUNTIMES:
            session.execute(_gone(delete(RuntimeCountsRow).where(RuntimeCountsRow.runtime_id.in_(keys))))
            session.execute(_gone(delete(RuntimeRow).where(RuntimeRow.runtime_id.in_(keys))))
    row.finished_at = now
    session.flush()


def _empty_inputs(session: Session, digests: Sequence[str], now: datetime) -> None:
    """The digest stays, so that verdict and history can still be held against each other."""
    session.execute(
        update(VerdictInputsRow)
        .where(VerdictInputsRow.digest.in_(digests))
        .values(content=b"", pruned_at=now)
        .execution_options(synchronize_session=False)
    )


def _inputs(before: datetime) -> Select[Any]:
    """A rollout that is over gets no new verdicts, so what is found here stays what may go."""
    moved_something = select(HistoryRow.verdict_id).where(HistoryRow.verdict_id.is_not(None))
    last_of_each = select(func.max(VerdictRow.verdict_id)).group_by(VerdictRow.rollout_id)
    long_over = select(RolloutRow.rollout_id).where(
        RolloutRow.phase.in_([phase.value for phase in FINISHED]), RolloutRow.entered_at < before
    )
    kept = select(VerdictRow.inputs_digest).where(
        or_(
            VerdictRow.rollout_id.not_in(long_over),
            VerdictRow.at >= before,
            VerdictRow.verdict_id.in_(moved_something),
            VerdictRow.verdict_id.in_(last_of_each),
        )
    )
    return select(VerdictInputsRow.digest, func.length(VerdictInputsRow.content)).where(
        VerdictInputsRow.pruned_at.is_(None), VerdictInputsRow.digest.not_in(kept)
    )


def _answers(before: datetime) -> Select[Any]:
    size = func.length(IdempotencyRow.body)
    return select(IdempotencyRow.operator, IdempotencyRow.key, size).where(IdempotencyRow.at < before)


def _runtimes(before: datetime) -> Select[Any]:
    """Not those that counted for a rollout that is still on its way: its evidence would shrink."""
    on_its_way = RolloutRow.phase.not_in([phase.value for phase in FINISHED])
    versions = (
        select(RolloutRow.stable).where(on_its_way).union(select(RolloutRow.candidate).where(on_its_way)).subquery()
    )
    needed = select(RuntimeCountsRow.runtime_id).where(RuntimeCountsRow.version_id.in_(select(versions.c.stable)))
    size = func.length(cast(RuntimeCountsRow.told, Text)) + func.length(cast(RuntimeCountsRow.totals, Text))
    return (
        select(RuntimeRow.runtime_id, func.coalesce(func.sum(size), 0))
        .outerjoin(RuntimeCountsRow, RuntimeCountsRow.runtime_id == RuntimeRow.runtime_id)
        .where(RuntimeRow.seen_at < before, RuntimeRow.runtime_id.not_in(needed))
        .group_by(RuntimeRow.runtime_id)
    )


def _sized(session: Session, query: Select[Any]) -> list[tuple[Any, int]]:
    """Primary key, alone or as a tuple, and size."""
    rows = session.execute(query)
    return [(row[0] if len(row) == 2 else tuple(row[:-1]), int(row[-1])) for row in rows]


def _batches(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, ROWS_AT_ONCE)):
        yield batch


def _gone(statement: Any) -> Any:
    return statement.execution_options(synchronize_session=False)
