"""The SQL that sums partitions of the log. All about an impression lies in one day and one user shard."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import duckdb
import numpy as np
import pyarrow as pa

from control_plane.domain.events import HOME_ARM, EventKind
from control_plane.domain.moments import (
    FIXED_POINT,
    NUM_COARSE_BUCKETS,
    NUM_SCORE_BINS,
    SCORE_BIN_LOGIT_MIN,
    SCORE_BIN_LOGIT_WIDTH,
)
from control_plane.domain.split import NUM_BUCKETS, slot_of
from control_plane.evidence.event_log import DAY_MS
from control_plane.evidence.schema import SCHEMA_OF
from control_plane.evidence.sums import KEYED, NONE_YET_MS, Sums, add_up, no_sums
from control_plane.evidence.users import UserRows, no_user_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUMS_VERSION = 6  # raise it when sums mean or store something else: those that older code stored are then not read
SCORE_FLOOR = 1e-7  # a score of 0 or 1 would make one impression's loss infinite
MEMORY_LIMIT = "1GB"  # of DuckDB; a partition that needs more spills into the log's own folder
THREADS = 2  # partitions are small; more of them at once is the way to use more cores

ASKED = pa.schema(
    [
        pa.field("place", pa.int64()),
        pa.field("surface", pa.string()),
        pa.field("view_types", pa.list_(pa.string())),
        pa.field("stable", pa.string()),
        pa.field("candidate", pa.string()),
        *(pa.field(f"{label}_ms", pa.int64()) for label in ("click", "good_click", "hide", "revenue")),
        pa.field("revenue_cap", pa.float64()),
        pa.field("since_ms", pa.int64()),
        pa.field("as_of_ms", pa.int64()),
    ]
)

# Files are read once: keeping their bytes would make memory grow with the log.
SETTINGS = """
SET enable_progress_bar = false;
SET preserve_insertion_order = false;
SET enable_external_file_cache = false;
"""

# Events are one if they share these columns; where they differ in others, the row that sorts first counts.
IDENTITY = {
    EventKind.EXPOSURE: ("day", "user_key", "impression_id"),
    EventKind.SHADOW_SCORE: ("day", "user_key", "impression_id", "version_id"),
    EventKind.ENGAGEMENT: ("day", "user_key", "impression_id", "label", "event_id"),
}

# Sums of integers are exact in any order; each event is rounded on its own, before it is added.
MACROS = f"""
CREATE MACRO fixed(x) AS CAST(round(x * {FIXED_POINT}) AS BIGINT);
CREATE MACRO clipped(score) AS least(greatest(score, {SCORE_FLOOR!r}), 1 - {SCORE_FLOOR!r});
CREATE MACRO log_loss(p, click) AS fixed(-ln(CASE WHEN click THEN p ELSE 1 - p END));
CREATE MACRO brier(score, click) AS fixed((score - click::INTEGER) * (score - click::INTEGER));
CREATE MACRO coarse(bucket) AS bucket // {NUM_BUCKETS // NUM_COARSE_BUCKETS};
CREATE MACRO score_bin(p) AS greatest(0, least({NUM_SCORE_BINS - 1},
    floor((ln(p / (1 - p)) - {SCORE_BIN_LOGIT_MIN}) / {SCORE_BIN_LOGIT_WIDTH}))::INTEGER);
"""

# `asked` has a row for each part that is summed; `place` says which, and stays beside all that is made of it.
ARM = """CASE WHEN arm = 'stable' AND version_id = stable THEN 0
    WHEN arm = 'candidate' AND version_id = candidate THEN 1 END"""
ANY_ARM = "0"  # before a rollout, whatever served: it is the users that count

SHOWN = """
CREATE OR REPLACE TEMP TABLE shown AS
SELECT place, surface, day, user_key, impression_id, bucket, served_at_ms, generation, score, clipped(score) AS p,
    version_id = candidate OR arm = '{home_arm}' AS of_candidate,
    coalesce(list_position(view_types, view_type), 0) AS view_type,
    {arm} AS arm
