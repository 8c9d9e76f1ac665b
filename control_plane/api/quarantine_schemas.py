"""Quarantined digests, as they cross HTTP."""

from datetime import datetime

from pydantic import BaseModel, Field

from control_plane.api.schemas import DigestText, GivenReason, In


class QuarantineIn(In):
    digest: DigestText
    reason: GivenReason


class QuarantinedOut(BaseModel):
    """A digest that may serve nowhere."""

    digest: str
    at: datetime
    by: str
    reason: str


class QuarantineOut(BaseModel):
    quarantined: list[QuarantinedOut]


class MovedOut(BaseModel):
    digest: str
    surfaces: list[str] = Field(description="that moved off it")
