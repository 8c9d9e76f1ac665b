"""How many decisions one scheduler makes a second over 3 000 rollouts, and how late it is.

`surefoot scheduler` in a process of its own, beside PostgreSQL, over a real event log; nothing is told to it but its
settings. A decision is a completed check: evidence read, judged, decided, and stored in its transaction. The lag is how
long the most overdue rollout has waited, looked at four times a second.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sqlalchemy import func, select

from benchmarks.crash_run.postgres import databases
from benchmarks.propagation import registry
from benchmarks.report import report
from benchmarks.tick_run.fleet import make_fleet
from control_plane.domain.rollout import ACTIVE
from control_plane.evidence.event_log import EventLog
from control_plane.registry.session import Sessions
from control_plane.registry.tables import RolloutRow, VerdictRow

ROLLOUTS = 3 * 1_000
CHECK_SECONDS = 300.0  # at 3 000 rollouts ten fall due a second
LOOK_SECONDS = 0.25
START_SECONDS = 60.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    decisions_per_s: float
    lag_s: Sequence[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="for a short while")
    is_quick = parser.parse_args().quick
    with (
        TemporaryDirectory(prefix="surefoot-bench-") as folder,
        databases("tick") as (url,),
        registry(url) as sessions,
    ):
        make_fleet(sessions, EventLog(Path(folder) / "events"), count=ROLLOUTS, check_seconds=CHECK_SECONDS)
        with scheduler(Path(folder), url):
            _wait_for_first(sessions)
            pace = measure(sessions, seconds=10.0 if is_quick else 120.0)
        with sessions.reading() as session:
            active = session.scalar(select(func.count()).where(RolloutRow.phase.in_(ACTIVE)))
    assert active == ROLLOUTS, f"{active} rollouts are left"
    figures = {
        "decisions_per_s": float(f"{pace.decisions_per_s:.4g}"),
        "tick_lag_p99_s": float(f"{np.quantile(pace.lag_s, 0.99):.4g}"),
    }
    report(
        "tick",
        columns=(f"{ROLLOUTS} rollouts, each due every {CHECK_SECONDS:g} s", "measured", "bar"),
        rows=(
            ("decisions a second", f"{figures['decisions_per_s']:g}", "≥ 10"),
            ("the most overdue has waited, median s", f"{np.median(pace.lag_s):.3g}", ""),
            ("the same, p99 s", f"{figures['tick_lag_p99_s']:g}", "≤ 2"),
        ),
        figures=figures,
    )


def measure(sessions: Sessions, *, seconds: float) -> Pace:
    lag_s: list[float] = []
    before, started = _decisions(sessions), time.monotonic()
    while time.monotonic() - started < seconds:
        lag_s.append(_lag_seconds(sessions))
        time.sleep(LOOK_SECONDS)
    made, spent = _decisions(sessions) - before, time.monotonic() - started
    return Pace(decisions_per_s=made / spent, lag_s=lag_s)


@contextmanager
def scheduler(folder: Path, url: str) -> Iterator[None]:
    environment = {
        **os.environ,
        "SUREFOOT_DATA_DIR": str(folder),
        "SUREFOOT_DATABASE_URL": url,
        "SUREFOOT_RUNTIME_SILENT_SECONDS": "1e9",
    }
    command = [sys.executable, "-m", "control_plane", "scheduler"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for_first(sessions: Sessions) -> None:
    """Until what fell due while everything started is done."""
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        if _decisions(sessions) and _lag_seconds(sessions) < 1.0:
            return
        time.sleep(LOOK_SECONDS)


def _decisions(sessions: Sessions) -> int:
    with sessions.reading() as session:
        return session.scalar(select(func.count()).select_from(VerdictRow)) or 0


def _lag_seconds(sessions: Sessions) -> float:
    with sessions.reading() as session:
        earliest = session.scalar(select(func.min(RolloutRow.next_check_at)).where(RolloutRow.phase.in_(ACTIVE)))
    assert earliest is not None
    return max(0.0, (datetime.now(UTC) - earliest).total_seconds())


if __name__ == "__main__":
    main()
