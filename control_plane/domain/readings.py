"""Numbers that other systems hold, as they were when a rollout was checked. Whatever happened has a name."""

from dataclasses import dataclass
from enum import StrEnum


class ReadingOutcome(StrEnum):
    """What asking for one number came to; only VALUE carries one that may be judged."""

    VALUE = "value"
    EMPTY = "empty"  # the source answered: there is nothing
    NAN = "nan"  # it answered with NaN or an infinity
    STALE = "stale"  # it answered with a number, of too long ago
    FAILED = "failed"  # it did not answer, or not with one number


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One external metric of a plan, read once.

    Attributes:
        name: of the metric in the plan.
        value: finite where the outcome is VALUE or STALE, else None.
        sampled_at_ms: event time of the sample, None where the source does not say.
        query: as it was sent, with the rollout's names in place.
        detail: for people, why the outcome is not VALUE; never holds a credential.
    """

    name: str
    outcome: ReadingOutcome
    value: float | None
    sampled_at_ms: int | None
    query: str
    detail: str = ""
