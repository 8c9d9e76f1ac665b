"""Small data sets and checkpoints for tests of training and of what it exports."""

import numpy as np
import pyarrow as pa

from model_runtime.networks.crossing import CrossingConfig, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig
from model_runtime.networks.engagement import HeadConfig, TrunkConfig
from model_runtime.networks.experts import ExpertsConfig
from model_runtime.networks.sequence import SequenceConfig
from model_runtime.training.data import Examples, examples_of
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import TrainConfig, train
from tests.networks.builders import SEARCH, a_spec

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
