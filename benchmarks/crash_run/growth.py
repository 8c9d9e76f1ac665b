"""Weight is gained for a reason that stands in the record: a passing verdict, a budget's word, approvals, or a skip."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.crash_run.moves import is_raise
from control_plane.domain.verdict import Outcome, Verdict
from control_plane.registry.tables import HistoryRow, RolloutRow, VerdictRow
from control_plane.scheduler.applied import SCHEDULER

GROWS = ("advance", "skip")  # what may give a candidate more weight

State = Mapping[str, Any]


def problems(session: Session, row: HistoryRow, before: State, after: State) -> Iterator[str]:
    grew = after["candidate_bp"] > before.get("candidate_bp", 0)
    is_made_stable = row.command in GROWS and after["stable"] != before.get("stable")
    if not (grew or is_made_stable):
        return
    if row.command not in GROWS:
        yield f"generation {row.seq} gained weight by {row.command}"
    elif row.command == "skip":
        if row.by == SCHEDULER or not row.reason.strip():
            yield f"generation {row.seq} gained weight by a skip that no person gives a reason for"
    elif is_raise(row.command, before, after):
        if not _is_allowed(session, row, after["candidate_bp"]):
            yield f"generation {row.seq} was raised to {after['candidate_bp']} basis points, and no verdict allows it"
    else:
        yield from _left(session, row, before)


def _left(session: Session, row: HistoryRow, before: State) -> Iterator[str]:
    """A stage is left on a passing verdict of its own and its approvals; one that nothing monitors on those alone."""
    was = before.get("rollout")
    rollout = None if row.rollout_id is None else session.get(RolloutRow, row.rollout_id)
    step = {} if rollout is None or was is None or was["step"] < 0 else rollout.plan["steps"][was["step"]]
    is_monitored = step.get("monitored", True)
    if is_monitored and not _has_passed(session, row):
        yield f"generation {row.seq} gained weight without a passing verdict"
    if rollout is not None and step.get("approvals"):
        approvers = _approvers(session, row, needs_reason=not is_monitored) - {rollout.created_by}
        if len(approvers) < step["approvals"]:
            yield f"generation {row.seq} gained weight on {len(approvers)} of {step['approvals']} approvals"


def _has_passed(session: Session, row: HistoryRow) -> bool:
    verdict = _own_verdict(session, row)
    return verdict is not None and verdict.outcome == Outcome.ADVANCE.value


def _is_allowed(session: Session, row: HistoryRow, weight_bp: int) -> bool:
    """Whether its loss surely stays within the budget up to that weight."""
    verdict = _own_verdict(session, row)
    return verdict is not None and weight_bp <= (Verdict.from_json(verdict.verdict).safe_share_bp or 0)


def _own_verdict(session: Session, row: HistoryRow) -> VerdictRow | None:
    """What it rests on, if that is of its own rollout and of the generation just before it."""
    verdict = None if row.verdict_id is None else session.get(VerdictRow, row.verdict_id)
    if verdict is None or (verdict.rollout_id, verdict.generation) != (row.rollout_id, row.seq - 1):
        return None
    return verdict


def _approvers(session: Session, row: HistoryRow, *, needs_reason: bool) -> set[str]:
    """Who let the present step go on since it was entered; a raise within it leaves it as it was."""
    so_far = session.scalars(
        select(HistoryRow)
        .where(
            HistoryRow.rollout_id == row.rollout_id,
            HistoryRow.surface == row.surface,
            HistoryRow.seq < row.seq,
            HistoryRow.command.in_(("approve", "restart", *GROWS)),
        )
        .order_by(HistoryRow.seq.desc())
    )
    found: set[str] = set()
    for one in so_far:
        if one.command == "approve":
            found |= {one.by} if one.reason.strip() or not needs_reason else set()
        elif not is_raise(one.command, json.loads(one.before), json.loads(one.after)):
            break
    return found
