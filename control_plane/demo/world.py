"""The demo's hands on the running system: its event time, its traffic, and waiting until both have been looked at."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from control_plane.demo.control_client import ControlClient, Json, Refused
from control_plane.demo.outcomes import Outcomes, arrow_stream
from control_plane.demo.scoring_client import ScoringClient, Shown
from control_plane.demo.traffic import Requests

BEFORE_CHECK_MS = 60_000  # traffic is played with the clock this far before the next check, so none sees half of it
FOLLOW_SECONDS = 60.0  # runtimes load a version and acknowledge a split within this
POLL_SECONDS = 0.03


@dataclass(kw_only=True, slots=True)
class EventTime:
    """The clock that control plane and scheduler read; only the demo writes it, and never backwards."""

    path: Path
    now_ms: int

    def set_to(self, now_ms: int) -> None:
        assert now_ms >= self.now_ms, "event time never runs backwards"
        beside = self.path.with_suffix(".next")
        beside.write_text(str(now_ms))
        beside.replace(self.path)
        self.now_ms = now_ms


@dataclass(kw_only=True, slots=True)
class World:
    control: ControlClient
    runtime: ScoringClient
    time: EventTime
    outcomes: Outcomes
    impressions: int = 0
    clicks: int = 0

    def play(self, requests: Requests) -> Shown:
        shown = self.runtime.show(requests)
        self.impressions += requests.size
        return shown

    def click(self, requests: Requests, shown: Shown, clicked_U: NDArray[np.bool_]) -> None:
        self.clicks += int(clicked_U.sum())
        self.outcomes.add(requests, shown, clicked_U)

    def begin_window(self, ends_at_ms: int) -> None:
        """Move the clock so near to the next check that the window's events are not in its future."""
        self.time.set_to(max(self.time.now_ms, ends_at_ms - BEFORE_CHECK_MS))

    def end_window(self, ends_at_ms: int) -> None:
        """Bring everything that happened into the log, then let the scheduler look."""
        self.runtime.flush()
        happened = self.outcomes.happened_by(ends_at_ms)
        if happened is not None:
            self.control.post_events("engagement", arrow_stream(happened))
        self.time.set_to(ends_at_ms)
        self.control.wait_for_tick(ends_at_ms)
        self.follow()

    def follow(self) -> None:
        """Return once nothing is loading and the runtime serves what the registry says."""
        deadline = time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < deadline:
            if not self._is_moving():
                return
            time.sleep(POLL_SECONDS)
        raise Refused("waiting for the runtime", 200, f"it did not follow within {FOLLOW_SECONDS:.0f} s; see its log")

    def active(self) -> list[Json]:
        found: list[Json] = items(self.control.get("/v1/rollouts", active="true"))
        return found

    def _is_moving(self) -> bool:
        """Whether the scheduler or a runtime has work left that the present moment allows.

        Traffic played meanwhile would be judged half: its exposures, but not yet its clicks.
        """
        if any(self._is_on_its_way(rollout) for rollout in self.active()):
            return True
        wanted = {state["surface"]: state["generation"] for state in items(self.control.get("/v1/surfaces"))}
        runtimes = items(self.control.get("/v1/runtimes"))
        return not any(_serves(runtime, wanted) for runtime in runtimes)

    def _is_on_its_way(self, rollout: Json) -> bool:
        """Free to start, loading, not known to serve its stage, or not yet looked at since it loaded."""
        match rollout["phase"]:
            case "pending":
                blocked = self.control.get(f"/v1/releases/{rollout['release_id']}")["blocked"]
                return rollout["surface"] not in blocked
            case "warming":
                return True
            case "shadow" | "ramping" | "watching":
                found = self.control.rollout(rollout["rollout_id"])
                return found["stage_began_at"] is None or found["verdict"] is None
            case _:
                return False


def _serves(runtime: Json, wanted: dict[str, int]) -> bool:
    generations = runtime["generations"]
    return all(generations.get(surface, 0) >= generation for surface, generation in wanted.items() if generation)


def items(answer: object) -> list[Json]:
    """A list of things, whether it came bare or under its one key."""
    if isinstance(answer, dict):
        lists: Sequence[list[Json]] = [value for value in answer.values() if isinstance(value, list)]
        return lists[0]
    assert isinstance(answer, list)
    return answer
