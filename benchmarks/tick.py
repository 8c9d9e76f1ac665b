"""How many decisions one scheduler makes a second over 3 000 rollouts, and how late they are.

`surefoot scheduler` in a process of its own, beside PostgreSQL, over a real event log to which traffic is appended all
the while; nothing is told to it but its settings. A decision is a completed check: evidence read, judged, decided, and
stored in its transaction. Its lag runs from when it fell due to when it was committed. Then many fall due at once: how
fast they are worked off is what the scheduler has in reserve.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sqlalchemy import func, select

from benchmarks.crash_run.postgres import databases
from benchmarks.propagation import registry
from benchmarks.report import report
from benchmarks.tick_run.fleet import USERS, make_fleet, spread_checks
from benchmarks.tick_run.watch import Seen, watch
from control_plane.domain.rollout import ACTIVE
from control_plane.evidence.event_log import EventLog
from control_plane.registry import leases
from control_plane.registry.session import Sessions
from control_plane.registry.tables import RolloutRow

ROLLOUTS = 3 * 1_000
CHECK_SECONDS = 240.0  # at 3 000 rollouts 12.5 fall due a second
CAUGHT_UP_SECONDS = 1.0  # nothing has waited for longer: what fell due at once is decided
LOOK_SECONDS = 0.25
START_SECONDS = 60.0
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="for a short while")
    is_quick = parser.parse_args().quick
    with (
        TemporaryDirectory(prefix="surefoot-bench-") as folder,
        databases("tick") as (url,),
        registry(url) as sessions,
    ):
        log = EventLog(Path(folder) / "events")
        with scheduler(Path(folder), url) as process:
            _wait_for_first_tick(sessions)
            traffic = make_fleet(sessions, log, count=ROLLOUTS, check_seconds=CHECK_SECONDS)
            with traffic.flowing(log, an_hour=ROLLOUTS * USERS):
                steady = sustained(sessions, process.pid, seconds=10.0 if is_quick else 120.0)
                flat_out = worked_off(sessions, process.pid, count=200 if is_quick else ROLLOUTS)
        with sessions.reading() as session:
            active = session.scalar(select(func.count()).where(RolloutRow.phase.in_(ACTIVE)))
    assert active == ROLLOUTS, f"{active} rollouts are left"
    _report(steady, flat_out)


def sustained(sessions: Sessions, pid: int, *, seconds: float) -> Seen:
    """As many decisions as fall due."""
    return watch(sessions, pid, check_seconds=CHECK_SECONDS, until=lambda seen: seen.seconds >= seconds)


def worked_off(sessions: Sessions, pid: int, *, count: int) -> Seen:
    """So many that fall due at once, and what else does meanwhile, until nothing waits for long any more."""

    def is_worked_off(seen: Seen) -> bool:
        return len(seen.lag_s) > count / 2 and seen.waiting_s[-1] < CAUGHT_UP_SECONDS

    spread_checks(sessions, count, seconds=0.0)
    return watch(sessions, pid, check_seconds=CHECK_SECONDS, until=is_worked_off)


def _report(steady: Seen, flat_out: Seen) -> None:
    figures = {
        "decisions_per_s": float(f"{steady.decisions_per_s:.4g}"),
        "tick_lag_p99_s": float(f"{np.quantile(steady.lag_s, 0.99):.4g}"),
        "most_overdue_s": float(f"{max(steady.waiting_s):.4g}"),
        "cpu_ms_a_decision": float(f"{steady.cpu_ms:.3g}"),
        "decisions_per_s_flat_out": float(f"{flat_out.decisions_per_s:.4g}"),
    }
    report(
        "tick",
        columns=(f"{ROLLOUTS} rollouts, each due every {CHECK_SECONDS:g} s", "measured", "bar"),
        rows=(
            ("decisions a second, as they fall due", f"{figures['decisions_per_s']:g}", "≥ 10"),
            ("lag of a decision, median s", f"{np.median(steady.lag_s):.3g}", ""),
            ("lag of a decision, p99 s", f"{figures['tick_lag_p99_s']:g}", "≤ 2"),
            ("the longest that one was overdue, s", f"{figures['most_overdue_s']:g}", ""),
            ("CPU of the scheduler a decision, ms", f"{figures['cpu_ms_a_decision']:g}", ""),
            ("decisions a second, many due at once", f"{figures['decisions_per_s_flat_out']:g}", ""),
            ("CPU of the scheduler a decision then, ms", f"{flat_out.cpu_ms:.3g}", ""),
        ),
        figures=figures,
    )


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


if __name__ == "__main__":
    main()
