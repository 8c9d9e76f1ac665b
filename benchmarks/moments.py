"""How fast the event log becomes moments, and that memory stays that of one day however long the log is.

Every day has the same number of events; each measurement runs in a process of its own, nothing remembered.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from benchmarks.memory import peak_mb
from benchmarks.report import median, report, spread
from control_plane.domain.events import EventKind, Label
from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.moments import Measure
from control_plane.evidence.aggregate import MomentsQuery, moments
from control_plane.evidence.event_log import DAY_MS, EventLog
from control_plane.evidence.schema import SCHEMA_OF

SIZES_M = (1, 5, 10)  # million events
DAYS_PER_MILLION = 3
BATCHES_PER_DAY = 4
USERS = 200_000
CLICK_RATE = 0.05
SHADOW_SHARE = 0.2  # of exposures that the candidate scored too
FIRST_DAY = 20_500
GENERATION_DAYS = 5  # before the weights change
HOUR_MS = 3_600_000
STABLE, CANDIDATE = VersionId("a" * 16), VersionId("b" * 16)
VIEW_TYPES = ("grid", "closeup", "carousel")
SEED = 20_260_303


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each size")
    parser.add_argument("--measure", nargs=2, metavar=("LOG", "MILLIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(Path(arguments.measure[0]), int(arguments.measure[1]))))
        return
    with TemporaryDirectory(prefix="surefoot-bench-") as folder:
        _compare(Path(folder), rounds=1 if arguments.quick else 3)


def _compare(root: Path, *, rounds: int) -> None:
    started = time.perf_counter()
    events = _write_log(EventLog(root), days=max(SIZES_M) * DAYS_PER_MILLION)
    written_per_s = events / (time.perf_counter() - started)
    runs = {size: [_in_own_process(root, size) for _ in range(rounds)] for size in SIZES_M}
    figures = {"events_per_s": median([run["events_per_s"] for run in runs[max(SIZES_M)]])}
    for size, found in runs.items():
        figures[f"peak_mb_{size}m"] = median([run["peak_mb"] for run in found])
    print(f"wrote {events / 1e6:.1f} million events, {written_per_s / 1e3:.0f} thousand/s\n")
    report(
        "moments",
        columns=(
            "events",
            "days",
            "first s",
            f"spread of {rounds}",
            "again s",
            "peak MB",
            f"over {SIZES_M[0]} million",
        ),
        rows=[_row(size, found, figures[f"peak_mb_{SIZES_M[0]}m"]) for size, found in runs.items()],
        figures=figures,
    )


def _row(size: int, runs: Sequence[dict[str, float]], least_peak_mb: float) -> tuple[str, ...]:
    cold_s, warm_s, peak = (median([run[name] for run in runs]) for name in ("cold_s", "warm_s", "peak_mb"))
    return (
        f"{size} million",
        str(size * DAYS_PER_MILLION),
        f"{cold_s:.2f}",
        spread([run["cold_s"] for run in runs]),
        f"{warm_s:.3f}",
        f"{peak:.0f}",
        f"{peak / least_peak_mb:.2f}×",
    )


def _in_own_process(root: Path, millions: int) -> dict[str, float]:
    """Peak memory is a process's, so each size gets one."""
    shutil.rmtree(root / "sums", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.moments", "--measure", str(root), str(millions)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(root: Path, millions: int) -> dict[str, float]:
    log = EventLog(root)
    query = _query(days=millions * DAYS_PER_MILLION)
    started = time.perf_counter()
    found = moments(log, query)
    cold_s = time.perf_counter() - started
    started = time.perf_counter()
    moments(log, query)
    warm_s = time.perf_counter() - started
    assert found.sums_of(Measure.IMPRESSIONS)[0].sum() > 0.7e6 * millions
    return {
        "cold_s": cold_s,
        "warm_s": warm_s,
        "events_per_s": millions * 1e6 / cold_s,
        "peak_mb": peak_mb(),
    }


def _query(*, days: int) -> MomentsQuery:
    return MomentsQuery(
        surface=Surface("home_feed"),
        view_types=[ViewType(name) for name in VIEW_TYPES],
        stable=STABLE,
        candidate=CANDIDATE,
        shares=dict.fromkeys(range(1, 100), 5000),
        windows_ms={**dict.fromkeys(Label, HOUR_MS), Label.HIDE: DAY_MS},
        revenue_cap=1_000.0,
        since_ms=FIRST_DAY * DAY_MS,
        as_of_ms=(FIRST_DAY + days) * DAY_MS,
    )


def _write_log(log: EventLog, *, days: int) -> int:
    draw = np.random.default_rng(SEED)
    pattern = _pattern(draw)
    return sum(
        log.append(_batch(draw, pattern, FIRST_DAY + day, batch))
        for day in range(days)
        for batch in range(BATCHES_PER_DAY)
    )


def _pattern(draw: np.random.Generator) -> pa.Table:
    """What every batch repeats; users, impressions and times are its own."""
    per_exposure = 1 + CLICK_RATE + SHADOW_SHARE
    count = round(1e6 / DAYS_PER_MILLION / BATCHES_PER_DAY / per_exposure)
    is_candidate_N = draw.random(count) < 0.5
    return pa.table(
        {
            "surface": np.full(count, "home_feed"),
            "view_type": np.array(VIEW_TYPES)[draw.integers(0, len(VIEW_TYPES), count)],
            "arm": np.where(is_candidate_N, "candidate", "stable"),
            "version_id": np.where(is_candidate_N, CANDIDATE, STABLE),
            "score": draw.beta(2, 40, count),
            "is_scored": draw.random(count) < SHADOW_SHARE,
            "is_clicked": draw.random(count) < CLICK_RATE,
        }
    )


def _batch(draw: np.random.Generator, pattern: pa.Table, day: int, batch: int) -> dict[EventKind, pa.Table]:
    count, length_ms = len(pattern), DAY_MS // BATCHES_PER_DAY
    served_N = np.sort(draw.integers(0, length_ms, count)) + day * DAY_MS + batch * length_ms
    own = {
        "impression_id": draw.integers(0, 2**64, count, dtype=np.uint64),
        "user_key": draw.integers(0, USERS, count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        "served_at_ms": served_N,
        "generation": np.full(count, 1 + (day - FIRST_DAY) // GENERATION_DAYS),
        "event_id": draw.integers(0, 2**64, count, dtype=np.uint64),
        "occurred_at_ms": served_N + 60_000,
        "value": np.ones(count),
    }
    rows = pa.table({**own, **{name: pattern[name] for name in pattern.column_names}})
    clicked = rows.filter(rows["is_clicked"])
    clicked = clicked.append_column("label", pa.array([Label.CLICK.value] * len(clicked)))
    scored = rows.filter(rows["is_scored"])
    place = scored.schema.get_field_index("version_id")
    scored = scored.set_column(place, "version_id", pa.array([str(CANDIDATE)] * len(scored)))
    tables = {EventKind.EXPOSURE: rows, EventKind.SHADOW_SCORE: scored, EventKind.ENGAGEMENT: clicked}
    return {kind: table.select(SCHEMA_OF[kind].names) for kind, table in tables.items()}


if __name__ == "__main__":
    main()
