"""The history, as it crosses HTTP."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from control_plane.registry.history import Entry


class ChangeOut(BaseModel):
    """One change of one surface; `seq` is the generation it made."""

    surface: str
    seq: int
    at: datetime
    by: str
    command: str
    reason: str
    before: dict[str, Any]
    after: dict[str, Any]
    rollout_id: int | None
    verdict_id: int | None
    evidence_digest: str | None = None
    code_version: str
    previous_hash: str
    hash: str

    @classmethod
    def of(cls, entry: Entry) -> "ChangeOut":
        return cls(**{**asdict(entry), "before": json.loads(entry.before), "after": json.loads(entry.after)})


class VerificationOut(BaseModel):
    holds: bool
    problems: list[str]


class HistoryOut(BaseModel):
    history: list[ChangeOut]
