"""SIMULATED impressions to train on: real contexts, random items, clicks from the stated model."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from control_plane.demo.click_model import ClickModel
from control_plane.demo.contexts import FEATURES_FILE, IMPRESSIONS_FILE, Contexts
from control_plane.demo.traffic import Requests, simulated_clicks, simulated_requests

POLICY = "simulated"


def write_simulated(
    contexts_of: Mapping[str, Contexts],
    truth: ClickModel,
    *,
    features_from: Path,
    data_dir: Path,
    per_surface: int,
    rng: np.random.Generator,
) -> float:
    """Write a data set in the runtime's training format; returns its click rate."""
    data_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(features_from / FEATURES_FILE, data_dir / FEATURES_FILE)
    tables = []
    for contexts in contexts_of.values():
        served_at_ms = int(contexts.served_at_ms_P[-1])
        requests = simulated_requests(contexts, per_surface, served_at_ms=served_at_ms, rng=rng, candidates=1)
        clicked_U = simulated_clicks(truth, requests, np.arange(per_surface), rng)
        tables.append(_table(contexts, requests, clicked_U))
    table = pa.concat_tables(tables)
    pq.write_table(table, data_dir / IMPRESSIONS_FILE, compression="zstd")
    return float(np.mean(table["click"].to_numpy(zero_copy_only=False)))


def _table(contexts: Contexts, requests: Requests, clicked_U: NDArray[np.bool_]) -> pa.Table:
    size = requests.size
    view_types = pa.array(contexts.view_types, pa.string())
    return pa.table(
        {
            "surface": pa.array([contexts.surface] * size, pa.string()),
            "view_type": view_types.take(pa.array(requests.view_type_N)),
            "served_at_ms": pa.array(np.full(size, requests.served_at_ms, np.int64)),
            "user_key": pa.array(requests.user_key_U, pa.uint64()),
            "policy": pa.array([POLICY] * size, pa.string()),
            "user_categorical": _lists(requests.user_categorical_UC, pa.int64()),
            "user_dense": _lists(requests.user_dense_UD, pa.float32()),
            "history": _lists(requests.history_UL, pa.int64()),
            "candidate_categorical": _lists(requests.candidate_categorical_NC, pa.int64()),
            "candidate_dense": _lists(requests.candidate_dense_ND, pa.float32()),
            "click": pa.array(clicked_U, pa.bool_()),
            "good_click": pa.nulls(size, pa.bool_()),
            "hide": pa.nulls(size, pa.bool_()),
        }
    )


def _lists(matrix: NDArray[np.generic], kind: pa.DataType) -> pa.ListArray:
    rows, width = matrix.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).reshape(-1), kind))
