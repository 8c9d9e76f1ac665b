"""A data set whose truth is known, of any size at constant memory: the same bits for the same config.

Beside what `training.data` reads stand `true_click`, the probability that each row's click was drawn with, and
`click_at_ms`, `good_click_at_ms` and `hide_at_ms`, when what a user did became known (null where nothing was done).

Nobody can do better than `true_click`, on average over many rows; where values are missing (`null_rate`), not as well.
Shapes: Q requests, R rows of each, N = Q × R rows, L history entries, M values of a multi-hot feature.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from model_runtime.networks.features import UNKNOWN, FeatureSpec, IntArray, SurfaceFeatures
from model_runtime.training import known_truth as truth
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE
from model_runtime.training.known_truth import SURFACES, Float64Array, Users, World, sigmoid

BLOCK_ROWS = 32_768  # drawn and written at once: one row group, some 40 MB while it is made
FIRST_MS = 1_772_496_000_000  # 2026-03-03 UTC
DAY_MS = 86_400_000
CLICK_DELAY_MS, GOOD_CLICK_DELAY_MS, HIDE_DELAY_MS = 20_000, 180_000, 3_600_000  # means of exponentials
RELEVANT = 0.4  # share of candidates that were retrieved for what the user wants
CENTRE = 0.6  # of utility, in log odds: what a typical row has

Advance = Callable[[int, int], None]  # rows written, rows in all


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """`rows` is rounded up to whole requests; `changes_at` is when layouts change, as a share of all time."""

    seed: int = 0
    rows: int = 200_000
    num_users: int = 20_000
    num_items: int = 2_000
    history_length: int = 16
    rows_per_request: int = 4
    days: int = 28
    changes_at: float = 0.75
    null_rate: float = 0.01

    def __post_init__(self) -> None:
        for name, lowest in (("rows", 1), ("num_users", 1), ("num_items", 100), ("history_length", 1), ("days", 1)):
            if getattr(self, name) < lowest:
                raise InvalidField(name, f"must be at least {lowest}, not {getattr(self, name)}")
        if not 1 <= self.rows_per_request <= BLOCK_ROWS:
            raise InvalidField("rows_per_request", f"must be 1 to {BLOCK_ROWS}, not {self.rows_per_request}")
        if self.seed < 0:
            raise InvalidField("seed", f"must be at least 0, not {self.seed}")
        for name in ("changes_at", "null_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidField(name, f"must be a share from 0 to 1, not {getattr(self, name)}")

    @property
    def num_requests(self) -> int:
        return -(-self.rows // self.rows_per_request)

    @property
    def changes_at_ms(self) -> int:
        return FIRST_MS + round(self.changes_at * self.days * DAY_MS)


def generate(out: Path, config: GeneratorConfig, *, advance: Advance | None = None) -> int:
    """Write impressions.parquet, a row group at a time, and features.json; return the number of rows.

    The file appears when it is whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    written, total = 0, config.num_requests * config.rows_per_request
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as staging:
        whole = Path(staging) / IMPRESSIONS_FILE
        with pq.ParquetWriter(whole, SCHEMA, compression="zstd") as writer:
            for table in tables(config):
                writer.write_table(table)
                written += table.num_rows
                if advance is not None:
                    advance(written, total)
        (out / FEATURES_FILE).write_text(json.dumps(features(config).to_json(), indent=2))
        whole.replace(out / IMPRESSIONS_FILE)
    return written


