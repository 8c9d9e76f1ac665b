"""What became of a batch of events, as it crosses HTTP."""

from pydantic import BaseModel, ConfigDict, Field


class RefusalOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    row: int = Field(description="of the body, from 0")
    field: str
    rule: str


class ReceiptOut(BaseModel):
    """What became of a batch. Only the first refused rows are listed."""

    model_config = ConfigDict(from_attributes=True)

    accepted: int
    refused: int
    reasons: dict[str, int]
    first_refused: list[RefusalOut]
