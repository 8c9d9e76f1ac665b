"""Findings on numbers that other systems hold: compared with their limits as they stand, without statistics."""

import math
from collections.abc import Iterator, Sequence

from control_plane.domain.moments import WHOLE_SURFACE
from control_plane.domain.plan import ExternalPlan, Role
from control_plane.domain.readings import Reading, ReadingOutcome
from control_plane.domain.verdict import Answer, Finding
from control_plane.guardrails.look import Look
from control_plane.guardrails.policies import policy_of

EXTERNAL = "external"  # before the name, so that no name can be taken for a metric of the judge's own
UNREAD = "was not read"
NO_ANSWER = {
    ReadingOutcome.EMPTY: Answer.EMPTY,
    ReadingOutcome.NAN: Answer.NAN,
    ReadingOutcome.STALE: Answer.STALE,
    ReadingOutcome.FAILED: Answer.FAILED,
}


def external_findings(look: Look, readings: Sequence[Reading]) -> Iterator[Finding]:
    """One per external metric of the plan; one that nobody read has failed."""
    by_name = {reading.name: reading for reading in readings}
    for entry in look.plan.external:
        unread = Reading(
            name=entry.name, outcome=ReadingOutcome.FAILED, value=None, sampled_at_ms=None, query="", detail=UNREAD
        )
        yield _finding(entry, by_name.get(entry.name, unread))


def _finding(entry: ExternalPlan, reading: Reading) -> Finding:
    answer = _answer(entry, reading)
    return Finding(
        metric=f"{EXTERNAL}:{entry.name}",
        segment=WHOLE_SURFACE,
        answer=Answer.MONITORED if entry.role is Role.MONITOR else answer,
        gates=entry.role.gates,
        role=entry.role.value,
        value=reading.value if reading.value is not None and math.isfinite(reading.value) else None,
        limit=entry.at_least if _is_below(entry, reading.value) else entry.at_most,
        detail=_sentence(entry, reading),
        policy="" if entry.role is Role.MONITOR else policy_of(entry, answer),
    )


def _answer(entry: ExternalPlan, reading: Reading) -> Answer:
    if reading.outcome in NO_ANSWER:
        return NO_ANSWER[reading.outcome]
    if reading.value is None or not math.isfinite(reading.value):
        return Answer.NAN
    return Answer.HARM if _is_below(entry, reading.value) or _is_above(entry, reading.value) else Answer.SAFE


def _is_below(entry: ExternalPlan, value: float | None) -> bool:
    return value is not None and entry.at_least is not None and value < entry.at_least


def _is_above(entry: ExternalPlan, value: float | None) -> bool:
    return value is not None and entry.at_most is not None and value > entry.at_most


def _sentence(entry: ExternalPlan, reading: Reading) -> str:
    """'auction depth from prometheus is 2.1, below 3.5 (avg(depth{surface="search"}))'."""
    asked = f" ({' '.join(reading.query.split())})" if reading.query else ""
    name = f"{entry.name} from {entry.source}"
    if reading.outcome is not ReadingOutcome.VALUE or reading.value is None:
        why = f": {reading.detail}" if reading.detail else ""
        return f"{name} is {reading.outcome}{why}{asked}"
    return f"{name} is {reading.value:.6g}, {_place(entry, reading.value)}{asked}"


def _place(entry: ExternalPlan, value: float) -> str:
    if _is_below(entry, value):
        return f"below {entry.at_least:g}"
    if _is_above(entry, value):
        return f"above {entry.at_most:g}"
    limits = [("at least", entry.at_least), ("at most", entry.at_most)]
    return " and ".join(f"{side} {limit:g}" for side, limit in limits if limit is not None)
