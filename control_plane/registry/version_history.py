"""How each version came to be and where it was read from since: a chain of its own, append-only like the history.

A registration changes nothing that serves, so it makes no generation and has no place in a surface's gap-free chain.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

from sqlalchemy import Row, insert, select
from sqlalchemy.orm import Session

from control_plane.domain.model_version import VersionId, digest_of
from control_plane.registry.chain import GENESIS
from control_plane.registry.code_version import CODE_VERSION
from control_plane.registry.tables import ModelVersionRow, VersionHistoryRow, canonical_json

REGISTER, MOVE = "register", "move"  # and "found", of versions that revision 0002 came upon
ROWS_AT_ONCE = 500
NEW_ROW = insert(VersionHistoryRow.__table__)  # type: ignore[arg-type]  # a mapped class's table is typed as FromClause


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    version_id: VersionId
    seq: int
    at: datetime
    by: str
    command: str
    artifact_uri: str
    manifest_digest: str
    code_version: str = CODE_VERSION
    previous_hash: str = GENESIS
    hash: str = ""


HASHED = [name for name in Entry.__dataclass_fields__ if name not in ("previous_hash", "hash")]


def begin(session: Session, version_id: VersionId, *, manifest: str, artifact_uri: str, by: str, now: datetime) -> None:
    """The first link of a new version's chain; written with the version itself."""
    entry = Entry(
        version_id=version_id,
        seq=0,
        at=now,
        by=by,
        command=REGISTER,
        artifact_uri=artifact_uri,
        manifest_digest=digest_of(manifest.encode()),
    )
    _insert(session, entry)


def go_on(session: Session, version_id: VersionId, *, manifest: str, artifact_uri: str, by: str, now: datetime) -> None:
    """Another link, where the version is read from elsewhere or tells more. The caller holds a lock on its row."""
    last = list_entries(session, version_id)[-1]
    entry = replace(
        last,
        seq=last.seq + 1,
        at=now,
        by=by,
        command=MOVE,
        artifact_uri=artifact_uri,
        manifest_digest=digest_of(manifest.encode()),
        code_version=CODE_VERSION,
        previous_hash=last.hash,
    )
    _insert(session, entry)


def list_entries(session: Session, version_id: VersionId) -> list[Entry]:
    """The first one first."""
    query = select(VersionHistoryRow).where(VersionHistoryRow.version_id == version_id).order_by(VersionHistoryRow.seq)
    return [_entry(row) for row in session.scalars(query)]


def hash_of(entry: Entry) -> str:
    """What `entry.hash` must be."""
    content = {name: getattr(entry, name) for name in HASHED}
    content["at"] = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    return digest_of(f"{entry.previous_hash}\n{canonical_json(content)}".encode())


def problems(session: Session) -> Iterator[str]:
    """What does not fit, in words: each version's chain, and whether the version is what its chain ends with."""
    query = (
        select(ModelVersionRow.version_id, ModelVersionRow.artifact_uri, ModelVersionRow.manifest, VersionHistoryRow)
        .outerjoin(VersionHistoryRow, VersionHistoryRow.version_id == ModelVersionRow.version_id)
        .order_by(ModelVersionRow.version_id, VersionHistoryRow.seq)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    for version_id, rows in groupby(session.execute(query), key=lambda row: row[0]):
        yield from (f"version {version_id}: {problem}" for problem in _problems_of(rows))


def _insert(session: Session, entry: Entry) -> None:
    columns = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    session.execute(NEW_ROW, {**columns, "hash": hash_of(entry)})


def _problems_of(rows: Iterable[Row[str, str, str, VersionHistoryRow | None]]) -> Iterator[str]:
    previous, expected_seq, fits = GENESIS, 0, True
    for _, artifact_uri, manifest, row in rows:
        if row is None:
            yield "has no history"
            return
        entry = _entry(row)
        if entry.seq != expected_seq or entry.previous_hash != previous:
            yield f"entry {entry.seq} of its history does not follow the one before"
        if entry.hash != hash_of(entry):
            yield f"entry {entry.seq} of its history was altered"
        previous, expected_seq = entry.hash, entry.seq + 1
        fits = (entry.artifact_uri, entry.manifest_digest) == (artifact_uri, digest_of(manifest.encode()))
    if not fits:
        yield "it is not what its history ends with"


def _entry(row: VersionHistoryRow) -> Entry:
    return Entry(**{name: getattr(row, name) for name in Entry.__dataclass_fields__})
