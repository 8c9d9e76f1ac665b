"""Small data sets and checkpoints for tests of training and of what it exports."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.crossing import CrossingConfig, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig
from model_runtime.networks.engagement import HeadConfig, TrunkConfig
from model_runtime.networks.experts import ExpertsConfig
from model_runtime.networks.sequence import SequenceConfig
from model_runtime.training.data import Examples, examples_of
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import TrainConfig, train
from tests.networks.builders import SEARCH, a_rich_spec, a_spec

SMALL_TRUNK = TrunkConfig(
    embedding=EmbeddingConfig(width=4),
    sequence=SequenceConfig(width=8, num_heads=2, num_layers=1),
    projection=ProjectionConfig(rank=2, width=4),
    crossing=CrossingConfig(num_layers=2, rank=4),
    experts=ExpertsConfig(num_experts=2, width=8),
)


def impressions(num_rows: int = 2_000, *, seed: int = 0) -> pa.Table:
    """Rows that keep `a_spec`; item 1 to 9 are clicked by half, the others by a tenth; hides are not known."""
    rng = np.random.default_rng(seed)
    is_search_N = rng.random(num_rows) < 0.5
    view_type_N = np.where(is_search_N, rng.integers(0, 3, num_rows), rng.integers(0, 2, num_rows))
    names = {True: ("first", "second", "third"), False: ("grid", "closeup")}
    item_N = rng.integers(1, 20, num_rows)
    click_N = rng.random(num_rows) < np.where(item_N < 10, 0.5, 0.1)
    return pa.table(
        {
            "surface": [SEARCH if is_search else "home_feed" for is_search in is_search_N],
            "view_type": [
                names[bool(is_search)][place] for is_search, place in zip(is_search_N, view_type_N, strict=True)
            ],
            "served_at_ms": pa.array(np.arange(num_rows) * 1_000),
            "user_key": pa.array(np.arange(num_rows, dtype=np.uint64)),
            "user_categorical": np.stack([rng.integers(0, 4, num_rows), rng.integers(0, 6, num_rows)], axis=1).tolist(),
            "user_dense": pa.array([[0.0], [1.0]] * (num_rows // 2), pa.list_(pa.float32())),
            "history": [rng.integers(1, 20, size).tolist() for size in rng.integers(0, 8, num_rows)],
            "candidate_categorical": np.stack([item_N, item_N % 5], axis=1).tolist(),
            "candidate_dense": pa.array(rng.normal(size=(num_rows, 2)).tolist(), pa.list_(pa.float32())),
            "click": click_N,
            "good_click": [bool(rng.random() < 0.5) if click else None for click in click_N],
            "hide": pa.nulls(num_rows, pa.bool_()),
        }
    )


def some_examples(num_rows: int = 2_000, *, seed: int = 0) -> Examples:
    return examples_of(a_spec(), impressions(num_rows, seed=seed))


def a_config(**overrides: object) -> TrainConfig:
    fields: dict[str, object] = {
        "epochs": 2,
        "batch_rows": 256,
        "trunk": SMALL_TRUNK,
        "head": HeadConfig(tower_width=4),
        **overrides,
    }
    return TrainConfig(**fields)  # type: ignore[arg-type]  # overrides are the tests' own


def a_joint_checkpoint(*, seed: int = 0) -> JointCheckpoint:
    return train(some_examples(), a_config(seed=seed, steps=4))


def rich_impressions(num_rows: int = 2_000, *, seed: int = 0) -> pa.Table:
    """`impressions` with all that `a_rich_spec` has beyond `a_spec`; on search, a match above 0 doubles clicks."""
    rng, table = np.random.default_rng(seed + 100), impressions(num_rows, seed=seed)
    is_search_N = np.array([surface == SEARCH for surface in table["surface"].to_pylist()])
    match_N = rng.normal(size=num_rows)
    added = {
        "user_multi_hot": [[_some(rng, 7, 3), _some(rng, 4, 2)] for _ in range(num_rows)],
        "candidate_multi_hot": [[_some(rng, 9, 6)] for _ in range(num_rows)],  # up to 6, where 4 are read
        "history_action": [rng.integers(0, 4, len(entries)).tolist() for entries in table["history"].to_pylist()],
        "surface_categorical": [_some(rng, 6, 1, exactly=True) if is_search else [] for is_search in is_search_N],
        "surface_dense": [
            [match, 1.0] if is_search else [] for match, is_search in zip(match_N, is_search_N, strict=True)
        ],
    }
    for name, values in added.items():
        table = table.append_column(name, pa.array(values))
    return table


def rich_examples(num_rows: int = 2_000, *, seed: int = 0) -> Examples:
    return examples_of(a_rich_spec(), rich_impressions(num_rows, seed=seed))


def a_rich_config(**overrides: object) -> TrainConfig:
    """Candidates attend, and search has a tower tree of its own."""
    return a_config(
        trunk=replace(SMALL_TRUNK, attention=AttentionConfig(width=4, num_heads=2)),
        heads={SEARCH: HeadConfig(tower_width=8, root_widths=(6,), branch_widths=(4,))},
        **overrides,
    )


def a_rich_joint_checkpoint(*, seed: int = 0) -> JointCheckpoint:
    return train(rich_examples(), a_rich_config(seed=seed, steps=4))


def _some(rng: np.random.Generator, cardinality: int, most: int, *, exactly: bool = False) -> list[int]:
    values: list[int] = rng.integers(1, cardinality, most if exactly else rng.integers(0, most + 1)).tolist()
    return values
