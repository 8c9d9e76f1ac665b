"""What people asked for and were told: what was acknowledged must be there once, what was refused must not be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.crash_run.violation import Violation
from control_plane.registry.tables import HistoryRow, QuarantineRow

MAX_NAMED = 500  # reasons that one statement names


class Answer(Enum):
    DONE = "acknowledged"
    REFUSED = "refused"
    CUT_OFF = "cut off"  # it may have happened, once


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """`reason` is one of a kind. `must_show`: what changes nothing where its work is done leaves no trace."""

    reason: str
    answer: Answer
    must_show: bool


@dataclass(kw_only=True, slots=True)
class Answers:
    """Every request whose reason stands in the database if it was carried out."""

    asked: list[Asked] = field(default_factory=list)

    def note(self, asked: Asked) -> None:
        self.asked.append(asked)


def problems(session: Session, asked: Sequence[Asked]) -> Iterator[Violation]:
    """Of what was answered before this session began."""
    found = _times(session, [one.reason for one in asked])
    for one in asked:
        problem = _problem(one, found.get(one.reason, 0))
        if problem:
            yield Violation(invariant="answers", where=one.reason, what=problem)


def _times(session: Session, reasons: Sequence[str]) -> dict[str, int]:
    """How often a reason stands, at most, in one surface's history or in the quarantine."""
    found: dict[str, int] = {}
    for start in range(0, len(reasons), MAX_NAMED):
        some = reasons[start : start + MAX_NAMED]
        changes = select(HistoryRow.reason, func.count()).where(HistoryRow.reason.in_(some))
        confined = select(QuarantineRow.reason, func.count()).where(QuarantineRow.reason.in_(some))
        for query in (
            changes.group_by(HistoryRow.reason, HistoryRow.surface),
            confined.group_by(QuarantineRow.reason),
        ):
            for reason, times in session.execute(query):
                found[reason] = max(found.get(reason, 0), times)
    return found


def _problem(asked: Asked, times: int) -> str | None:
    if times > 1:
        return f"was asked for once and happened {times} times"
    if asked.answer is Answer.REFUSED and times:
        return "was refused, and happened"
    if asked.answer is Answer.DONE and asked.must_show and not times:
        return "was acknowledged, and is lost"
    return None
