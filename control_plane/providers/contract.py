"""What every source of external metrics offers, and how what it said becomes a reading."""

import math
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.events import FUTURE_TOLERANCE_MS
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.plan import ExternalPlan
from control_plane.domain.readings import Reading, ReadingOutcome

MAX_WORDS = 300  # characters of what another system said that are passed on


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The rollout that a query is about, and the moment it is asked at: everything a query may name."""

    surface: Surface
    candidate: VersionId
    stable: VersionId
    generation: int
    since: datetime  # when the rollout started
    now: datetime  # event time


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What a source answered: `value` None where it holds nothing, `at` in unix seconds where it says so."""

    value: float | None
    at: float | None = None
    note: str = ""  # for people, beside the value


class Unanswered(ControlPlaneError):
    """One question came to nothing; the source may answer others."""


class TooSlow(Unanswered):
    """No answer in time; whether others would be answered nobody knows."""


class Unreachable(Unanswered):
    """The source itself is away or lets us not in: no question would be answered now."""


class Ask(Protocol):
    def __call__(self, query: str, subject: Subject, *, seconds: float) -> Sample:
        """Give up after about so many seconds; what is no single number is `Unanswered`."""


class Provider(Protocol):
    """One system that answers queries with single numbers. Safe to use from several threads at once."""

    def shown(self, query: str, subject: Subject) -> str:
        """The query as it is sent, for people; `Unanswered` if it cannot be sent."""

    def opened(self) -> AbstractContextManager[Ask]:
        """For one thread's questions in a row; what they can share, such as a connection, is closed at the end."""


def reading_of(metric: ExternalPlan, sample: Sample, *, query: str, now: datetime) -> Reading:
    """The one place where empty, NaN, stale and failed are told apart, whatever the source."""
    if sample.value is None:
        return _without_value(metric, ReadingOutcome.EMPTY, query, sample.note or "the source holds nothing for it")
    if not math.isfinite(sample.value):
        return _without_value(metric, ReadingOutcome.NAN, query, f"the source answered {sample.value}")
    if sample.at is None:
        return _with_value(metric, ReadingOutcome.VALUE, sample, query, sample.note)
    age_seconds = now.timestamp() - sample.at
    if not 0 <= sample.at <= now.timestamp() + FUTURE_TOLERANCE_MS / 1_000:
        return failed(metric, query, f"its time is {sample.at:.15g}, no unix time in seconds up to now")
    if age_seconds > metric.max_age_seconds:
        detail = f"{age_seconds:.0f} s old, older than {metric.max_age_seconds:g} s"
        return _with_value(metric, ReadingOutcome.STALE, sample, query, detail)
    return _with_value(metric, ReadingOutcome.VALUE, sample, query, sample.note)


def failed(metric: ExternalPlan, query: str, detail: str) -> Reading:
    return _without_value(metric, ReadingOutcome.FAILED, query, detail)


def in_words(said: object) -> str:
    """What another system said, on one line of bounded length that no terminal acts on."""
    printable = "".join(character if character.isprintable() else " " for character in str(said)[: 10 * MAX_WORDS])
    words = re.sub(r"\s+", " ", printable).strip()
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"


def _without_value(metric: ExternalPlan, outcome: ReadingOutcome, query: str, detail: str) -> Reading:
    return Reading(
        name=metric.name, outcome=outcome, value=None, sampled_at_ms=None, query=query, detail=in_words(detail)
    )


def _with_value(metric: ExternalPlan, outcome: ReadingOutcome, sample: Sample, query: str, detail: str) -> Reading:
    return Reading(
        name=metric.name,
        outcome=outcome,
        value=sample.value,
        sampled_at_ms=None if sample.at is None else round(sample.at * 1_000),
        query=query,
        detail=in_words(detail),
    )
