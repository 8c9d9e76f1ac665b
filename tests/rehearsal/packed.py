"""What verdicts were made of, packed into files as the API gives them."""

from pathlib import Path

from control_plane.domain.rollout import Phase, Stage
from control_plane.guardrails.replay import pack
from control_plane.rehearsal.audience import DAY_MS, Effects
from control_plane.rehearsal.serving import health
from control_plane.rehearsal.sources import FIRST_MONDAY_MS
from control_plane.rehearsal.traffic import Traffic
from tests.rehearsal.builders import AUDIENCE, a_quick_plan

LOOKS = 4


def write_inputs(folder: Path) -> None:
    """Four looks at an equal candidate on half of the traffic; the last one lies in the first file."""
    plan = a_quick_plan()
    traffic = Traffic(plan, AUDIENCE, Effects(), seed=1, started_at_ms=FIRST_MONDAY_MS)
    for look in range(1, LOOKS + 1):
        traffic.serve(until_ms=FIRST_MONDAY_MS + look * DAY_MS, generation=1, candidate_bp=5_000)
        stage = Stage(
            phase=Phase.RAMPING,
            step=1,
            share_bp=5_000,
            next_share_bp=10_000,
            advances_left=1,
            generation=1,
            stage_generation=1,
            started_at_ms=FIRST_MONDAY_MS,
            entered_at_ms=FIRST_MONDAY_MS,
        )
        well = health(plan, scored_stable=10_000, scored_candidate=10_000, error_rate=0.0)
        (folder / f"{LOOKS - look}.inputs").write_bytes(pack(plan, stage, traffic.moments(), well))
