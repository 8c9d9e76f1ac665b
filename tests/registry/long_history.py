"""A surface with as many changes as a busy year makes, written at once rather than one command after another."""

import json
from dataclasses import asdict, replace
from datetime import timedelta

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from control_plane.domain.model_version import Surface
from control_plane.registry import chain, history
from control_plane.registry.chain import SPLIT_FIELDS
from control_plane.registry.tables import HistoryRow, SplitRow, SurfaceRow, canonical_json

ROWS_AT_ONCE = 5_000


def write(session: Session, surface: Surface, rows: int) -> None:
    """Add `rows` changes to the surface's chain that change nothing but the generation."""
    last = history.list_history(session, surface, limit=1)[0]
    state = json.loads(last.after)
    splits = {name: state[name] for name in SPLIT_FIELDS}
    changes: list[dict[str, object]] = []
    for seq in range(last.seq + 1, last.seq + 1 + rows):
        after = canonical_json({**state, "generation": seq})
        entry = replace(
            last,
            seq=seq,
            at=last.at + timedelta(minutes=1),
            command="hold",
            before=last.after,
            after=after,
            previous_hash=last.hash,
        )
        last = replace(entry, hash=chain.hash_of(entry))
        changes.append(asdict(last))
        if len(changes) == ROWS_AT_ONCE:
            _store(session, changes, splits)
            changes = []
    _store(session, changes, splits)
    session.execute(update(SurfaceRow).where(SurfaceRow.surface == surface).values(generation=last.seq))


def _store(session: Session, changes: list[dict[str, object]], splits: dict[str, object]) -> None:
    if not changes:
        return
    session.execute(insert(HistoryRow), changes)
    rows = [{"surface": row["surface"], "generation": row["seq"], "at": row["at"], **splits} for row in changes]
    session.execute(insert(SplitRow), rows)
