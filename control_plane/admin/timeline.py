"""A rollout's way as steps: what is behind it, where it stands, what is ahead."""

from dataclasses import dataclass
from enum import StrEnum

from control_plane.admin import wording
from control_plane.domain.plan import Step
from control_plane.domain.rollout import Phase, Rollout


class Mark(StrEnum):
    DONE = "done"
    CURRENT = "current"
    PAUSED = "paused"  # current, and held or expired
    STOPPED = "stopped"  # where it was rolled back
    NEXT = "next"


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
    label: str
    note: str
    mark: Mark

    @property
    def icon(self) -> str:
        return MARK_ICONS[self.mark]

    @property
    def mark_words(self) -> str:
        return MARK_WORDS[self.mark]

    @property
    def is_current(self) -> bool:
        return self.mark in (Mark.CURRENT, Mark.PAUSED)


def timeline(rollout: Rollout) -> tuple[TimelineStep, ...]:
    """Warm-up, shadow, each share, done; the last share is the watch."""
    plan = rollout.plan
    labels = [
        ("Warm up", "runtimes load it"),
        ("Shadow", f"bake {wording.duration(plan.shadow.bake_seconds)}"),
        *((_step_label(step, index, len(plan.steps)), _step_note(step)) for index, step in enumerate(plan.steps)),
        ("Done", "becomes stable"),
    ]
    here = position(rollout)
    return tuple(
        TimelineStep(label=label, note=note, mark=_mark(index, here, rollout))
        for index, (label, note) in enumerate(labels)
    )


def position(rollout: Rollout) -> int:
    """Index into the timeline; of one rolled back, where that happened as far as its step tells."""
    match rollout.serving_phase:
        case Phase.PENDING | Phase.WARMING:
            return 0
        case Phase.DONE:
            return 2 + len(rollout.plan.steps)
        case _:
            return 2 + rollout.step


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
    if step.approvals:
        note += f", {step.approvals} approval{'s' if step.approvals > 1 else ''}"
    return note
