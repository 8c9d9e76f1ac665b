"""A small made-up log in the shape of the real one."""

import numpy as np

from control_plane.demo.contexts import Contexts, Vocabularies

HOUR_MS = 3_600_000
VOCABULARIES = Vocabularies(user_cardinalities=(5, 4), candidate_cardinalities=(11, 3), item_column=0)


def some_contexts(surface: str = "search", size: int = 240, *, seed: int = 1) -> Contexts:
    rng = np.random.default_rng(seed)
    item_P = np.r_[np.arange(1, 11), rng.integers(1, 11, size - 10)]
    categorical_PC = np.stack([item_P, item_P % 3], axis=1).astype(np.int64)
    _, first = np.unique(categorical_PC, axis=0, return_index=True)
    dense_PD = (item_P[:, None] / 10).astype(np.float32)
    return Contexts(
        surface=surface,
        view_types=("position_1", "position_2", "position_3"),
        served_at_ms_P=np.sort(rng.integers(0, 48 * HOUR_MS, size)).astype(np.int64),
        user_key_P=rng.integers(0, 2**63, size).astype(np.uint64),
        view_type_P=rng.integers(0, 3, size),
        clicked_P=rng.random(size) < 0.1,
        user_categorical_PC=np.stack([rng.integers(1, 5, size), rng.integers(1, 4, size)], axis=1),
        user_dense_PD=rng.normal(size=(size, 1)).astype(np.float32),
        history_PL=np.zeros((size, 4), np.int64),
        candidate_categorical_PC=categorical_PC,
        candidate_dense_PD=dense_PD,
        item_categorical_IC=categorical_PC[first],
        item_dense_ID=dense_PD[first],
    )
