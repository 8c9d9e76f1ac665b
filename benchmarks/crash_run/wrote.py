"""Beside the registry's own tables, in one transaction with what they tell of: under which epoch each scheduler
believed to write, and which changes of several surfaces are one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, Transaction, insert, select
from sqlalchemy.orm import Session

from control_plane.registry import evidence, history, leases
from control_plane.registry.tables import LeaseRow
from control_plane.scheduler.applied import SCHEDULER
from control_plane.scheduler.metronome import Metronome

METADATA = MetaData()
WROTE = Table(
    "crash_run_wrote",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("believed_epoch", Integer, nullable=False, index=True),
    Column("epoch", Integer, nullable=False),  # of the lease in that transaction
    Column("surface", Text),
    Column("seq", Integer, index=True),
    Column("verdict_id", Integer, index=True),
)
TOGETHER = Table(
    "crash_run_together",
    METADATA,
    Column("number", Integer, primary_key=True),  # in the order of the surfaces' locks: of two that meet, who was first
    Column("written_in", Text, nullable=False),  # one transaction
    Column("surface", Text, nullable=False),
    Column("seq", Integer, nullable=False, index=True),
)


@contextmanager
def written_down(metronome: Metronome) -> Iterator[None]:
    """Meanwhile each change of this process says with which others it is one, and each change and verdict of its
    scheduler under which epoch."""
    names: WeakKeyDictionary[Transaction, str] = WeakKeyDictionary()
    append, record_verdict = history.append, evidence.record_verdict

    def under_epoch(connection: Connection, **what: object) -> None:
        epoch = connection.execute(select(LeaseRow.epoch).where(LeaseRow.name == leases.SCHEDULER)).scalar_one()
        believed = {"holder": metronome.holder, "believed_epoch": metronome.epoch or 0}
        connection.execute(insert(WROTE).values(**believed, epoch=epoch, **what))

    def changed(session: Session, **link: Any) -> None:
        append(session, **link)
        connection, place = session.connection(), {"surface": link["surface"], "seq": link["seq"]}
        transaction = connection.get_transaction()
        assert transaction is not None
        name = names.setdefault(transaction, uuid4().hex)
        connection.execute(insert(TOGETHER).values(written_in=name, **place))
        if link["by"] == SCHEDULER:
            under_epoch(connection, **place)

    def judged(session: Session, *what: Any, **how: Any) -> int:
        verdict_id = record_verdict(session, *what, **how)
        under_epoch(session.connection(), verdict_id=verdict_id)
        return verdict_id

    vars(history)["append"], vars(evidence)["record_verdict"] = changed, judged
    try:
        yield
    finally:
        vars(history)["append"], vars(evidence)["record_verdict"] = append, record_verdict
