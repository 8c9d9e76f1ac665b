"""Where a rehearsal's traffic comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from control_plane.domain.plan import RolloutPlan
from control_plane.rehearsal.audience import DAY_MS, Audience
from control_plane.rehearsal.recorded_traffic import RecordedTraffic
from control_plane.rehearsal.recording import Recording
from control_plane.rehearsal.run import Stream
from control_plane.rehearsal.scenarios import Scenario
from control_plane.rehearsal.traffic import Traffic
from control_plane.rehearsal.wording import number

FIRST_MONDAY_MS = 1_767_571_200_000  # 2026-01-05: simulations start on a Monday, so that equal seeds are equal weeks


class Source(Protocol):
    """Something that gives the traffic of one run after another; sent to other processes as it is."""

    @property
    def started_at_ms(self) -> int: ...

    @property
    def view_shares(self) -> Mapping[str, float]:
        """Impressions by view type, in any unit."""
        ...

    @property
    def sentence(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of this kind of traffic."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that the traffic depends on, as plain JSON."""
        ...

    def stream(self, plan: RolloutPlan, scenario: Scenario, seed: np.random.SeedSequence) -> Stream: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """Users, habits and delays as stated."""

    audience: Audience

    @property
    def started_at_ms(self) -> int:
        return FIRST_MONDAY_MS

    @property
    def view_shares(self) -> Mapping[str, float]:
        return self.audience.view_types

    @property
    def sentence(self) -> str:
        audience = self.audience
        a_day = number(audience.users * audience.impressions_per_day)
        who = f"{number(audience.users)} users, about {a_day} impressions a day, a CTR of {100 * audience.ctr:.3g} %"
        return f"simulated traffic: {who}"

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            "Traffic is simulated: users come back at their own pace, like ads to a different degree, and new ones "
            "enter; weekends are busier. Figures hold for traffic like this: state yours, or use a recording.",
            "Stable is perfectly calibrated here, on every view type and at all times.",
        )

    def describe(self) -> dict[str, Any]:
        return {"kind": "simulated", **asdict(self.audience)}

    def stream(self, plan: RolloutPlan, scenario: Scenario, seed: np.random.SeedSequence) -> Stream:
        return Traffic(
            plan, self.audience, scenario.effects, scenario.faults, seed=seed, started_at_ms=self.started_at_ms
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What stable served, its users given to the arms anew in each run."""

    recording: Recording

    @property
    def started_at_ms(self) -> int:
        return self.recording.first_day * DAY_MS

    @property
    def view_shares(self) -> Mapping[str, float]:
        return self.recording.view_shares()

    @property
    def sentence(self) -> str:
        recording = self.recording
        shown, users = number(float(recording.shown_N.sum())), number(float(recording.user_U.size))
        span = f"{recording.days} day{'s' if recording.days > 1 else ''}"
        return f"recorded traffic of {recording.surface}: {shown} impressions to {users} users in {span}"

    @property
    def notes(self) -> tuple[str, ...]:
        recording = self.recording
        left_out = recording.recorded_days - recording.days
        trimmed = f" ({left_out} further days are left out, so that weeks stay whole)" if left_out else ""
        return (
            f"Traffic is recorded: what stable served on {recording.surface} on {recording.days} whole days{trimmed}. "
            "A plan that takes longer goes round it again, with the same users: later rounds bring no new ones.",
            "Each run gives the recorded users to the arms anew. Who came, when, and what they did under stable is "
            "real; what the candidate does is thinned out of it or added to it.",
            "The candidate's scores are stable's, changed as stated; of a user's impressions of one period and score "
            "bin, the mean score stands for each.",
        )

    def describe(self) -> dict[str, Any]:
        recording = self.recording
        return {
            "kind": "recorded",
            "folder": str(recording.path),
            "surface": recording.surface,
            "first_day": date_of(recording.first_day),
            "days": recording.days,
            "users": int(recording.user_U.size),
            "impressions": int(recording.shown_N.sum()),
            "view_types": dict(recording.view_shares()),
            "events": recording.digest,
        }

    def stream(self, plan: RolloutPlan, scenario: Scenario, seed: np.random.SeedSequence) -> Stream:
        return RecordedTraffic(plan, self.recording, scenario.effects, scenario.faults, seed=seed)


def date_of(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_MS / 1_000, UTC).date().isoformat()
