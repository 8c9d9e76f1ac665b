"""Every change of every surface, hash-chained and append-only; rows are written only by `changes`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from control_plane.domain.model_version import Surface
from control_plane.registry import chain, surfaces, version_history
from control_plane.registry.chain import GENESIS, SPLIT_FIELDS, Chain, Evidence, Link
from control_plane.registry.chain import Entry as Entry
from control_plane.registry.code_version import CODE_VERSION as CODE_VERSION
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import HistoryRow, SplitRow, VerdictRow, canonical_json

NOT_HASHED = ("lease_renewed_at", "changed_at")  # of a surface: renewed without a change, told by the row itself
ROWS_AT_ONCE = 500  # read from the database at a time, so that a long history takes no more memory than a short one

ENTRY_COLUMNS = [HistoryRow.__table__.c[name] for name in Entry.__dataclass_fields__]
SPLIT_COLUMNS = [SplitRow.__table__.c[name].label(f"split_{name}") for name in ("generation", *SPLIT_FIELDS)]
EVIDENCE_COLUMNS = [VerdictRow.__table__.c.verdict, VerdictRow.__table__.c.inputs_digest]


def append(
    session: Session,
    *,
    surface: Surface,
    seq: int,
    at: datetime,
    by: str,
    command: str,
    reason: str,
    before: str,
    after: str,
    rollout_id: int | None,
    verdict_id: int | None,
) -> None:
    """Add a link to the surface's chain. Called only by `changes`, in the transaction of the change itself."""
    previous = session.scalar(
        select(HistoryRow.hash).where(HistoryRow.surface == surface).order_by(HistoryRow.seq.desc()).limit(1)
    )
    entry = Entry(
        surface=surface,
        seq=seq,
        at=at,
        by=by,
        command=command,
        reason=reason,
        before=before,
        after=after,
        rollout_id=rollout_id,
        verdict_id=verdict_id,
        evidence_digest=_evidence_digest(session, verdict_id),
        code_version=CODE_VERSION,
        previous_hash=GENESIS if previous is None else previous,
        hash="",
    )
    session.add(HistoryRow(**asdict(replace(entry, hash=chain.hash_of(entry)))))


def list_history(session: Session, surface: Surface | None = None, limit: int = 100) -> list[Entry]:
    """The latest changes, newest first. Of one surface in the order in which they happened, whatever clocks showed."""
    query = select(HistoryRow).limit(limit)
    if surface is not None:
        query = query.where(HistoryRow.surface == surface).order_by(HistoryRow.seq.desc())
    else:
        query = query.order_by(HistoryRow.at.desc(), HistoryRow.seq.desc(), HistoryRow.surface)
    return [_entry(row) for row in session.scalars(query)]


def last_command(session: Session, surface: Surface) -> str | None:
    return session.scalar(
        select(HistoryRow.command).where(HistoryRow.surface == surface).order_by(HistoryRow.seq.desc()).limit(1)
    )


def command_of(session: Session, surface: Surface, seq: int) -> str | None:
    """What made a generation; None where there is none such."""
    return session.scalar(select(HistoryRow.command).where(HistoryRow.surface == surface, HistoryRow.seq == seq))


def count(session: Session, surface: Surface | None = None) -> int:
    query = select(func.count()).select_from(HistoryRow)
    return session.scalars(query if surface is None else query.where(HistoryRow.surface == surface)).one()


def links(session: Session, surface: Surface) -> Iterator[Link]:
    """A surface's changes from its first on, each with its split and its verdict; read as they are asked for."""
    for row in session.execute(_links_of(surface).execution_options(yield_per=ROWS_AT_ONCE)):
        yield _link(row)


def verify(session: Session, on_progress: Callable[[int], None] = lambda rows: None) -> list[str]:
    """Walk every chain against its surface, its splits and its verdicts, and those of versions; return what is wrong.

    Memory does not grow with the history. `on_progress` is told how many more changes were walked.
    """
    found = [
        f"{state.surface}: {problem}"
        for state in surfaces.list_surfaces(session)
        for problem in _problems(session, state, on_progress)
    ]
    return [*found, *version_history.problems(session)]


def state_json(state: SurfaceState | None, rollout: dict[str, object] | None = None) -> str:
    if state is None:
        return "{}"
    fields: dict[str, Any] = {name: value for name, value in asdict(state).items() if name not in NOT_HASHED}
    return canonical_json(fields if rollout is None else {**fields, "rollout": rollout})


def _problems(session: Session, state: SurfaceState, on_progress: Callable[[int], None]) -> Iterator[str]:
    walked = Chain()
    for link in links(session, state.surface):
        yield from walked.add(link)
        on_progress(1)
    yield from walked.end(json.loads(state_json(state)))
    for generation in session.scalars(_splits_without_change(state.surface)):
        yield f"the split of generation {generation} has no change"


def _links_of(surface: Surface) -> Select[Any]:
    is_its_split = (SplitRow.surface == HistoryRow.surface) & (SplitRow.generation == HistoryRow.seq)
    return (
        select(*ENTRY_COLUMNS, *SPLIT_COLUMNS, *EVIDENCE_COLUMNS)
        .select_from(HistoryRow)
        .outerjoin(SplitRow, is_its_split)
        .outerjoin(VerdictRow, VerdictRow.verdict_id == HistoryRow.verdict_id)
        .where(HistoryRow.surface == surface)
        .order_by(HistoryRow.seq)
    )


def _splits_without_change(surface: Surface) -> Select[Any]:
    has_change = select(HistoryRow.seq).where(HistoryRow.surface == surface, HistoryRow.seq == SplitRow.generation)
    return select(SplitRow.generation).where(SplitRow.surface == surface, ~has_change.exists())


def _link(row: Row[Any]) -> Link:
    told = row._mapping
    split = None if row.split_generation is None else {name: told[f"split_{name}"] for name in SPLIT_FIELDS}
    evidence = None if row.verdict is None else Evidence(verdict=row.verdict, inputs_digest=row.inputs_digest)
    entry = Entry(**{name: told[name] for name in Entry.__dataclass_fields__})
    return Link(entry=entry, split=split, evidence=evidence)


def _evidence_digest(session: Session, verdict_id: int | None) -> str | None:
    verdict = None if verdict_id is None else session.get(VerdictRow, verdict_id)
    return None if verdict is None else chain.evidence_digest(verdict.verdict, verdict.inputs_digest)


def _entry(row: HistoryRow) -> Entry:
    return Entry(**{name: getattr(row, name) for name in Entry.__dataclass_fields__})
