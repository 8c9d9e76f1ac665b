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
from control_plane.registry import leases
from control_plane.registry.session import Sessions
from control_plane.registry.tables import RolloutRow, VerdictRow

ROLLOUTS = 3 * 1_000
CHECK_SECONDS = 240.0  # at 3 000 rollouts 12.5 fall due a second
LOOK_SECONDS = 0.25
START_SECONDS = 60.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    decisions_per_s: float
    lag_s: Sequence[float]
    cpu_ms: float  # of the scheduler, by decision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="for a short while")
    is_quick = parser.parse_args().quick
    with (
        TemporaryDirectory(prefix="surefoot-bench-") as folder,
        databases("tick") as (url,),
        registry(url) as sessions,
    ):
        with scheduler(Path(folder), url) as process:
            _wait_for_first_tick(sessions)
            make_fleet(sessions, EventLog(Path(folder) / "events"), count=ROLLOUTS, check_seconds=CHECK_SECONDS)
            pace = measure(sessions, process.pid, seconds=10.0 if is_quick else 120.0)
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
            ("CPU of the scheduler a decision, ms", f"{pace.cpu_ms:.3g}", ""),
            ("the most overdue has waited, median s", f"{np.median(pace.lag_s):.3g}", ""),
            ("the same, p99 s", f"{figures['tick_lag_p99_s']:g}", "≤ 2"),
        ),
        figures=figures,
    )


def measure(sessions: Sessions, pid: int, *, seconds: float) -> Pace:
    lag_s: list[float] = []
    cpu_before, before, started = _cpu_seconds(pid), _decisions(sessions), time.monotonic()
    while time.monotonic() - started < seconds:
        lag_s.append(_lag_seconds(sessions))
        time.sleep(LOOK_SECONDS)
    made, spent, cpu_s = _decisions(sessions) - before, time.monotonic() - started, _cpu_seconds(pid) - cpu_before
    return Pace(decisions_per_s=made / spent, lag_s=lag_s, cpu_ms=1e3 * cpu_s / max(1, made))


@contextmanager
def scheduler(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "SUREFOOT_DATA_DIR": str(folder),
        "SUREFOOT_DATABASE_URL": url,
        "SUREFOOT_RUNTIME_SILENT_SECONDS": "1e9",
    }
    command = [sys.executable, "-m", "control_plane", "scheduler"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_for_first_tick(sessions: Sessions) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        with sessions.reading() as session:
            lease = leases.current(session, leases.SCHEDULER)
        if lease is not None and lease.last_tick_at is not None:
            return
        time.sleep(LOOK_SECONDS)
    raise SystemExit("the scheduler did not start")


def _cpu_seconds(pid: int) -> float:
    """User's and system's, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
