"""Where a rehearsal's traffic comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from control_plane.domain.plan import RolloutPlan
from control_plane.rehearsal.audience import Audience
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
