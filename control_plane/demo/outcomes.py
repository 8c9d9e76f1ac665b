"""Clicks on their way to the event log: each is reported when it happens, not when its impression does."""

import io
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from control_plane.demo.contexts import IntArray, KeyArray
from control_plane.demo.scoring_client import Shown
from control_plane.demo.traffic import Requests

MEAN_DELAY_MS = 6 * 60_000  # of a click after its impression; the log does not tell, so this much is assumed
MAX_DELAY_MS = 55 * 60_000  # inside the plans' attribution window of one hour


@dataclass(frozen=True, kw_only=True, slots=True)
class Clicks:
    """M clicks, each with the impression it belongs to."""

    surface: str
    served_at_ms: int
    impression_id_M: KeyArray
    user_key_M: KeyArray
    occurred_at_ms_M: IntArray

    def take(self, is_taken_M: NDArray[np.bool_]) -> "Clicks":
        return Clicks(
            surface=self.surface,
            served_at_ms=self.served_at_ms,
            impression_id_M=self.impression_id_M[is_taken_M],
            user_key_M=self.user_key_M[is_taken_M],
            occurred_at_ms_M=self.occurred_at_ms_M[is_taken_M],
        )


@dataclass(kw_only=True, slots=True)
class Outcomes:
    """Holds clicks back until event time has reached them."""

    rng: np.random.Generator
    waiting: list[Clicks] = field(default_factory=list)

    def add(self, requests: Requests, shown: Shown, clicked_U: NDArray[np.bool_]) -> None:
        number = int(clicked_U.sum())
        delay_M = np.minimum(self.rng.exponential(MEAN_DELAY_MS, number), MAX_DELAY_MS).astype(np.int64)
        self.waiting.append(
            Clicks(
                surface=requests.surface,
                served_at_ms=requests.served_at_ms,
                impression_id_M=shown.impression_id_U[clicked_U],
                user_key_M=requests.user_key_U[clicked_U],
                occurred_at_ms_M=requests.served_at_ms + delay_M,
            )
        )

    def happened_by(self, now_ms: int) -> pa.Table | None:
        """Take out the clicks that have happened, as rows of kind engagement; None if there are none."""
        happened = [clicks.take(clicks.occurred_at_ms_M <= now_ms) for clicks in self.waiting]
        later = [clicks.take(clicks.occurred_at_ms_M > now_ms) for clicks in self.waiting]
        self.waiting = [clicks for clicks in later if clicks.occurred_at_ms_M.size]
        tables = [engagements(clicks) for clicks in happened if clicks.occurred_at_ms_M.size]
        return pa.concat_tables(tables) if tables else None


def engagements(clicks: Clicks) -> pa.Table:
    """An impression is clicked at most once here, so the click takes its impression's id."""
    size = clicks.occurred_at_ms_M.size
    return pa.table(
        {
            "event_id": pa.array(clicks.impression_id_M, pa.uint64()),
            "impression_id": pa.array(clicks.impression_id_M, pa.uint64()),
            "user_key": pa.array(clicks.user_key_M, pa.uint64()),
            "served_at_ms": pa.array(np.full(size, clicks.served_at_ms, np.int64)),
            "surface": pa.array([clicks.surface] * size, pa.string()),
            "label": pa.array(["click"] * size, pa.string()),
            "occurred_at_ms": pa.array(clicks.occurred_at_ms_M, pa.int64()),
            "value": pa.array(np.ones(size)),
        }
    )


def arrow_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