def tables(config: GeneratorConfig) -> Iterator[pa.Table]:
    """The rows in the order of time, block by block; each block depends on the config and its number alone."""
    world = World(seed=config.seed, num_items=config.num_items, history_length=config.history_length)
    block_requests = max(1, BLOCK_ROWS // config.rows_per_request)
    for block, first in enumerate(range(0, config.num_requests, block_requests)):
        size = min(block_requests, config.num_requests - first)
        yield _block(world, config, np.random.default_rng([config.seed, 1 + block]), first, size)


def features(config: GeneratorConfig) -> FeatureSpec:
    """The contract that all generated data of these sizes keep."""
    return FeatureSpec(
        user_categorical=(("age", truth.NUM_AGES), ("country", truth.NUM_COUNTRIES)),
        user_dense=("tenure",),
        candidate_categorical=(("item", config.num_items), ("brand", truth.NUM_BRANDS)),
        candidate_dense=("price",),
        history_of="item",
        history_length=config.history_length,
        view_types={surface: tuple(told.view_types) for surface, told in SURFACES.items()},
        user_multi_hot=(("interests", 1 + truth.NUM_TAGS, truth.MAX_INTERESTS),),
        candidate_multi_hot=(("tags", 1 + truth.NUM_TAGS, truth.MAX_TAGS),),
        history_actions=truth.ACTIONS,
        surface_features={
            truth.SEARCH: SurfaceFeatures(
                candidate_categorical=(("query_topic", 1 + truth.NUM_TOPICS),), candidate_dense=("match",)
            ),
            truth.RELATED_PINS: SurfaceFeatures(candidate_dense=("closeness",)),
        },
    )


LONGS, FLOATS = pa.list_(pa.int64()), pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("surface", pa.string()),
        ("view_type", pa.string()),
        ("served_at_ms", pa.int64()),
        ("user_key", pa.uint64()),
        ("user_categorical", LONGS),
        ("user_dense", FLOATS),
        ("user_multi_hot", pa.list_(LONGS)),
        ("history", LONGS),
        ("history_action", LONGS),
        ("candidate_categorical", LONGS),
        ("candidate_dense", FLOATS),
        ("candidate_multi_hot", pa.list_(LONGS)),
        ("surface_categorical", LONGS),
        ("surface_dense", FLOATS),
        ("click", pa.bool_()),
        ("good_click", pa.bool_()),
        ("hide", pa.bool_()),
        ("click_at_ms", pa.int64()),
        ("good_click_at_ms", pa.int64()),
        ("hide_at_ms", pa.int64()),
        ("true_click", pa.float64()),
    ]
)


def _block(world: World, config: GeneratorConfig, rng: np.random.Generator, first: int, size: int) -> pa.Table:
    served_Q = _times(config, rng, first, size)
    user_Q = (config.num_users * rng.random(size) ** 1.5).astype(np.int64)  # some come more often
    surface_Q = rng.choice(len(SURFACES), size, p=[each.share for each in SURFACES.values()])
    users = world.users(user_Q, served_Q)
    item_QR = _candidates(world, config, rng, users)
    own_QR = rng.normal(size=item_QR.shape)  # the match of a query, the closeness of a pin
    query_Q = np.where(rng.random(size) < 0.7, users.wanted_Q, rng.integers(1, 1 + truth.NUM_TOPICS, size))
    view_type_Q, logit_QR = _log_odds(world, config, rng, users, item_QR, surface_Q, served_Q, own_QR, query_Q)
    probability_N = sigmoid(logit_QR).ravel()
    affinity_N = world.affinity(users, item_QR).ravel()
    rows = config.rows_per_request
    served_N = np.repeat(served_Q, rows)
    return pa.table(
        {
            **_names(surface_Q, view_type_Q, rows),
            "served_at_ms": served_N,
            "user_key": np.repeat(truth.mixed(user_Q.astype(np.uint64)), rows),
            **_user_columns(config, rng, users),
            **_candidate_columns(world, config, rng, item_QR),
            **_own_columns(surface_Q, own_QR, query_Q),
            **_labels(rng, probability_N, affinity_N, served_N),
            "true_click": probability_N,
        },
        schema=SCHEMA,
    )


