"""Watches a scheduler through its registry: how late each decision was, and how long what waits has waited."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from control_plane.domain.rollout import ACTIVE
from control_plane.registry.session import Sessions
from control_plane.registry.tables import RolloutRow, VerdictRow

LOOK_SECONDS = 0.1
OUT_OF_ORDER = 100  # verdicts that may be committed before one of a lower number; far more than there are threads


@dataclass(kw_only=True, slots=True)
class Seen:
    """`lag_s`: of each decision, from when it fell due to the first look that found it committed.

    That is late by up to `LOOK_SECONDS`, and never early. `waiting_s`: the most overdue rollout at each look, which
    also tells of one that is never decided on.
    """

    lag_s: list[float] = field(default_factory=list)
    waiting_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0  # of the scheduler, all its threads

    @property
    def decisions_per_s(self) -> float:
        return len(self.lag_s) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """A decision."""
        return 1e3 * self.cpu_s / max(1, len(self.lag_s))


def watch(sessions: Sessions, pid: int, *, check_seconds: float, until: Callable[[Seen], bool]) -> Seen:
    seen = Seen()
    due, last = _at_present(sessions)
    began, counted = last, set[int]()
    cpu_before, started = cpu_seconds(pid), time.monotonic()
    while not until(seen):
        time.sleep(LOOK_SECONDS)
        found, now = _verdicts_after(sessions, last - OUT_OF_ORDER), datetime.now(UTC)
        for verdict_id, rollout_id, at in found:
            if verdict_id > began and verdict_id not in counted:
                seen.lag_s.append((now - due[rollout_id]).total_seconds())
                due[rollout_id], last = at + timedelta(seconds=check_seconds), max(last, verdict_id)
                counted.add(verdict_id)
        seen.waiting_s.append(max(0.0, (now - min(due.values())).total_seconds()))
        seen.seconds, seen.cpu_s = time.monotonic() - started, cpu_seconds(pid) - cpu_before
    return seen


def cpu_seconds(pid: int) -> float:
    """User's and system's, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _at_present(sessions: Sessions) -> tuple[dict[int, datetime], int]:
    """When each rollout is due, and the last verdict, of one moment."""
    query = select(RolloutRow.rollout_id, RolloutRow.next_check_at).where(RolloutRow.phase.in_(ACTIVE))
    with sessions.reading() as session:
        due = {row.rollout_id: row.next_check_at for row in session.execute(query)}
        return due, session.scalar(select(func.max(VerdictRow.verdict_id))) or 0


def _verdicts_after(sessions: Sessions, last: int) -> list[tuple[int, int, datetime]]:
    """In the order of their numbers, which is nearly that of their commits: a few threads store them."""
    query = select(VerdictRow.verdict_id, VerdictRow.rollout_id, VerdictRow.at).where(VerdictRow.verdict_id > last)
    with sessions.reading() as session:
        return [(row.verdict_id, row.rollout_id, row.at) for row in session.execute(query.order_by("verdict_id"))]
