"""Logged impressions as arrays: DIR/impressions.parquet, a file or a folder of them, and DIR/features.json.

Columns: surface, view_type (string), served_at_ms (int64), user_key (uint64), user_categorical,
candidate_categorical, history (lists of int64), user_dense, candidate_dense (lists of float), click (bool),
and optionally good_click, hide (bool, null = not known), policy (string) and, of generated rows, true_click (float64).
Where the features have them also user_multi_hot, candidate_multi_hot (a list of values for each feature),
history_action (as long as history), surface_categorical, surface_dense (what the row's surface alone has).

Users with equal features become one: training then encodes each once, as serving does.
Shapes: U distinct users, N rows, C categorical features, D dense features, L history entries, T tasks.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.batching import ROW_FIELDS, USER_FIELDS
from model_runtime.networks.engagement import TASKS, first_context
from model_runtime.networks.features import (
    UNKNOWN,
    FeatureSpec,
    FloatArray,
    IntArray,
    MultiHot,
    RowBatch,
    check_batch,
    known_categories,
)
from model_runtime.training.row_groups import IMPRESSIONS_FILE, InvalidRow, RowGroup, row_groups

__all__ = ["IMPRESSIONS_FILE"]  # read from here, too

FEATURES_FILE = "features.json"
REQUIRED = (
    "surface",
    "view_type",
    "served_at_ms",
    "user_categorical",
    "user_dense",
    "history",
    "candidate_categorical",
    "candidate_dense",
    "click",
)

OPTIONAL = ("good_click", "hide", "true_click")

Number = TypeVar("Number", np.int64, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """All rows of a data set; `label_NT` is NaN where a label is not known."""

    spec: FeatureSpec
    surface_N: IntArray  # index into spec.surfaces
    served_at_ms_N: IntArray
    rows: RowBatch  # checked; view types and own features are each row's surface's, padded to the widest's
    label_NT: FloatArray
    true_click_N: NDArray[np.float64] | None = None  # of generated rows: the probability of each click

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def rows_of(self, surface: Surface) -> IntArray:
        return np.flatnonzero(self.surface_N == self.spec.surfaces.index(surface))

    def batch(self, row_M: IntArray) -> RowBatch:
        """The named rows, with only the users that they belong to."""
        part = self.rows.take(row_M)
        user_U, user_index_M = np.unique(part.user_index_N, return_inverse=True)
        fields = {name: getattr(part, name)[user_U] for name in USER_FIELDS}
        fields |= {name: getattr(part, name) for name in ROW_FIELDS}
        return RowBatch(**(fields | {"user_index_N": user_index_M}))

    def contexts(self, row_M: IntArray) -> IntArray:
        """View types counted over all surfaces, as the trunk reads them."""
        first_S = np.array([first_context(self.spec, surface) for surface in self.spec.surfaces])
        context_M: IntArray = first_S[self.surface_N[row_M]] + self.rows.view_type_N[row_M]
        return context_M


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """One surface's rows, in the order of time."""

    training: IntArray
    calibration: IntArray
    evaluation: IntArray

    @property
    def held_out(self) -> IntArray:
        return np.concatenate([self.calibration, self.evaluation])


def read_examples(folder: Path, *, before_ms: int | None = None, surfaces: Collection[str] | None = None) -> Examples:
    """Read and check a data set into memory, or only what was served before a time, or on some surfaces.

    Raises:
        InvalidField: a file or column is missing or malformed, named with its rule and where it is.
    """
    wanted = Wanted(spec=read_spec(folder), before_ms=before_ms, surfaces=surfaces)
    groups = row_groups(folder / IMPRESSIONS_FILE)
    by_file = {path: [group for group in groups if group.path == path] for path in {group.path for group in groups}}
    parts = [part for path in sorted(by_file) if (part := wanted.read(by_file[path])) is not None]
    if not parts:
        raise InvalidField("impressions", "must hold at least one row")
    return joined(parts)


