"""Findings on numbers that other systems hold: compared with their limits as they stand, without statistics."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from control_plane.domain.moments import WHOLE_SURFACE
from control_plane.domain.plan import ExternalPlan, Role
from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.look import Look
from control_plane.guardrails.policies import policy_of

EXTERNAL = "external"  # before the name, so that no name can be taken for a metric of the judge's own
UNREAD = "nobody asked"
READ_TWICE = "two answers came where one was asked for"
SILENCE = {
    ReadingOutcome.EMPTY: "holds no value",
    ReadingOutcome.NAN: "is no number",
    ReadingOutcome.STALE: "is too old",
    ReadingOutcome.FAILED: "could not be read",
}
NO_ANSWER = {
    ReadingOutcome.EMPTY: Answer.EMPTY,
    ReadingOutcome.NAN: Answer.NAN,
    ReadingOutcome.STALE: Answer.STALE,
    ReadingOutcome.FAILED: Answer.FAILED,
}


def external_findings(look: Look, readings: Sequence[Reading]) -> Iterator[Finding]:
    """One per external metric of the plan; one that was not read exactly once has failed."""
    by_name = {reading.name: reading for reading in readings}
    times = Counter(reading.name for reading in readings)
    for entry in look.plan.external:
        match times[entry.name]:
            case 0:
                yield _finding(entry, _failed(entry.name, UNREAD))
            case 1:
                yield _finding(entry, by_name[entry.name])
            case _:
                yield _finding(entry, _failed(entry.name, READ_TWICE))


def _failed(name: str, why: str) -> Reading:
    return Reading(name=name, outcome=ReadingOutcome.FAILED, value=None, sampled_at_ms=None, query="", detail=why)


def _finding(entry: ExternalPlan, reading: Reading) -> Finding:
    answer = _answer(entry, reading)
    return Finding(
        metric=f"{EXTERNAL}:{entry.name}",
        segment=WHOLE_SURFACE,
        answer=Answer.MONITORED if entry.role is Role.MONITOR else answer,
        gates=entry.role.gates,
        role=entry.role.value,
        value=reading.value if reading.value is not None and math.isfinite(reading.value) else None,
        limit=_limit(entry, reading.value),
        detail=_sentence(entry, reading),
        policy="" if entry.role is Role.MONITOR else policy_of(entry, answer),
    )


def _answer(entry: ExternalPlan, reading: Reading) -> Answer:
    if (outcome := _outcome(reading)) is not ReadingOutcome.VALUE or reading.value is None:
        return NO_ANSWER[outcome]
    return Answer.HARM if _is_below(entry, reading.value) or _is_above(entry, reading.value) else Answer.SAFE


def _outcome(reading: Reading) -> ReadingOutcome:
    """What the source is taken to have said; a value that is no number is none, whoever lets it through."""
    is_number = reading.value is not None and math.isfinite(reading.value)
    return ReadingOutcome.NAN if reading.outcome is ReadingOutcome.VALUE and not is_number else reading.outcome


def _limit(entry: ExternalPlan, value: float | None) -> float | None:
    """The one that is broken, else the upper one where there are two."""
    return entry.at_least if entry.at_most is None or _is_below(entry, value) else entry.at_most


def _is_below(entry: ExternalPlan, value: float | None) -> bool:
    return value is not None and entry.at_least is not None and value < entry.at_least


def _is_above(entry: ExternalPlan, value: float | None) -> bool:
    return value is not None and entry.at_most is not None and value > entry.at_most


def _sentence(entry: ExternalPlan, reading: Reading) -> str:
    """'auction depth from prometheus is 2.1, below 3.5 (avg(depth{surface="search"}))'."""
    asked = f" ({' '.join(reading.query.split())})" if reading.query else ""
    name = f"{entry.name} from {entry.source}"
    if (outcome := _outcome(reading)) is not ReadingOutcome.VALUE or reading.value is None:
        why = f": {reading.detail}" if reading.detail else ""
        return f"{name} {SILENCE[outcome]}{why}{asked}"
    return f"{name} is {reading.value:.6g}, {_place(entry, reading.value)}{asked}"


def _place(entry: ExternalPlan, value: float) -> str:
    if _is_below(entry, value):
        return f"below {entry.at_least:g}"
    if _is_above(entry, value):
        return f"above {entry.at_most:g}"
    limits = [("at least", entry.at_least), ("at most", entry.at_most)]
    return " and ".join(f"{side} {limit:g}" for side, limit in limits if limit is not None)