FROM ({exposures}) JOIN asked USING (surface) WHERE served_at_ms BETWEEN since_ms AND as_of_ms
"""

SHADOWED = """
CREATE OR REPLACE TEMP TABLE shadowed AS
SELECT place, day, user_key, impression_id, served_at_ms, score, clipped(score) AS p
FROM ({shadow_scores}) JOIN asked USING (surface)
WHERE version_id = candidate AND served_at_ms BETWEEN since_ms AND as_of_ms
"""

LABELLED = """
CREATE OR REPLACE TEMP TABLE labelled AS
WITH came AS (
    SELECT place, day, user_key, impression_id, label, value, occurred_at_ms - shown.served_at_ms AS delay_ms
    FROM ({engagements}) AS engagement JOIN shown USING (surface, day, user_key, impression_id)
    WHERE arm IS NOT NULL
), labels AS (
    SELECT place, day, user_key, impression_id,
        bool_or(label = 'click' AND delay_ms <= click_ms) AS click,
        bool_or(label = 'good_click' AND delay_ms <= good_click_ms) AS good_click,
        bool_or(label = 'hide' AND delay_ms <= hide_ms) AS hide,
        coalesce(sum(fixed(value)) FILTER (label = 'revenue' AND delay_ms <= revenue_ms), 0) AS revenue
    FROM came JOIN asked USING (place) GROUP BY ALL
)
SELECT place, day, user_key, impression_id, bucket, served_at_ms, generation, score, p, view_type, arm,
    coalesce(click, false) AS click, coalesce(good_click, false) AS good_click, coalesce(hide, false) AS hide,
    least(coalesce(revenue, 0), fixed(revenue_cap)) AS revenue,
    as_of_ms - served_at_ms >= click_ms AS matured_click,
    as_of_ms - served_at_ms >= good_click_ms AS matured_good_click,
    as_of_ms - served_at_ms >= hide_ms AS matured_hide,
    as_of_ms - served_at_ms >= revenue_ms AS matured_revenue,
FROM shown JOIN asked USING (place) LEFT JOIN labels USING (place, day, user_key, impression_id)
WHERE arm IS NOT NULL
"""

MEASURES = """
    count(*) AS impressions,
    count(*) FILTER (matured_click) AS matured_click,
    count(*) FILTER (matured_click AND click) AS clicks,
    count(*) FILTER (matured_good_click) AS matured_good_click,
    count(*) FILTER (matured_good_click AND good_click) AS good_clicks,
    count(*) FILTER (matured_hide) AS matured_hide,
    count(*) FILTER (matured_hide AND hide) AS hides,
    count(*) FILTER (matured_revenue) AS matured_revenue,
    coalesce(sum(revenue) FILTER (matured_revenue), 0) AS revenue,
    coalesce(sum(fixed(score)) FILTER (matured_click), 0) AS score
"""

CELLS = f"SELECT place, day, generation, view_type, arm, bucket, {MEASURES} FROM labelled GROUP BY ALL"

BEFORE = (
    f"SELECT place, band, view_type, bucket, {MEASURES} FROM labelled JOIN banded USING (place, user_key) GROUP BY ALL"
)

RELIABILITY = """
SELECT place, generation, view_type, arm, coarse(bucket) AS coarse, score_bin(p) AS bin,
    count(*), sum(fixed(score)), count(*) FILTER (click)
FROM labelled WHERE matured_click GROUP BY ALL
"""

USERS = """
SELECT place, user_key, generation, bit_or(1 << arm) AS seen FROM labelled GROUP BY place, user_key, generation
"""

PAIRED = """
CREATE OR REPLACE TEMP TABLE paired AS
SELECT place, generation, view_type, bucket, matured_click, click, stable.score AS score, stable.p AS p,
    shadowed.score AS candidate_score, shadowed.p AS candidate_p
