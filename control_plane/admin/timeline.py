"""A rollout's way as steps: what is behind it, where it stands, what is ahead."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from control_plane.admin import wording
from control_plane.domain.plan import Step
from control_plane.domain.rollout import Phase, Rollout
from control_plane.registry.history import Entry


class Mark(StrEnum):
    DONE = "done"
    CURRENT = "current"
    PAUSED = "paused"  # current, and held or expired
    STOPPED = "stopped"  # where it was rolled back
    NEXT = "next"


ENTERED = frozenset({Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING, Phase.DONE})
MARK_ICONS = {
    Mark.DONE: "check",
    Mark.CURRENT: "dots",
    Mark.PAUSED: "pause",
    Mark.STOPPED: "back",
    Mark.NEXT: "",
}
MARK_WORDS = {
    Mark.DONE: "done",
    Mark.CURRENT: "now",
    Mark.PAUSED: "now, paused",
    Mark.STOPPED: "rolled back here",
    Mark.NEXT: "ahead",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineStep:
    """`entered_at` is None where it was not entered, or the history does not tell."""

    label: str
    note: str
    mark: Mark
    entered_at: datetime | None = None

    @property
    def icon(self) -> str:
        return MARK_ICONS[self.mark]

    @property
    def mark_words(self) -> str:
        return MARK_WORDS[self.mark]

    @property
    def is_current(self) -> bool:
        return self.mark in (Mark.CURRENT, Mark.PAUSED)


def timeline(rollout: Rollout, changes: Sequence[Entry] = ()) -> tuple[TimelineStep, ...]:
    """Warm-up, shadow, each share, done; the last share is the watch. `changes` are the rollout's, in any order."""
    plan = rollout.plan
    labels = [
        ("Warm up", "runtimes load it"),
        ("Shadow", f"bake {wording.duration(plan.shadow.bake_seconds)}"),
        *((_step_label(step, index, len(plan.steps)), _step_note(step)) for index, step in enumerate(plan.steps)),
        ("Done", "becomes stable"),
    ]
    entered = _entered(rollout, changes)
    here = position(rollout, furthest=max(entered, default=None))
    return tuple(
        TimelineStep(label=label, note=note, mark=_mark(index, here, rollout), entered_at=entered.get(index))
        for index, (label, note) in enumerate(labels)
    )


def position(rollout: Rollout, *, furthest: int | None = None) -> int:
    """Index into the timeline; of one rolled back the furthest that it came, or else where its step says."""
    if rollout.phase is Phase.ROLLED_BACK and furthest is not None:
        return furthest
    return _position(rollout.serving_phase, rollout.step, len(rollout.plan.steps))


def _position(phase: Phase, step: int, steps: int) -> int:
    match phase:
        case Phase.QUEUED | Phase.PENDING | Phase.WARMING:
            return 0
        case Phase.DONE:
            return 2 + steps
        case _:
            return 2 + step


def _entered(rollout: Rollout, changes: Sequence[Entry]) -> dict[int, datetime]:
    """When each step was entered first, by its index; waiting for the start counts as none."""
    entered: dict[int, datetime] = {}
    for change in sorted(changes, key=lambda change: change.seq):
        after = json.loads(change.after).get("rollout")
        if after is not None and Phase(after["phase"]) in ENTERED:
            index = _position(Phase(after["phase"]), after["step"], len(rollout.plan.steps))
            entered.setdefault(index, change.at)
    return entered


def _mark(index: int, here: int, rollout: Rollout) -> Mark:
    if index < here or rollout.phase is Phase.DONE:
        return Mark.DONE
    if index > here:
        return Mark.NEXT
    if rollout.phase is Phase.ROLLED_BACK:
        return Mark.STOPPED
    return Mark.PAUSED if rollout.phase in (Phase.HELD, Phase.EXPIRED) else Mark.CURRENT


def _step_label(step: Step, index: int, steps: int) -> str:
    label = wording.share(step.share_bp)
    return f"{label}, watched" if index + 1 == steps else label


def _step_note(step: Step) -> str:
    note = f"bake {wording.duration(step.bake_seconds)}"
    if step.min_impressions:
        note += f", {wording.count(step.min_impressions)} impressions"
    if step.approvals:
        group = f" of {step.approval_group}" if step.approval_group else ""
        note += f", {step.approvals} approval{'s' if step.approvals > 1 else ''}{group}"
    if step.max_seconds is not None:
        note += f", at most {wording.duration(step.max_seconds)}"
    return note if step.is_monitored else f"{note}, unmonitored"