def _times(config: GeneratorConfig, rng: np.random.Generator, first: int, size: int) -> IntArray:
    """Rising over all blocks: each request has a slot of time of its own."""
    slot_ms = config.days * DAY_MS / config.num_requests
    served_Q: IntArray = (FIRST_MS + (first + np.arange(size) + rng.random(size)) * slot_ms).astype(np.int64)
    return served_Q


def _candidates(world: World, config: GeneratorConfig, rng: np.random.Generator, users: Users) -> IntArray:
    shape = (len(users.wanted_Q), config.rows_per_request)
    wanted_QR = world.items_of(np.broadcast_to(users.wanted_Q[:, None], shape), rng.random(shape))
    popular_QR = 1 + ((config.num_items - 1) * rng.random(shape) ** 2).astype(np.int64)
    return np.where(rng.random(shape) < RELEVANT, wanted_QR, popular_QR)


def _log_odds(
    world: World,
    config: GeneratorConfig,
    rng: np.random.Generator,
    users: Users,
    item_QR: IntArray,
    surface_Q: IntArray,
    served_Q: IntArray,
    own_QR: Float64Array,
    query_Q: IntArray,
) -> tuple[IntArray, Float64Array]:
    """Each request's view type, counted within its surface, and the log odds of a click on each of its rows."""
    told = list(SURFACES.values())
    history_weight_Q = np.array([each.history_weight for each in told])[surface_Q]
    own_weight_Q = np.array([each.own_weight for each in told])[surface_Q]
    is_asked_QR = world.topic_I[item_QR] == query_Q[:, None]
    utility_QR = world.utility(users, item_QR, history_weight_Q) - CENTRE
    utility_QR += world.own_quality_SI[surface_Q[:, None], item_QR] + own_weight_Q[:, None] * own_QR
    utility_QR += np.where(surface_Q[:, None] == list(SURFACES).index(truth.SEARCH), 0.8 * is_asked_QR, 0.0)
    view_type_Q, logit_QR = np.zeros(len(surface_Q), np.int64), np.empty(item_QR.shape)
    is_later_Q = served_Q >= config.changes_at_ms
    for surface, each in enumerate(told):
        at_P = np.flatnonzero(surface_Q == surface)
        kinds = list(each.view_types.values())
        view_type_P = rng.choice(len(kinds), len(at_P), p=[kind.share for kind in kinds])
        shift_P, slope_P, later_P = (
            np.array([getattr(kind, name) for kind in kinds])[view_type_P] for name in ("shift", "slope", "later")
        )
        view_type_Q[at_P] = view_type_P
        offset_P = each.base + shift_P + later_P * is_later_Q[at_P]
        logit_QR[at_P] = offset_P[:, None] + slope_P[:, None] * utility_QR[at_P]
    return view_type_Q, logit_QR


def _names(surface_Q: IntArray, view_type_Q: IntArray, rows: int) -> dict[str, pa.Array]:
    names = [(surface, view_type) for surface, told in SURFACES.items() for view_type in told.view_types]
    first_S = np.cumsum([0, *(len(told.view_types) for told in SURFACES.values())])
    place_N = pa.array(np.repeat(first_S[surface_Q] + view_type_Q, rows))
    return {
        column: pa.array([name[index] for name in names], pa.string()).take(place_N)
        for index, column in enumerate(("surface", "view_type"))
    }


def _user_columns(config: GeneratorConfig, rng: np.random.Generator, users: Users) -> dict[str, pa.Array]:
    """Missing values are a request's, as when a look-up fails."""
    size, rows = len(users.age_Q), config.rows_per_request
    is_there_Q2 = rng.random((size, 2)) >= config.null_rate
    categorical_Q2 = np.stack([users.age_Q, users.country_Q], axis=1) * is_there_Q2
    has_history_Q1 = rng.random((size, 1)) >= config.null_rate
    tenure_Q1 = (users.tenure_Q * (rng.random(size) >= config.null_rate))[:, None].astype(np.float32)
    history_QL, action_QL = users.history_QL * has_history_Q1, users.action_QL * has_history_Q1
    columns = {
        "user_categorical": _fixed(categorical_Q2),
        "user_dense": _fixed(tenure_Q1),
        "user_multi_hot": _lists_of_one(_given(users.interests_QM)),
        "history": _given(history_QL),
        "history_action": _given(action_QL),
    }
    place_N = pa.array(np.repeat(np.arange(size), rows))
    return {name: column.take(place_N) for name, column in columns.items()}