FROM labelled AS stable JOIN shadowed USING (place, day, user_key, impression_id) WHERE arm = 0
"""

PAIRS = """
SELECT place, generation, view_type, bucket,
    count(*) AS pairs,
    count(*) FILTER (matured_click) AS matured,
    count(*) FILTER (matured_click AND click) AS clicks,
    coalesce(sum(fixed(score)) FILTER (matured_click), 0) AS score_stable,
    coalesce(sum(fixed(candidate_score)) FILTER (matured_click), 0) AS score_candidate,
    coalesce(sum(log_loss(p, click)) FILTER (matured_click), 0) AS log_loss_stable,
    coalesce(sum(log_loss(candidate_p, click)) FILTER (matured_click), 0) AS log_loss_candidate,
    coalesce(sum(brier(score, click)) FILTER (matured_click), 0) AS brier_stable,
    coalesce(sum(brier(candidate_score, click)) FILTER (matured_click), 0) AS brier_candidate,
    sum(fixed(ln(candidate_p) - ln(p))) AS log_ratio
FROM paired GROUP BY ALL
"""

BINS = """
SELECT place, generation, view_type, 0 AS arm, bucket, score_bin(p) AS bin, count(*) FROM paired GROUP BY ALL
UNION ALL
SELECT place, generation, view_type, 1 AS arm, bucket, score_bin(candidate_p) AS bin, count(*) FROM paired GROUP BY ALL
"""

SCORE_PAIRS = """
SELECT place, generation, 0 AS view_type, coarse(bucket) AS coarse,
    score_bin(p) AS stable_bin, score_bin(candidate_p) AS candidate_bin, count(*)
FROM paired GROUP BY ALL
"""

SHADOW_RELIABILITY = """
SELECT place, generation, view_type, 0 AS arm, coarse(bucket) AS coarse, score_bin(p) AS bin,
    count(*), sum(fixed(score)), count(*) FILTER (click)
FROM paired WHERE matured_click GROUP BY ALL
UNION ALL
SELECT place, generation, view_type, 1 AS arm, coarse(bucket) AS coarse, score_bin(candidate_p) AS bin,
    count(*), sum(fixed(candidate_score)), count(*) FILTER (click)
