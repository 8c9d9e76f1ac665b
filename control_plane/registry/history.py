"""Every change of every surface, as a chain of hashes: a row that was altered, dropped or slipped in shows."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from control_plane.domain.model_version import Surface, digest_of
from control_plane.registry import surfaces
from control_plane.registry.surfaces import SurfaceState
from control_plane.registry.tables import HistoryRow, SplitRow, canonical_json

GENESIS = "sha256:" + "0" * 64  # what the first row of a surface follows
NOT_HASHED = ("lease_renewed_at", "changed_at")  # of a surface: renewed without a change, told by the row itself


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


def code_version() -> str:
    try:
        return version("surefoot")
    except PackageNotFoundError:
        return "unknown"


CODE_VERSION = code_version()


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
    row = HistoryRow(
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
        code_version=CODE_VERSION,
        previous_hash=GENESIS if previous is None else previous,
    )
    row.hash = _hash(row)
    session.add(row)


def list_history(session: Session, surface: Surface | None = None, limit: int = 100) -> list[Entry]:
    """The latest changes, newest first."""
    query = select(HistoryRow).order_by(HistoryRow.at.desc(), HistoryRow.seq.desc(), HistoryRow.surface).limit(limit)
    if surface is not None:
        query = query.where(HistoryRow.surface == surface)
    return [_entry(row) for row in session.scalars(query)]


def last_command(session: Session, surface: Surface) -> str | None:
    return session.scalar(
        select(HistoryRow.command).where(HistoryRow.surface == surface).order_by(HistoryRow.seq.desc()).limit(1)
    )


def verify(session: Session) -> list[str]:
    """Walk every chain against its surface and its splits; return what does not fit, in words."""
    problems: list[str] = []
    for state in surfaces.list_surfaces(session):
        rows = list(
            session.scalars(select(HistoryRow).where(HistoryRow.surface == state.surface).order_by(HistoryRow.seq))
        )
        problems += [f"{state.surface}: {problem}" for problem in _chain_problems(rows, state)]
        problems += [f"{state.surface}: {problem}" for problem in _split_problems(session, rows, state.surface)]
    return problems


def state_json(state: SurfaceState | None, rollout: dict[str, object] | None = None) -> str:
    if state is None:
        return "{}"
    fields: dict[str, Any] = {name: value for name, value in asdict(state).items() if name not in NOT_HASHED}
    return canonical_json(fields if rollout is None else {**fields, "rollout": rollout})


def _chain_problems(rows: list[HistoryRow], state: SurfaceState) -> Iterator[str]:
    if not rows:
        yield "has no history"
        return
    if rows[0].seq != 0 or rows[0].previous_hash != GENESIS:
        yield "its first change is missing"
    for row in rows:
        if row.hash != _hash(row):
            yield f"change {row.seq} was altered"
    for row, following in pairwise(rows):
        if following.seq != row.seq + 1:
            yield f"changes between {row.seq} and {following.seq} are missing"
        if following.previous_hash != row.hash:
            yield f"change {following.seq} does not follow change {row.seq}"
        if _surface_part(following.before) != _surface_part(row.after):
            yield f"change {following.seq} begins where change {row.seq} did not end"
    if rows[-1].seq != state.generation:
        yield f"its history ends at {rows[-1].seq}, it is at generation {state.generation}"
    elif _surface_part(rows[-1].after) != json.loads(state_json(state)):
        yield f"it is not what change {rows[-1].seq} left"


def _split_problems(session: Session, rows: list[HistoryRow], surface: Surface) -> Iterator[str]:
    splits = {row.generation: row for row in session.scalars(select(SplitRow).where(SplitRow.surface == surface))}
    names = ("stable", "candidate", "candidate_bp", "shadow", "shadow_sample_bp", "salt")
    for row in rows:
        after = _surface_part(row.after)
        if after.get("stable") is None:
            continue
        split = splits.pop(row.seq, None)
        if split is None:
            yield f"the split of generation {row.seq} is missing"
        elif any(getattr(split, name) != after[name] for name in names):
            yield f"the split of generation {row.seq} is not what its change made"
    for generation in splits:
        yield f"the split of generation {generation} has no change"


def _surface_part(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    value.pop("rollout", None)
    return value


def _hash(row: HistoryRow) -> str:
    content = canonical_json(
        {
            "surface": row.surface,
            "seq": row.seq,
            "at": row.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "by": row.by,
            "command": row.command,
            "reason": row.reason,
            "before": row.before,
            "after": row.after,
            "rollout_id": row.rollout_id,
            "verdict_id": row.verdict_id,
            "code_version": row.code_version,
        }
    )
    return digest_of(f"{row.previous_hash}\n{content}".encode())


def _entry(row: HistoryRow) -> Entry:
    return Entry(
        surface=Surface(row.surface),
        seq=row.seq,
        at=row.at,
        by=row.by,
        command=row.command,
        reason=row.reason,
        before=row.before,
        after=row.after,
        rollout_id=row.rollout_id,
        verdict_id=row.verdict_id,
        code_version=row.code_version,
        previous_hash=row.previous_hash,
        hash=row.hash,
    )