def _candidate_columns(
    world: World, config: GeneratorConfig, rng: np.random.Generator, item_QR: IntArray
) -> dict[str, pa.Array]:
    item_N = item_QR.ravel()
    brand_N = world.brand_I[item_N] * (rng.random(len(item_N)) >= config.null_rate)
    price_N = world.price_I[item_N] * (rng.random(len(item_N)) >= config.null_rate)
    return {
        "candidate_categorical": _fixed(np.stack([item_N, brand_N], axis=1)),
        "candidate_dense": _fixed(price_N[:, None].astype(np.float32)),
        "candidate_multi_hot": _lists_of_one(_given(world.tags_IM[item_N])),
    }


def _own_columns(surface_Q: IntArray, own_QR: Float64Array, query_Q: IntArray) -> dict[str, pa.Array]:
    rows = own_QR.shape[1]
    surface_N = np.repeat(surface_Q, rows)
    is_search_N = surface_N == list(SURFACES).index(truth.SEARCH)
    has_own_N = np.array([each.own_weight > 0 for each in SURFACES.values()])[surface_N]
    return {
        "surface_categorical": _ragged(np.repeat(query_Q, rows)[is_search_N], is_search_N.astype(np.int32)),
        "surface_dense": _ragged(own_QR.ravel()[has_own_N].astype(np.float32), has_own_N.astype(np.int32)),
    }


def _labels(
    rng: np.random.Generator, probability_N: Float64Array, affinity_N: Float64Array, served_N: IntArray
) -> dict[str, Any]:
    """A good click is a click that lasts; a hide does not need one. Each becomes known some time later."""
    size = len(probability_N)
    is_click_N = rng.random(size) < probability_N
    is_good_N = is_click_N & (rng.random(size) < sigmoid(0.3 + 0.8 * affinity_N))
    is_hide_N = rng.random(size) < sigmoid(-4.0 - 1.0 * affinity_N)
    click_ms_N, good_ms_N, hide_ms_N = (
        rng.exponential(mean_ms, size).astype(np.int64)
        for mean_ms in (CLICK_DELAY_MS, GOOD_CLICK_DELAY_MS, HIDE_DELAY_MS)
    )
    return {
        "click": is_click_N,
        "good_click": is_good_N,
        "hide": is_hide_N,
        "click_at_ms": pa.array(served_N + click_ms_N, mask=~is_click_N),
        "good_click_at_ms": pa.array(served_N + click_ms_N + good_ms_N, mask=~is_good_N),
        "hide_at_ms": pa.array(served_N + hide_ms_N, mask=~is_hide_N),
    }


def _fixed(value_NC: NDArray[np.int64] | NDArray[np.float32]) -> pa.Array:
    return _ragged(np.ascontiguousarray(value_NC).ravel(), np.full(len(value_NC), value_NC.shape[1], np.int32))


def _given(value_NM: IntArray) -> pa.Array:
    """Lists without what is padding or missing."""
    is_given_NM = value_NM != UNKNOWN
    return _ragged(value_NM[is_given_NM], is_given_NM.sum(1, dtype=np.int32))


def _lists_of_one(lists: pa.Array) -> pa.Array:
    """The one multi-hot feature there is, in the list of all of them."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(lists) + 1, dtype=np.int32)), lists)


def _ragged(value_F: NDArray[Any], length_N: NDArray[np.int32]) -> pa.Array:
    offset_N = np.concatenate([[0], np.cumsum(length_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offset_N), pa.array(value_F))
