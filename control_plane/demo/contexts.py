"""The real logged contexts, as arrays: who was asked for, what could be shown, where, when, and what came of it.

Shapes: P logged impressions of one surface, I distinct items with their features, C categorical features,
D dense features, L history entries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
KeyArray = NDArray[np.uint64]
Scalar = TypeVar("Scalar", bound=np.generic)

IMPRESSIONS_FILE = "impressions.parquet"
FEATURES_FILE = "features.json"
LISTS = ("user_categorical", "user_dense", "candidate_categorical", "candidate_dense")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contexts:
    """All logged impressions of one surface, oldest first, and the distinct items among them."""

    surface: str
    view_types: tuple[str, ...]
    served_at_ms_P: IntArray
    user_key_P: KeyArray
    view_type_P: IntArray
    clicked_P: NDArray[np.bool_]
    user_categorical_PC: IntArray
    user_dense_PD: FloatArray
    history_PL: IntArray
    candidate_categorical_PC: IntArray
    candidate_dense_PD: FloatArray
    item_categorical_IC: IntArray
    item_dense_ID: FloatArray

    @property
    def size(self) -> int:
        return len(self.served_at_ms_P)

    @property
    def num_items(self) -> int:
        return len(self.item_categorical_IC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabularies:
    """What the click model needs to know of the feature contract: sizes of the categorical features."""

    user_cardinalities: tuple[int, ...]
    candidate_cardinalities: tuple[int, ...]
    item_column: int  # the candidate feature that names the item


def read_vocabularies(data_dir: Path) -> Vocabularies:
    features = json.loads((data_dir / FEATURES_FILE).read_text())
    candidate = features["candidate_categorical"]
    return Vocabularies(
        user_cardinalities=tuple(size for _, size in features["user_categorical"]),
        candidate_cardinalities=tuple(size for _, size in candidate),
        item_column=[name for name, _ in candidate].index(features["history_of"]),
    )


def read_contexts(data_dir: Path) -> dict[str, Contexts]:
    """Every surface of a data set written by `python -m model_runtime open-bandit`."""
    features = json.loads((data_dir / FEATURES_FILE).read_text())
    table = pq.read_table(data_dir / IMPRESSIONS_FILE)
    return {surface: _contexts_of(table, surface, features) for surface in features["view_types"]}


def _contexts_of(table: pa.Table, surface: str, features: Mapping[str, Any]) -> Contexts:
    rows = table.filter(pc.equal(table["surface"], surface)).sort_by("served_at_ms")
    width_of = {"history": features["history_length"], **{name: len(features[name]) for name in LISTS}}
    categorical = _matrix(rows, "candidate_categorical", width_of, np.int64)
    dense = _matrix(rows, "candidate_dense", width_of, np.float32)
    _, first = np.unique(categorical, axis=0, return_index=True)
    view_types = tuple(features["view_types"][surface])
    index_of = {name: index for index, name in enumerate(view_types)}
    return Contexts(
        surface=surface,
        view_types=view_types,
        served_at_ms_P=rows["served_at_ms"].to_numpy().astype(np.int64),
        user_key_P=rows["user_key"].to_numpy().astype(np.uint64),
        view_type_P=np.array([index_of[name] for name in rows["view_type"].to_pylist()], np.int64),
        clicked_P=rows["click"].to_numpy(zero_copy_only=False).astype(bool),
        user_categorical_PC=_matrix(rows, "user_categorical", width_of, np.int64),
        user_dense_PD=_matrix(rows, "user_dense", width_of, np.float32),
        history_PL=_matrix(rows, "history", width_of, np.int64),
        candidate_categorical_PC=categorical,
        candidate_dense_PD=dense,
        item_categorical_IC=categorical[first],
        item_dense_ID=dense[first],
    )


def _matrix(rows: pa.Table, column: str, width_of: Mapping[str, int], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Lists as rows of one width: shorter ones, which are histories, are padded with 0, longer ones cut."""
    lists = rows[column].combine_chunks()
    length_N = lists.value_lengths().to_numpy(zero_copy_only=False)
    value_M = lists.flatten().to_numpy(zero_copy_only=False)
    row_M = np.repeat(np.arange(len(length_N)), length_N)
    place_M = np.arange(value_M.size) - np.repeat(np.cumsum(length_N) - length_N, length_N)
    matrix = np.zeros((len(length_N), width_of[column]), dtype)
    fits_M = place_M < width_of[column]
    matrix[row_M[fits_M], place_M[fits_M]] = value_M[fits_M]
    return matrix
