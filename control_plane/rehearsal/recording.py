"""What stable served, read from an event log: per user, period of the day, view type and score bin.

Letters: U users, N rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.events import HOME_ARM, EventKind, Label
from control_plane.domain.moments import FIXED_POINT, NUM_SCORE_BINS, SCORE_BIN_LOGIT_MIN, SCORE_BIN_LOGIT_WIDTH
from control_plane.evidence.event_log import EventLog, Snapshot
from control_plane.evidence.schema import SCHEMA_OF
from control_plane.rehearsal.audience import DAY_MS
from control_plane.rehearsal.scores import SCORE_CLIP

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]

WEEK = 7
EDGE_MS = DAY_MS // 24  # a day that begins or ends this quietly was not recorded whole
MIN_IMPRESSIONS = 1_000
MEMORY_LIMIT = "2GB"

MACROS = f"""
CREATE MACRO fixed(x) AS CAST(round(x * {FIXED_POINT}) AS BIGINT);
CREATE MACRO clipped(score) AS least(greatest(score, {SCORE_CLIP!r}), 1 - {SCORE_CLIP!r});
CREATE MACRO score_bin(p) AS greatest(0, least({NUM_SCORE_BINS - 1},
    floor((ln(p / (1 - p)) - {SCORE_BIN_LOGIT_MIN}) / {SCORE_BIN_LOGIT_WIDTH})));
"""
SERVED_BY_STABLE = f"arm IN ('stable', '{HOME_ARM}')"
OVERVIEW = f"""
SELECT surface, count(*), min(served_at_ms), max(served_at_ms)
FROM read_parquet({{files}}, hive_partitioning = false) WHERE {SERVED_BY_STABLE} GROUP BY surface ORDER BY surface
"""
ROWS = f"""
WITH shown AS (
    SELECT * FROM read_parquet({{exposures}}, hive_partitioning = false)
    WHERE surface = $surface AND {SERVED_BY_STABLE}
    QUALIFY row_number() OVER (PARTITION BY user_key, impression_id ORDER BY {{exposure_columns}}) = 1
), came AS (
    SELECT user_key, impression_id, label, value, occurred_at_ms - served_at_ms AS delay_ms FROM ({{engagements}})
    WHERE surface = $surface
    QUALIFY row_number() OVER (
        PARTITION BY user_key, impression_id, label, event_id ORDER BY {{engagement_columns}}) = 1
), labels AS (
    SELECT user_key, impression_id,
        bool_or(label = 'click' AND delay_ms <= $click) AS click,
        bool_or(label = 'good_click' AND delay_ms <= $good_click) AS good_click,
        bool_or(label = 'hide' AND delay_ms <= $hide) AS hide,
        coalesce(sum(fixed(value)) FILTER (label = 'revenue' AND delay_ms <= $revenue), 0) AS revenue
    FROM came GROUP BY ALL
)
SELECT served_at_ms // $period_ms AS period, user_key, view_type,
    count(*) AS shown,
    count(*) FILTER (click) AS clicks,
    count(*) FILTER (good_click AND click) AS good,
    count(*) FILTER (hide) AS hides,
    sum(least(coalesce(revenue, 0), fixed($revenue_cap))) AS revenue,
    sum(fixed(clipped(score))) AS score
