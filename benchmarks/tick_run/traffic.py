"""What users of many surfaces do, as collectors would append it to the event log."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from control_plane.domain.events import EventKind
from control_plane.evidence.event_log import EventLog
from control_plane.registry.surfaces import SurfaceState

CLICK_RATE = 0.2
BATCH_SECONDS = 1.0
SEED = 20_260_303


class Traffic:
    """Impressions spread evenly over surfaces, view types and both arms."""

    def __init__(self, states: Sequence[SurfaceState], view_types: Sequence[str]) -> None:
        self._draw = np.random.default_rng(SEED)
        self._surface_S = np.array([state.surface for state in states])
        self._version_SA = np.array([[state.stable, state.candidate] for state in states])
        self._generation_S = np.array([state.generation for state in states])
        self._view_types = np.array(view_types)

    def serve(self, log: EventLog, count: int, start: datetime, end: datetime) -> None:
        """Append one batch."""
        draw = self._draw
        surface_N = draw.permutation(np.arange(count) % len(self._surface_S))
        arm_N = draw.integers(0, 2, count)
        common = {
            "impression_id": draw.integers(0, 2**63, count, dtype=np.uint64),
            "user_key": draw.integers(0, 2**63, count, dtype=np.uint64),
            "served_at_ms": draw.integers(_ms(start) + 1, _ms(end), count),
            "surface": self._surface_S[surface_N],
        }
        exposures = pa.table(
            {
                **common,
                "view_type": self._view_types[draw.integers(0, len(self._view_types), count)],
                "generation": self._generation_S[surface_N],
                "arm": np.array(["stable", "candidate"])[arm_N],
                "version_id": self._version_SA[surface_N, arm_N],
                "score": draw.beta(2, 8, count),
            }
        )
        clicked = pa.table(common).filter(pa.array(draw.random(count) < CLICK_RATE))
        engagements = (
            clicked.append_column("event_id", clicked["impression_id"])
            .append_column("label", pa.array(["click"] * len(clicked), pa.string()))
            .append_column("occurred_at_ms", pa.array(clicked["served_at_ms"].to_numpy() + 30_000))
            .append_column("value", pa.array(np.ones(len(clicked))))
        )
        log.append({EventKind.EXPOSURE: exposures, EventKind.ENGAGEMENT: engagements})

    @contextmanager
    def flowing(self, log: EventLog, *, an_hour: int) -> Iterator[None]:
        """So many impressions an hour, appended batch by batch for as long as the caller is inside."""
        ended = threading.Event()
        thread = threading.Thread(target=self._flow_until, args=(ended, log, round(an_hour * BATCH_SECONDS / 3_600)))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _flow_until(self, ended: threading.Event, log: EventLog, count: int) -> None:
        while not ended.wait(BATCH_SECONDS):
            now = datetime.now(UTC)
            self.serve(log, count, now - timedelta(seconds=BATCH_SECONDS), now)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)