def read_spec(folder: Path) -> FeatureSpec:
    return FeatureSpec.from_json(read_json(folder / FEATURES_FILE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which of a data set's rows are used."""

    spec: FeatureSpec  # of all surfaces
    before_ms: int | None = None
    surfaces: Collection[str] | None = None

    @property
    def used_spec(self) -> FeatureSpec:
        """Of the surfaces that are used."""
        return self.spec if self.surfaces is None else self.spec.of_surfaces([Surface(name) for name in self.surfaces])

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that must be there."""
        return (*REQUIRED, *_added_columns(self.used_spec))

    def read(self, groups: Sequence[RowGroup]) -> Examples | None:
        """The used rows of some row groups of one file; None where there are none."""
        table = pa.concat_tables([group.read(self.columns, OPTIONAL) for group in groups])
        kept_N = self.kept(table)
        if len(kept_N) == 0:
            return None
        try:
            return examples_of(self.used_spec, table if len(kept_N) == table.num_rows else table.take(kept_N))
        except InvalidRow as error:
            raise error.found_in(groups, int(kept_N[error.row])) from None
        except InvalidField as error:
            raise InvalidField(f"{groups[0].path.name}: {error.field}", error.rule) from None

    def surfaces_and_times(self, group: RowGroup) -> tuple[IntArray, IntArray]:
        """Of the used rows of a row group, by the place of the surface in `used_spec`."""
        table = group.read(("surface", "served_at_ms"))
        try:
            table = table.take(self.kept(table))
            surface_M = _codes(table, "surface", list(self.used_spec.surfaces))
            return surface_M, _column(table, "served_at_ms", pa.int64()).to_numpy()
        except InvalidRow as error:
            raise error.found_in([group], error.row) from None
        except InvalidField as error:
            raise InvalidField(f"{group}: {error.field}", error.rule) from None

    def kept(self, table: pa.Table) -> IntArray:
        """The places of the used rows."""
        is_kept_N = np.ones(table.num_rows, np.bool_)
        if self.before_ms is not None:
            is_kept_N &= _column(table, "served_at_ms", pa.int64()).to_numpy() < self.before_ms
        if self.surfaces is not None:
            _codes(table, "surface", list(self.spec.surfaces))  # what no surface has is refused, used or not
            is_kept_N &= pc.is_in(table["surface"], pa.array(list(self.surfaces))).to_numpy()
        return np.flatnonzero(is_kept_N)


def joined(parts: Sequence[Examples]) -> Examples:
    """The rows of several one after the other; equal users of two of them stay two."""
    if len(parts) == 1:
        return parts[0]
    first_user = np.cumsum([0, *(part.rows.num_users for part in parts)])
    rows = {
        entry.name: np.concatenate([getattr(part.rows, entry.name) for part in parts])
        for entry in fields(RowBatch)
        if entry.name != "user_index_N"
    }
    index_N = np.concatenate([part.rows.user_index_N + first for part, first in zip(parts, first_user, strict=False)])
    told = [part.true_click_N for part in parts if part.true_click_N is not None]
    return Examples(
        spec=parts[0].spec,
        surface_N=np.concatenate([part.surface_N for part in parts]),
        served_at_ms_N=np.concatenate([part.served_at_ms_N for part in parts]),
        rows=RowBatch(**rows, user_index_N=index_N),
        label_NT=np.concatenate([part.label_NT for part in parts]),
        true_click_N=np.concatenate(told) if len(told) == len(parts) else None,
    )


def examples_of(spec: FeatureSpec, table: pa.Table) -> Examples:
    """The same from a table in memory."""
    for name in (*REQUIRED, *_added_columns(spec)):
        if name not in table.column_names:
            raise InvalidField(name, f"is missing; the columns are {', '.join(table.column_names)}")
    if table.num_rows == 0:
        raise InvalidField("impressions", "must hold at least one row")
    surface_N = _codes(table, "surface", list(spec.surfaces))
    users, user_index_N = _distinct_users(spec, table)
    candidate_dense_ND = _fixed_lists(table, "candidate_dense", len(spec.candidate_dense), np.float32)
    rows = RowBatch(
        **users,
        user_index_N=user_index_N,
        view_type_N=_view_types(spec, table, surface_N),
        candidate_categorical_NC=_fixed_lists(
            table, "candidate_categorical", len(spec.candidate_categorical), np.int64
        ),
        candidate_dense_ND=_finite("candidate_dense", candidate_dense_ND),
        candidate_multi_hot_NM=_multi_hot(table, "candidate_multi_hot", spec.candidate_multi_hot),
    )
    widest = max(spec.surfaces, key=lambda surface: len(spec.view_types[surface]))
    return Examples(
        spec=spec,
        surface_N=surface_N,
        served_at_ms_N=_column(table, "served_at_ms", pa.int64()).to_numpy(),
        rows=replace(check_batch(spec.pruned(None), widest, rows), **_own_features(spec, table, surface_N)),
        label_NT=np.stack([_labels(table, task) for task in TASKS], axis=1),
        true_click_N=_truth(table) if "true_click" in table.column_names else None,
    )


def split_by_time(examples: Examples, surface: Surface, held_out: float) -> Parts:
    row_M = examples.rows_of(surface)
    ordered_M = row_M[np.argsort(examples.served_at_ms_N[row_M], kind="stable")]
    num_held_out = round(len(ordered_M) * held_out)
    if num_held_out < 2 or num_held_out >= len(ordered_M):
        raise InvalidField(str(surface), f"has {len(ordered_M)} rows, too few to train, calibrate and evaluate on")
    training, calibration, evaluation = np.split(
        ordered_M, [len(ordered_M) - num_held_out, len(ordered_M) - num_held_out // 2]
    )
    return Parts(training=training, calibration=calibration, evaluation=evaluation)


def read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidField(path.name, f"cannot be read: {path}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidField(path.name, f"is not JSON: {error}") from None


def _added_columns(spec: FeatureSpec) -> list[str]:
    added = {
        "user_multi_hot": spec.user_multi_hot,
        "candidate_multi_hot": spec.candidate_multi_hot,
        "history_action": spec.history_actions,
        "surface_categorical": [each for each in spec.surface_features.values() if each.candidate_categorical],
        "surface_dense": [each for each in spec.surface_features.values() if each.candidate_dense],
    }
    return [name for name, features in added.items() if features]


def _own_features(spec: FeatureSpec, table: pa.Table, surface_N: IntArray) -> dict[str, Any]:
    """What each row's surface alone has, padded to the widest of them."""
    own_S = [spec.features_of(surface) for surface in spec.surfaces]
    own: dict[str, Any] = {
        "surface_categorical_NS": np.zeros(
            (table.num_rows, max(len(each.candidate_categorical) for each in own_S)), int
        ),
        "surface_dense_NS": np.zeros((table.num_rows, max(len(each.candidate_dense) for each in own_S)), np.float32),
    }
    for index, features in enumerate(own_S):
        row_M = np.flatnonzero(surface_N == index)
        part = table.take(row_M)
        with _told_of(row_M):
            if features.candidate_categorical:
                width = len(features.candidate_categorical)
                value_MS = _fixed_lists(part, "surface_categorical", width, np.int64)
                known_MS = known_categories(value_MS, features.candidate_categorical)
                own["surface_categorical_NS"][row_M, :width] = known_MS
            if features.candidate_dense:
                width = len(features.candidate_dense)
                value_MD = _fixed_lists(part, "surface_dense", width, np.float32)
                own["surface_dense_NS"][row_M, :width] = _finite("surface_dense", value_MD)
    return own


def _distinct_users(spec: FeatureSpec, table: pa.Table) -> tuple[dict[str, Any], IntArray]:
    categorical_NC = _fixed_lists(table, "user_categorical", len(spec.user_categorical), np.int64)
    dense_ND = _finite("user_dense", _fixed_lists(table, "user_dense", len(spec.user_dense), np.float32))
    history_NL = _padded_lists(table, "history", spec.history_length)
    multi_hot_NM = _multi_hot(table, "user_multi_hot", spec.user_multi_hot)
    width = spec.history_length if spec.history_actions else 0
    action_NL = _padded_lists(table, "history_action", width) if width else history_NL[:, :0]
    known: list[NDArray[Any]] = [categorical_NC, dense_ND, history_NL, multi_hot_NM, action_NL]
    whole = np.concatenate([_as_bytes(each) for each in known], axis=1)
    key_N = np.ascontiguousarray(whole).view(np.dtype((np.void, whole.shape[1])))[:, 0]
    _, first_U, user_index_N = np.unique(key_N, return_index=True, return_inverse=True)
    users = {
        "user_categorical_UC": categorical_NC[first_U],
        "user_dense_UD": dense_ND[first_U],
        "history_UL": history_NL[first_U],
        "user_multi_hot_UM": multi_hot_NM[first_U],
        "history_action_UL": action_NL[first_U],
    }
    return users, user_index_N.astype(np.int64)


def _as_bytes(value_NC: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(value_NC.tobytes(), np.uint8).reshape(len(value_NC), -1)


def _view_types(spec: FeatureSpec, table: pa.Table, surface_N: IntArray) -> IntArray:
    view_type_N = np.empty(table.num_rows, np.int64)
    for index, surface in enumerate(spec.surfaces):
        row_M = np.flatnonzero(surface_N == index)
        with _told_of(row_M):
            view_type_N[row_M] = _codes(table.take(row_M), "view_type", list(spec.view_types[surface]))
    return view_type_N


@contextmanager
def _told_of(row_M: IntArray) -> Iterator[None]:
    """Rows are counted in the whole table, where a part of it is read."""
    try:
        yield
    except InvalidRow as error:
        raise InvalidRow(error.name, int(row_M[error.row]), error.rule) from None


def _codes(table: pa.Table, name: str, known: list[str]) -> IntArray:
    kind = table[name].type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_dictionary(kind)
        or pa.types.is_null(kind)
    ):
        raise InvalidField(name, f"must be string, not {kind}")
    code_N: pa.Array = pc.index_in(table[name].cast(pa.string()), pa.array(known, pa.string()))
    if code_N.null_count:
        row = _first(pc.is_null(code_N))
        raise InvalidRow(name, row, f"must be one of {', '.join(known)}, not {table[name][row].as_py()!r}")
    place_N: IntArray = code_N.to_numpy().astype(np.int64)
    return place_N


def _first(is_wrong_N: pa.Array | pa.ChunkedArray) -> int:
    return int(is_wrong_N.to_numpy(zero_copy_only=False).argmax())


def _labels(table: pa.Table, task: str) -> FloatArray:
    if task not in table.column_names:
        return np.full(table.num_rows, np.nan, np.float32)
    known_N = _column(table, task, pa.bool_(), may_be_null=task != "click")
    label_N: FloatArray = known_N.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return label_N


def _truth(table: pa.Table) -> NDArray[np.float64]:
    probability_N: NDArray[np.float64] = _column(table, "true_click", pa.float64()).to_numpy()
    is_wrong_N = ~((probability_N > 0) & (probability_N < 1))
    if is_wrong_N.any():
        raise InvalidRow("true_click", int(is_wrong_N.argmax()), "must be a probability between 0 and 1")
    return probability_N


def _column(table: pa.Table, name: str, kind: pa.DataType, *, may_be_null: bool = False) -> pa.Array:
    column = table[name].combine_chunks()
    if column.type != kind and not pa.types.is_null(column.type):
        raise InvalidField(name, f"must be {kind}, not {column.type}")
    if column.null_count and not may_be_null:
        raise InvalidRow(name, _first(column.is_null()), "must not be null")
    return column.cast(kind)


def _finite(name: str, value_ND: FloatArray) -> FloatArray:
    is_finite_N = np.isfinite(value_ND).all(axis=1)
    if not is_finite_N.all():
        raise InvalidRow(name, int(is_finite_N.argmin()), "must be finite")
    return value_ND


def _fixed_lists(table: pa.Table, name: str, width: int, dtype: type[Number]) -> NDArray[Number]:
    value_F, length_N = _lists(table, name, dtype)
    wrong = np.flatnonzero(length_N != width)
    if wrong.size:
        raise InvalidRow(name, int(wrong[0]), f"must hold {width} values, not {length_N[wrong[0]]}")
    return value_F.reshape(len(length_N), width)


def _padded_lists(table: pa.Table, name: str, width: int) -> IntArray:
    """The first `width` entries of each list, padded with UNKNOWN."""
    return _padded(*_lists(table, name, np.int64), width)


def _multi_hot(table: pa.Table, name: str, features: tuple[MultiHot, ...]) -> IntArray:
    """Each row's values of all features side by side, each feature's padded to as many as it may have."""
    if not features:
        return np.zeros((table.num_rows, 0), np.int64)
    column = table[name].combine_chunks()
    if not pa.types.is_list(column.type):
        raise InvalidField(name, f"must be a list of lists of int64, not {column.type}")
    if column.null_count:
        raise InvalidRow(name, _first(column.is_null()), "must not be null")
    length_N = pc.list_value_length(column).to_numpy()
    wrong = np.flatnonzero(length_N != len(features))
    if wrong.size:
        raise InvalidRow(name, int(wrong[0]), f"must hold {len(features)} lists, not {length_N[wrong[0]]}")
    values = pa.table({name: column.flatten()})
    places = [np.arange(place, values.num_rows, len(features)) for place in range(len(features))]
    return np.concatenate(
        [
            _padded_lists(values.take(place_N), name, max_values)
            for place_N, (_, _, max_values) in zip(places, features, strict=True)
        ],
        axis=1,
    )


def _padded(value_F: IntArray, length_N: IntArray, width: int) -> IntArray:
    row_F = np.repeat(np.arange(len(length_N)), length_N)
    place_F = np.arange(len(value_F)) - np.repeat(np.cumsum(length_N) - length_N, length_N)
    is_kept_F = place_F < width
    padded_NL = np.full((len(length_N), width), UNKNOWN, np.int64)
    padded_NL[row_F[is_kept_F], place_F[is_kept_F]] = value_F[is_kept_F]
    return padded_NL


def _lists(table: pa.Table, name: str, dtype: type[Number]) -> tuple[NDArray[Number], IntArray]:
    """All values in one flat array, and each row's length."""
    column = table[name].combine_chunks()
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    wanted = pa.types.is_integer if issubclass(dtype, np.integer) else pa.types.is_floating
    if not is_list or not (wanted(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise InvalidField(name, f"must be lists of {np.dtype(dtype).name}, not {kind}")
    if column.null_count:
        raise InvalidRow(name, _first(column.is_null()), "must not be null")
    values = column.flatten()
    length_N = pc.list_value_length(column).to_numpy().astype(np.int64)
    if values.null_count:
        row = int(np.searchsorted(np.cumsum(length_N), _first(values.is_null()), side="right"))
        raise InvalidRow(name, row, "must not hold null")
    return values.to_numpy().astype(dtype), length_N
