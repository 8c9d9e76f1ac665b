"""What another plan's judge would have said of evidence that was judged once: look by look, as it was recorded.

Nothing is drawn anew. A plan that had gone another way would have seen other evidence from there on: these are second
opinions on each look, not another course of events.
"""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from control_plane.domain.errors import ControlPlaneError, InvalidMoments
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.verdict import Verdict
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import Inputs, unpack
from control_plane.rehearsal.recording import NoRecording

FORMAT = "surefoot-second-opinions/1"
PATTERN = "*.inputs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """One look: the verdict under its own plan, and under another."""

    name: str
    then: Verdict
    now: Verdict

    @property
    def at(self) -> str:
        return f"{datetime.fromtimestamp(self.then.as_of_ms / 1_000, UTC):%Y-%m-%d %H:%M}"

    @property
    def differs(self) -> bool:
        return self.then.outcome is not self.now.outcome

    def to_json(self) -> dict[str, Any]:
        return {"file": self.name, "at": self.at, "then": asdict(self.then), "now": asdict(self.now)}


def holds_inputs(folder: Path) -> bool:
    return any(folder.glob(PATTERN))


def second_opinions(plan: RolloutPlan, folder: Path) -> tuple[Opinion, ...]:
    """Judge every packed input in the folder under `plan`, in the order of time; `NoRecording` names a bad file."""
    opinions = [_opinion(plan, path) for path in sorted(folder.glob(PATTERN))]
    return tuple(sorted(opinions, key=lambda one: (one.then.as_of_ms, one.name)))


def _opinion(plan: RolloutPlan, path: Path) -> Opinion:
    try:
        inputs = unpack(path.read_bytes())
        return Opinion(name=path.name, then=_judged(inputs.plan, inputs), now=_judged(_aligned(plan, inputs), inputs))
    except InvalidMoments as error:
        raise NoRecording(path, str(error)) from error
    except OSError as error:
        raise NoRecording(path, error.strerror or str(error)) from error


def _judged(plan: RolloutPlan, inputs: Inputs) -> Verdict:
    return judge(plan, inputs.stage, inputs.moments, inputs.health, inputs.readings)


def _aligned(plan: RolloutPlan, inputs: Inputs) -> RolloutPlan:
    """The evidence was summed under its own plan's steps and windows: another's cannot be read from it."""
    if [step.share_bp for step in plan.steps] != [step.share_bp for step in inputs.plan.steps]:
        raise OtherEvidence(plan.name, inputs.plan.name, "steps")
    if plan.windows_ms() != inputs.plan.windows_ms():
        raise OtherEvidence(plan.name, inputs.plan.name, "attribution windows")
    if not math.isclose(plan.revenue_cap, inputs.plan.revenue_cap):
        raise OtherEvidence(plan.name, inputs.plan.name, "revenue cap")
    return plan


class OtherEvidence(ControlPlaneError):
    """Recorded sums that a plan cannot be judged by."""

    def __init__(self, plan: str, recorded: str, what: str) -> None:
        self.what = what
        super().__init__(
            f"the plan {plan!r} has other {what} than the recorded {recorded!r}; "
            "sums made for one say nothing of the other"
        )
