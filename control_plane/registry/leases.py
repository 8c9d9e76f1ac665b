"""Who may act: one holder at a time, by the database's own clock, with an epoch that fences the holders before."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane import failpoints
from control_plane.domain.errors import Deposed
from control_plane.registry.tables import LeaseRow

SCHEDULER = "scheduler"  # the lease whose epoch every scheduler write carries

CLOCK_MS = {
    "sqlite": text("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"),
    "postgresql": text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    name: str
    holder: str
    epoch: int
    seconds_left: float
    last_tick_at: datetime | None


def acquire(session: Session, name: str, holder: str, seconds: float) -> int | None:
    """Take or renew a lease and return its epoch; None while someone else holds it.

    `holder` must be one process's own: an equal name counts as the same holder and keeps the epoch.
    """
    row = _locked(session, name)
    now_ms = _now_ms(session)  # read after any wait for the row's lock
    expires_at_ms = now_ms + round(seconds * 1_000)
    if row is None:
        return _first(session, LeaseRow(name=name, holder=holder, epoch=1, expires_at_ms=expires_at_ms))
    if row.holder != holder:
        if row.expires_at_ms > now_ms:
            return None
        row.holder = holder
        row.epoch += 1
        failpoints.reach("lease.acquired")
    row.expires_at_ms = expires_at_ms
    session.flush()
    failpoints.reach("lease.renewed")
    return row.epoch


def renew(session: Session, name: str, holder: str, epoch: int, seconds: float) -> bool:
    """Extend a lease that was taken; False, and nothing, if another has it by now."""
    row = _locked(session, name)
    if row is None or (row.holder, row.epoch) != (holder, epoch):
        return False
    row.expires_at_ms = _now_ms(session) + round(seconds * 1_000)
    session.flush()
    return True


def check(session: Session, name: str, epoch: int) -> None:
    """Raise `Deposed` unless `epoch` is the present one, and keep it so until this transaction ends."""
    current = session.scalar(select(LeaseRow.epoch).where(LeaseRow.name == name).with_for_update(read=True))
    if current != epoch:
        raise Deposed(epoch=epoch, current=0 if current is None else current)


def release(session: Session, name: str, holder: str) -> None:
    """Let the next one in at once; nothing happens unless `holder` has the lease."""
    session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == holder)
        .values(expires_at_ms=0)
        .execution_options(synchronize_session=False)
    )


def note_tick(session: Session, name: str, epoch: int, now: datetime) -> None:
    """Remember when the holder last finished a tick, for people who ask whether it lives."""
    session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.epoch == epoch)
        .values(last_tick_at=now)
        .execution_options(synchronize_session=False)
    )


def current(session: Session, name: str) -> Lease | None:
    """The lease, `seconds_left` 0 if it has run out."""
    row = session.scalar(select(LeaseRow).where(LeaseRow.name == name).execution_options(populate_existing=True))
    if row is None:
        return None
    seconds_left = max(0.0, (row.expires_at_ms - _now_ms(session)) / 1_000)
    return Lease(
        name=row.name,
        holder=row.holder,
        epoch=row.epoch,
        seconds_left=seconds_left,
        last_tick_at=row.last_tick_at,
    )


def _locked(session: Session, name: str) -> LeaseRow | None:
    query = select(LeaseRow).where(LeaseRow.name == name).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def _first(session: Session, row: LeaseRow) -> int | None:
    """The lease's first holder; None if another came first in this very moment."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return None
    return row.epoch


def _now_ms(session: Session) -> int:
    return int(session.execute(CLOCK_MS[session.get_bind().dialect.name]).scalar_one())
