"""What stands beside a backup: what it is, and the digest by which a damaged one is known."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from control_plane.domain.errors import InvalidBackup

MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20


class Format(StrEnum):
    SQLITE = "sqlite"  # a database file
    PG_DUMP = "pg_dump"  # pg_dump's custom format
    PORTABLE = "portable"  # rows as JSON lines, for either database

    @property
    def file_name(self) -> str:
        return {Format.SQLITE: "registry.db", Format.PG_DUMP: "registry.dump", Format.PORTABLE: "registry.jsonl.gz"}[
            self
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`rows` says how many rows of each table the backup holds."""

    format: Format
    sha256: str
    bytes: int
    revision: str
    made_at: datetime
    code_version: str
    rows: Mapping[str, int]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup whose file is what it says.

    Raises:
        InvalidBackup: no whole backup, or one that has changed since it was made.
    """
    try:
        told = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InvalidBackup(str(folder), f"has no {MANIFEST} that can be read, so it is no whole backup") from error
    manifest = _manifest(folder, told)
    path = folder / manifest.format.file_name
    if not path.is_file():
        raise InvalidBackup(str(folder), f"{path.name} is missing")
    if file_digest(path) != manifest.sha256:
        raise InvalidBackup(str(folder), f"{path.name} is not what it was when it was made: its digest differs")
    return manifest


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _manifest(folder: Path, told: Any) -> Manifest:
    try:
        return Manifest(
            **{**told, "format": Format(told["format"]), "made_at": datetime.fromisoformat(told["made_at"])}
        )
    except (LookupError, ValueError, TypeError) as error:
        raise InvalidBackup(str(folder), f"{MANIFEST} is none of a backup's ({error})") from error
