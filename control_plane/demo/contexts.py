"""The real logged contexts, as arrays: who was asked for, what could be shown, where, when, and what came of it.

Shapes: P logged impressions of one surface, I distinct items with their features, C categorical features,
D dense features, L history entries.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
    view_types = json.loads((data_dir / FEATURES_FILE).read_text())["view_types"]
    table = pq.read_table(data_dir / IMPRESSIONS_FILE)
    return {surface: _contexts_of(table, surface, tuple(names)) for surface, names in view_types.items()}


def _contexts_of(table: pa.Table, surface: str, view_types: tuple[str, ...]) -> Contexts:
    rows = table.filter(pc.equal(table["surface"], surface)).sort_by("served_at_ms")
    categorical = _matrix(rows, "candidate_categorical", np.int64)
    dense = _matrix(rows, "candidate_dense", np.float32)
    _, first = np.unique(categorical, axis=0, return_index=True)
    index_of = {name: index for index, name in enumerate(view_types)}
    return Contexts(
        surface=surface,
        view_types=view_types,
        served_at_ms_P=rows["served_at_ms"].to_numpy().astype(np.int64),
        user_key_P=rows["user_key"].to_numpy().astype(np.uint64),
        view_type_P=np.array([index_of[name] for name in rows["view_type"].to_pylist()], np.int64),
        clicked_P=rows["click"].to_numpy(zero_copy_only=False).astype(bool),
        user_categorical_PC=_matrix(rows, "user_categorical", np.int64),
        user_dense_PD=_matrix(rows, "user_dense", np.float32),
        history_PL=_matrix(rows, "history", np.int64),
        candidate_categorical_PC=categorical,
        candidate_dense_PD=dense,
        item_categorical_IC=categorical[first],
        item_dense_ID=dense[first],
    )


def _matrix(rows: pa.Table, column: str, dtype: type[Scalar]) -> NDArray[Scalar]:
    lists = rows[column].combine_chunks()
    values: NDArray[Scalar] = lists.flatten().to_numpy(zero_copy_only=False).astype(dtype)
    return values.reshape(len(lists), -1) if len(lists) else values.reshape(0, 0)