FROM paired WHERE matured_click GROUP BY ALL
"""

NEWEST = f"""
SELECT place, coalesce(max(shown_ms), {NONE_YET_MS}), coalesce(max(candidate_ms), {NONE_YET_MS})
FROM (
    SELECT place, served_at_ms AS shown_ms, CASE WHEN of_candidate THEN served_at_ms END AS candidate_ms FROM shown
    UNION ALL
    SELECT place, NULL AS shown_ms, served_at_ms AS candidate_ms FROM shadowed
) GROUP BY place
"""

TABLES = {  # by the name of their keys in `Sums`; how many columns after the place are keys
    "cell_keys": (CELLS, 5),
    "pair_keys": (PAIRS, 3),
    "bin_keys": (BINS, 5),
    "score_pair_keys": (SCORE_PAIRS, 5),
    "reliability_keys": (RELIABILITY, 5),
    "shadow_reliability_keys": (SHADOW_RELIABILITY, 5),
}
OF_PAIRS = frozenset({"pair_keys", "bin_keys", "score_pair_keys", "shadow_reliability_keys"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Whose sums, and how: all that the sums of a partition whose labels have matured depend on."""

    surface: str
    view_types: tuple[str, ...]
    stable: str
    candidate: str
    click_ms: int
    good_click_ms: int
    hide_ms: int
    revenue_ms: int
    revenue_cap: float

    @property
    def longest_window_ms(self) -> int:
        return max(self.click_ms, self.good_click_ms, self.hide_ms, self.revenue_ms)

    def parameters(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__} | {"view_types": list(self.view_types)}

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([SUMS_VERSION, self.parameters()]).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """The split's slots cut where its weights lie: sums by band tell the arms of each of these weights.

    Band b holds the slots from `cuts_bp[b - 1]` up to but not `cuts_bp[b]`.
    """

    salt: str
    cuts_bp: tuple[int, ...]  # ascending

    def band_of(self, user_N: "NDArray[np.uint64]") -> "NDArray[np.int64]":
        slot_N = slot_of(user_N, self.salt).astype(np.int64)
        return np.searchsorted(np.array(self.cuts_bp, np.int64), slot_N, side="right").astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One part of the log: what was served in some files from `since_ms` to `as_of_ms`, both included.

    Labels count that have matured by `as_of_ms`. With `bands` it is a part of the days before a rollout: all
    exposures of the surface, by their users' bands, and no users.
    """

    files: Mapping[EventKind, Sequence[str]]
    scope: Scope
    since_ms: int
    as_of_ms: int
    bands: Bands | None = None

    @property
    def alike(self) -> tuple[object, ...]:
        """What parts have in common that one query can sum."""
        return self.bands is None, *(tuple(self.files.get(kind, ())) for kind in EventKind)


class PartitionQuery:
    """One DuckDB connection, for one thread, that sums parts of the log: many of the same files at the cost of one."""

    def __init__(self, scratch: Path) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": THREADS,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(scratch),
        }
        self._connection = duckdb.connect(":memory:", config=config)
        self._connection.execute(SETTINGS + MACROS)
        self._known_once: dict[EventKind, tuple[Sequence[str], str]] = {}

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answers(self, alike: Sequence[Asked]) -> list[tuple[Sums, UserRows]]:
        """The sums of parts that are `Asked.alike`, in their order."""
        self._ask(alike)
        if alike[0].bands is not None:
            return [(sums, no_user_rows()) for sums in self._sums_before(alike)]
        return list(zip(self._sums(alike), self._users(len(alike)), strict=True))

    def _ask(self, alike: Sequence[Asked]) -> None:
        rows = [
            {
                "place": place,
                **one.scope.parameters(),
                "since_ms": one.since_ms,
                "as_of_ms": one.as_of_ms,
            }
            for place, one in enumerate(alike)
        ]
        self._connection.register("asked_rows", pa.Table.from_pylist(rows, schema=ASKED))
        self._connection.execute("CREATE OR REPLACE TEMP TABLE asked AS SELECT * FROM asked_rows")
        self._connection.unregister("asked_rows")

    def _sums(self, alike: Sequence[Asked]) -> list[Sums]:
        once = {kind: self._once(kind, alike[0].files.get(kind, ())) for kind in EventKind}
        self._connection.execute(SHOWN.format(exposures=once[EventKind.EXPOSURE], arm=ARM, home_arm=HOME_ARM))
        self._connection.execute(SHADOWED.format(shadow_scores=once[EventKind.SHADOW_SCORE]))
        self._connection.execute(LABELLED.format(engagements=once[EventKind.ENGAGEMENT]))
        has_pairs = self._made(PAIRED) > 0
        columns: list[dict[str, NDArray[np.int64]]] = [{} for _ in alike]
        for name, (sql, num_keys) in TABLES.items():
            if not has_pairs and name in OF_PAIRS:
                continue
            for own, rows in zip(columns, self._by_place(sql, len(alike)), strict=True):
                own[name], own[KEYED[name]] = rows[:, :num_keys], rows[:, num_keys:]
        for own, rows in zip(columns, self._by_place(NEWEST, len(alike)), strict=True):
            own["newest_ms"] = rows[0] if len(rows) else no_sums().newest_ms
        return [add_up([replace(no_sums(), **own)]) for own in columns]

    def _sums_before(self, alike: Sequence[Asked]) -> list[Sums]:
        kinds = (EventKind.EXPOSURE, EventKind.ENGAGEMENT)
        once = {kind: self._once(kind, alike[0].files.get(kind, ())) for kind in kinds}
        self._connection.execute(SHOWN.format(exposures=once[EventKind.EXPOSURE], arm=ANY_ARM, home_arm=HOME_ARM))
        self._connection.execute(LABELLED.format(engagements=once[EventKind.ENGAGEMENT]))
        self._connection.register("banded", self._banded(alike))
        found = self._by_place(BEFORE, len(alike))
        self._connection.unregister("banded")
        return [add_up([replace(no_sums(), before_keys=rows[:, :3], before=rows[:, 3:])]) for rows in found]

    def _banded(self, alike: Sequence[Asked]) -> pa.Table:
        """The users by the bands of those who asked."""
        found = self._connection.execute("SELECT DISTINCT place, user_key FROM labelled").fetchnumpy()
        place_N, user_N = np.asarray(found["place"], np.int64), np.asarray(found["user_key"], np.uint64)
        band_N = np.zeros(len(place_N), np.int64)
        for place, asked in enumerate(alike):
            assert asked.bands is not None
            is_own_N = place_N == place
            band_N[is_own_N] = asked.bands.band_of(user_N[is_own_N])
        return pa.table({"place": place_N, "user_key": user_N, "band": band_N})

    def _once(self, kind: EventKind, files: Sequence[str]) -> str:
        """A relation in which each event of these files is there once; those of the last files are known still."""
        known, relation = self._known_once.get(kind, (None, ""))
        if known != files:
            self._known_once.pop(kind, None)
            relation = self._found_once(kind, files)
            self._known_once[kind] = list(files), relation
        return relation

    def _found_once(self, kind: EventKind, files: Sequence[str]) -> str:
        if not files:
            columns = [f"CAST(NULL AS {_sql_type(str(field.type))}) AS {field.name}" for field in SCHEMA_OF[kind]]
            return f"SELECT {', '.join(columns)}, 0 AS bucket, 0 AS day WHERE false"
        read = f"read_parquet({_sql_list(files)}, hive_partitioning = false)"
        rows = f"SELECT *, served_at_ms // {DAY_MS} AS day FROM {read}"
        identity = ", ".join(IDENTITY[kind])
        repeated = f"repeated_{kind.value}"
        found = self._made(
            f"CREATE OR REPLACE TEMP TABLE {repeated} AS "
            f"SELECT {identity} FROM ({rows}) GROUP BY ALL HAVING count(*) > 1"
        )
        if found == 0:
            return rows
        order = ", ".join(SCHEMA_OF[kind].names)
        return (
            f"SELECT * FROM ({rows}) ANTI JOIN {repeated} USING ({identity}) UNION ALL "
            f"SELECT * FROM ({rows}) SEMI JOIN {repeated} USING ({identity}) "
            f"QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {order}) = 1"
        )

    def _made(self, create: str) -> int:
        """Make a table; return how many rows it has."""
        (count,) = self._connection.execute(create).fetchone() or (0,)
        return int(count)

    def _by_place(self, sql: str, count: int) -> "list[NDArray[np.int64]]":
        """Each place's rows, without the place."""
        found = self._connection.execute(f"SELECT CAST(COLUMNS(*) AS BIGINT) FROM ({sql})").fetchnumpy()
        rows = np.stack([np.asarray(column, np.int64) for column in found.values()], axis=1)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        return [rows[start:end, 1:] for start, end in _slices(rows[:, 0], count)]

    def _users(self, count: int) -> list[UserRows]:
        found = self._connection.execute(USERS).fetchnumpy()
        order = np.argsort(found["place"], kind="stable")
        user_N = np.asarray(found["user_key"], np.uint64)[order]
        generation_N = np.asarray(found["generation"], np.int64)[order]
        seen_N = np.asarray(found["seen"], np.uint64)[order]
        return [
            UserRows(user_N=user_N[start:end], generation_N=generation_N[start:end], seen_N=seen_N[start:end])
            for start, end in _slices(np.asarray(found["place"], np.int64)[order], count)
        ]


def _slices(place_N: "NDArray[np.int64]", count: int) -> Iterable[tuple[int, int]]:
    """Where each place's rows begin and end."""
    return pairwise(np.searchsorted(place_N, np.arange(count + 1)).tolist())


def _sql_list(files: Sequence[str]) -> str:
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return f"[{quoted}]"


def _sql_type(arrow_type: str) -> str:
    return {"uint64": "UBIGINT", "int64": "BIGINT", "string": "VARCHAR", "double": "DOUBLE"}[arrow_type]
