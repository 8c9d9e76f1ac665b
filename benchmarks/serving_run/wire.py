"""A request as the peers get it: flat rows, each with its user's features, or the whole batch packed into bytes.

Peers import this in environments of their own, so it needs numpy, safetensors and the model alone.
Shapes: U users, N candidate rows, T tasks.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.networks.features import FloatArray, RowBatch

Array = NDArray[np.int64] | NDArray[np.float32]

USER_INDEX = "user_index_N"
NAMES = tuple(field.name for field in fields(RowBatch))
TASKS = ("click", "good_click", "hide")


def flat_rows(batch: RowBatch) -> dict[str, Array]:
    """By feature, a row per candidate: the user's features are repeated, as a model of independent rows reads them."""
    rows = {name: getattr(batch, name) for name in NAMES if name != USER_INDEX}
    return {name: each[batch.user_index_N] if "_U" in name else each for name, each in rows.items() if each.size}


def batch_of_rows(rows: Mapping[str, Array]) -> RowBatch:
    """Every row has a user of its own: nothing of a user is shared."""
    count = len(rows["view_type_N"])
    typed = {name: each.astype(_dtype(name), copy=False) for name, each in rows.items()}
    return RowBatch(**typed, **{USER_INDEX: np.arange(count)})  # type: ignore[arg-type]  # names are the fields'


def pack(batch: RowBatch) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in NAMES}
    return safetensors.numpy.save({name: each for name, each in arrays.items() if each.size})


def unpack(content: bytes) -> RowBatch:
    return RowBatch(**safetensors.numpy.load(content))


def pack_scores(scores: Mapping[str, FloatArray]) -> bytes:
    return np.stack([scores[task] for task in TASKS]).tobytes()


def unpack_scores(content: bytes) -> FloatArray:
    """Shape (T, N)."""
    return np.frombuffer(content, np.float32).reshape(len(TASKS), -1)


def load(folder: str) -> LoadedVersion:
    """On the CPU, with one torch thread: more of them stall each other on the cores that all share."""
    torch.set_num_threads(1)
    return load_version(Path(folder))


def scores_of_rows(version: LoadedVersion, rows: Mapping[str, Array]) -> FloatArray:
    """Shape (T, N)."""
    scores = version.score(batch_of_rows(rows))
    return np.stack([scores[task] for task in TASKS])


def _dtype(name: str) -> type[np.float32] | type[np.int64]:
    return np.float32 if name.endswith(("_UD", "_ND")) else np.int64
