"""What the schemas of all nouns share. A schema `…In` is checked once, `…Out` is rendered from our values."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control_plane.api import patterns

MAX_ENTRIES = 1_000  # surfaces, versions or rows that one request may name
MAX_NUMBER = 2**53  # counts stay exact in every JSON reader

Name = Annotated[str, StringConstraints(pattern=patterns.NAME)]
VersionName = Annotated[str, StringConstraints(pattern=patterns.VERSION_ID)]
DigestText = Annotated[str, StringConstraints(pattern=patterns.DIGEST)]
RuntimeName = Annotated[str, StringConstraints(pattern=patterns.RUNTIME)]
Reason = Annotated[str, StringConstraints(max_length=1_000, pattern=patterns.NO_NUL, strip_whitespace=True)]
GivenReason = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=patterns.NOT_BLANK)]
Generation = Annotated[int, Field(ge=0, le=2**31 - 1)]  # the registry's integer column
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
