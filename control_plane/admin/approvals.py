"""Approvals of the step on which a rollout stands: how many it asks for, of whom, and who gave theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.domain.rollout import FINISHED, Command, Rollout
from control_plane.registry.history import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """`at` is None where the history that was read does not reach back to it."""

    by: str
    at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvals:
    wanted: int
    needed: int
    group: str  # whose members may; empty: anyone but the creator
    creator: str
    given: tuple[Approval, ...]

    @property
    def words(self) -> str:
        """'1 of 2 approvals of leads: ann'."""
        of_group = f" of {self.group}" if self.group else ""
        names = ", ".join(approval.by for approval in self.given) or "nobody yet"
        return f"{len(self.given)} of {self.wanted} approval{'' if self.wanted == 1 else 's'}{of_group}: {names}"


def approvals_of(rollout: Rollout, changes: Sequence[Entry] = ()) -> Approvals | None:
    """None where the step asks for none. `changes` are the rollout's or its surface's, the latest first."""
    step = rollout.standing_step
    if step is None or not step.approvals or rollout.phase in FINISHED:
        return None
    return Approvals(
        wanted=step.approvals,
        needed=rollout.approvals_needed,
        group=step.approval_group,
        creator=rollout.created_by,
        given=tuple(_given(rollout, name, changes) for name in sorted(rollout.approvals)),
    )


def _given(rollout: Rollout, name: str, changes: Sequence[Entry]) -> Approval:
    for change in changes:
        if (change.rollout_id, change.command, change.by) == (rollout.rollout_id, Command.APPROVE, name):
            return Approval(by=name, at=change.at, reason=change.reason)
    return Approval(by=name)