FROM shown LEFT JOIN labels USING (user_key, impression_id)
GROUP BY period, user_key, view_type, score_bin(clipped(score)) ORDER BY ALL
"""


class NoRecording(ControlPlaneError):
    """The folder holds nothing that a plan could be rehearsed on."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"recording {path}: {problem}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """Whole days of one surface; rows come by period, `starts_P` says where each period's begin.

    Attributes:
        days: whole weeks where there are any, so that weekdays stay weekdays when it goes round.
        score_N: Σ of the clipped scores, fixed point; those of a row lie in one bin.
        revenue_N: fixed point, within the window and winsorised.
    """

    path: Path
    surface: str
    view_types: tuple[str, ...]
    first_day: int
    days: int
    recorded_days: int
    periods_per_day: int
    digest: str
    user_U: KeyArray
    starts_P: IntArray
    user_N: IntArray
    view_N: IntArray
    shown_N: IntArray
    clicks_N: IntArray
    good_N: IntArray
    hides_N: IntArray
    revenue_N: IntArray
    score_N: IntArray

    def rows(self, period: int) -> "Rows":
        """Of the so-manieth period, round and round."""
        place = period % (self.days * self.periods_per_day)
        part = slice(int(self.starts_P[place]), int(self.starts_P[place + 1]))
        return Rows(**{field.name: getattr(self, field.name)[part] for field in fields(Rows)})

    def all_rows(self) -> "Rows":
        return Rows(**{field.name: getattr(self, field.name) for field in fields(Rows)})

    def view_shares(self) -> dict[str, float]:
        shown_V = np.bincount(self.view_N, weights=self.shown_N, minlength=len(self.view_types))
        return dict(zip(self.view_types, shown_V.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    user_N: IntArray
    view_N: IntArray
    shown_N: IntArray
    clicks_N: IntArray
    good_N: IntArray
    hides_N: IntArray
    revenue_N: IntArray
    score_N: IntArray


def read_recording(
    path: Path, *, surface: str | None, windows_ms: Mapping[Label, int], revenue_cap: float, periods_per_day: int
) -> Recording:
    """Read an event log as Surefoot writes it; `NoRecording` says what is missing.

    Each event counts once; labels count within the windows. Only days that were recorded whole, and whose last labels
    have had their time, are kept. `surface` may be left out where the log knows only one.
    """
    if not (path / "commits").is_dir():
        raise NoRecording(path, "is no event log of Surefoot: there is no folder `commits` in it")
    log = EventLog(path)
    snapshot = log.snapshot()
    with TemporaryDirectory() as scratch:
        sql = duckdb.connect(":memory:", config={"memory_limit": MEMORY_LIMIT, "temp_directory": scratch})
        try:
            sql.execute("SET enable_progress_bar = false;" + MACROS)
            chosen, first_ms, last_ms = _chosen(sql, log, snapshot, surface)
            days = _whole_days(path, chosen, first_ms, last_ms, max(windows_ms.values()))
            parameters = {label.value: window for label, window in windows_ms.items()}
            parameters |= {"surface": chosen, "revenue_cap": revenue_cap, "period_ms": DAY_MS // periods_per_day}  # type: ignore[dict-item]  # DuckDB takes any scalar
            tables = [_day(sql, log, snapshot, day, parameters) for day in days]
        except duckdb.IOException as error:
            raise NoRecording(path, str(error).partition("\n")[0]) from error
        finally:
            sql.close()
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    if int(columns["shown"].sum()) < MIN_IMPRESSIONS:
        seen = f"stable served {int(columns['shown'].sum())} impressions on {chosen} in {len(days)} whole days"
        raise NoRecording(path, f"{seen}; at least {MIN_IMPRESSIONS} are needed")
    return _recording(path, chosen, days, periods_per_day, columns, _digest(snapshot))


def _chosen(
    sql: duckdb.DuckDBPyConnection, log: EventLog, snapshot: Snapshot, surface: str | None
) -> tuple[str, int, int]:
    files = [file for place, some in snapshot.items() if place.kind is EventKind.EXPOSURE for file in log.files(some)]
    if not files:
        raise NoRecording(log.root, "holds no exposures")
    found = {
        name: (int(low), int(high))
        for name, _, low, high in sql.execute(OVERVIEW.format(files=_list(files))).fetchall()
    }
    if not found:
        raise NoRecording(log.root, "holds no exposures that stable served")
    names = ", ".join(found)
    if surface is None and len(found) > 1:
        raise NoRecording(log.root, f"holds several surfaces; choose one with --surface: {names}")
    chosen = surface if surface is not None else next(iter(found))
    if chosen not in found:
        raise NoRecording(log.root, f"holds nothing that stable served on {chosen!r}; it holds: {names}")
    return chosen, *found[chosen]


def _whole_days(path: Path, surface: str, first_ms: int, last_ms: int, longest_ms: int) -> range:
    first = first_ms // DAY_MS + (first_ms % DAY_MS > EDGE_MS)
    labels_until = (last_ms + EDGE_MS - longest_ms) // DAY_MS  # days before this one have all their labels
    days = range(first, max(first, labels_until))
    if not days:
        hours = (last_ms - first_ms) / (DAY_MS / 24)
        wanted = f"a whole UTC day and the {longest_ms / (DAY_MS / 24):g} hours after it, in which its labels may come"
        raise NoRecording(path, f"{surface} was recorded for {hours:.1f} hours; {wanted}, are needed")
    return days


def _day(
    sql: duckdb.DuckDBPyConnection, log: EventLog, snapshot: Snapshot, day: int, parameters: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    def files(kind: EventKind) -> list[str]:
        found = [some for place, some in snapshot.items() if place.kind is kind and place.day == day]
        return [file for some in found for file in log.files(some)]

    exposures, engagements = files(EventKind.EXPOSURE), files(EventKind.ENGAGEMENT)
    query = ROWS.format(
        exposures=_list(exposures),
        engagements=_relation(engagements),
        exposure_columns=", ".join(SCHEMA_OF[EventKind.EXPOSURE].names),
        engagement_columns=", ".join(SCHEMA_OF[EventKind.ENGAGEMENT].names),
    )
    if not exposures:
        return _nothing()
    return dict(sql.execute(query, dict(parameters)).fetchnumpy())


def _nothing() -> dict[str, NDArray[Any]]:
    names = ("period", "user_key", "view_type", "shown", "clicks", "good", "hides", "revenue", "score")
    types: dict[str, Any] = {"user_key": np.uint64, "view_type": object}
    return {name: np.zeros(0, dtype=types.get(name, np.int64)) for name in names}


def _recording(
    path: Path, surface: str, days: range, periods_per_day: int, columns: Mapping[str, NDArray[Any]], digest: str
) -> Recording:
    kept = len(days) - len(days) % WEEK if len(days) >= WEEK else len(days)
    period_N = np.asarray(columns["period"], np.int64) - days[0] * periods_per_day
    is_kept_N = period_N < kept * periods_per_day
    user_U, user_N = np.unique(np.asarray(columns["user_key"], np.uint64)[is_kept_N], return_inverse=True)
    view_types, view_N = np.unique(columns["view_type"].astype(str)[is_kept_N], return_inverse=True)
    sums = {
        f"{name}_N": np.asarray(columns[name], np.float64).astype(np.int64)[is_kept_N]
        for name in ("shown", "clicks", "good", "hides", "revenue", "score")
    }
    return Recording(
        path=path,
        surface=surface,
        view_types=tuple(view_types.tolist()),
        first_day=days[0],
        days=kept,
        recorded_days=len(days),
        periods_per_day=periods_per_day,
        digest=digest,
        user_U=user_U,
        starts_P=np.searchsorted(period_N[is_kept_N], np.arange(kept * periods_per_day + 1)),
        user_N=user_N.astype(np.int64),
        view_N=view_N.astype(np.int64),
        **sums,
    )


def _digest(snapshot: Snapshot) -> str:
    """Of the events: it stays when files are merged."""
    marks = {place.folder: sum(segment.mark for segment in some) % 2**64 for place, some in snapshot.items()}
    return hashlib.sha256(repr(sorted(marks.items())).encode()).hexdigest()[:16]


def _relation(files: Sequence[str]) -> str:
    if files:
        return f"SELECT * FROM read_parquet({_list(files)}, hive_partitioning = false)"
    kinds = {"uint64": "UBIGINT", "int64": "BIGINT", "string": "VARCHAR", "double": "DOUBLE"}
    columns = [f"CAST(NULL AS {kinds[str(field.type)]}) AS {field.name}" for field in SCHEMA_OF[EventKind.ENGAGEMENT]]
    return f"SELECT {', '.join(columns)} WHERE false"


def _list(files: Sequence[str]) -> str:
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"[{quoted}]"
