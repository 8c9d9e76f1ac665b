"""Beside the registry's own tables: under which epoch each scheduler believed to write, in one transaction with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, event, insert, select
from sqlalchemy.orm import Mapper

from control_plane.registry import leases
from control_plane.registry.tables import HistoryRow, LeaseRow, VerdictRow
from control_plane.scheduler.metronome import Metronome
from control_plane.scheduler.tick import SCHEDULER

WROTE = Table(
    "crash_run_wrote",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("believed_epoch", Integer, nullable=False, index=True),
    Column("epoch", Integer, nullable=False),  # of the lease in that transaction
    Column("surface", Text),
    Column("seq", Integer, index=True),
    Column("verdict_id", Integer, index=True),
)


@contextmanager
def written_down(metronome: Metronome) -> Iterator[None]:
    """Meanwhile each change and verdict that this process's scheduler writes says under which epoch."""

    def of(connection: Connection, **what: object) -> None:
        epoch = connection.execute(select(LeaseRow.epoch).where(LeaseRow.name == leases.SCHEDULER)).scalar_one()
        believed = {"holder": metronome.holder, "believed_epoch": metronome.epoch or 0}
        connection.execute(insert(WROTE).values(**believed, epoch=epoch, **what))

    def changed(_mapper: Mapper[HistoryRow], connection: Connection, row: HistoryRow) -> None:
        if row.by == SCHEDULER:
            of(connection, surface=row.surface, seq=row.seq)

    def judged(_mapper: Mapper[VerdictRow], connection: Connection, row: VerdictRow) -> None:
        of(connection, verdict_id=row.verdict_id)

    event.listen(HistoryRow, "after_insert", changed)
    event.listen(VerdictRow, "after_insert", judged)
    try:
        yield
    finally:
        event.remove(HistoryRow, "after_insert", changed)
        event.remove(VerdictRow, "after_insert", judged)
