"""Small features and batches for tests of the networks, the training and the checkpoints."""

from dataclasses import replace

import numpy as np

from control_plane.domain.model_version import Surface, ViewType
from model_runtime.networks.features import FeatureSpec, RowBatch, SurfaceFeatures

HOME_FEED, SEARCH = Surface("home_feed"), Surface("search")


def a_spec() -> FeatureSpec:
    """Two surfaces, with three and two view types, not in the order of their names."""
    return FeatureSpec(
        user_categorical=(("age", 4), ("country", 6)),
        user_dense=("tenure",),
        candidate_categorical=(("item", 20), ("brand", 5)),
        candidate_dense=("price", "affinity"),
        history_of="item",
        history_length=5,
        view_types={
            SEARCH: (ViewType("first"), ViewType("second"), ViewType("third")),
            HOME_FEED: (ViewType("grid"), ViewType("closeup")),
        },
    )


def a_batch(*, num_users: int = 4, num_rows: int = 12, seed: int = 0, num_view_types: int = 2) -> RowBatch:
    """Random rows that keep `a_spec`; every second user has no history."""
    rng = np.random.default_rng(seed)
    history_UL = rng.integers(1, 20, (num_users, 5))
    history_UL[:, 3:] = 0
    history_UL[::2] = 0
    return RowBatch(
        user_categorical_UC=np.stack([rng.integers(0, 4, num_users), rng.integers(0, 6, num_users)], axis=1),
        user_dense_UD=rng.normal(size=(num_users, 1)).astype(np.float32),
        history_UL=history_UL,
        user_index_N=rng.integers(0, num_users, num_rows),
        view_type_N=rng.integers(0, num_view_types, num_rows),
        candidate_categorical_NC=np.stack([rng.integers(0, 20, num_rows), rng.integers(0, 5, num_rows)], axis=1),
        candidate_dense_ND=rng.normal(size=(num_rows, 2)).astype(np.float32),
    )


def a_rich_spec() -> FeatureSpec:
    """`a_spec` with all that a surface may have beyond it: multi-hot, actions, and features of search alone."""
    return replace(
        a_spec(),
        user_multi_hot=(("interests", 7, 3), ("languages", 4, 2)),
        candidate_multi_hot=(("topics", 9, 4),),
        history_actions=("saved", "clicked", "hidden"),
        surface_features={
            SEARCH: SurfaceFeatures(candidate_categorical=(("query_class", 6),), candidate_dense=("match", "rank"))
        },
    )


def a_rich_batch(surface: Surface, *, num_users: int = 4, num_rows: int = 12, seed: int = 0) -> RowBatch:
    """Random rows that keep `a_rich_spec`; some features have no value."""
    rng, plain = np.random.default_rng(seed + 1), a_batch(num_users=num_users, num_rows=num_rows, seed=seed)
    widths = a_rich_spec().widths(surface)
    return replace(
        plain,
        user_multi_hot_UM=rng.integers(0, 4, (num_users, 5)),
        candidate_multi_hot_NM=rng.integers(0, 9, (num_rows, 4)) * rng.integers(0, 2, (num_rows, 1)),
        history_action_UL=rng.integers(0, 4, (num_users, 5)) * (plain.history_UL != 0),
        surface_categorical_NS=rng.integers(0, 6, (num_rows, widths["surface_categorical_NS"])),
        surface_dense_NS=rng.normal(size=(num_rows, widths["surface_dense_NS"])).astype(np.float32),
    )
