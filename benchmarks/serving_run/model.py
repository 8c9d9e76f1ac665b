"""The unified model that every server loads, and requests for it: one user each, with candidates to rank.

Twenty-six categorical and thirteen dense features, as the common click logs have, and a history of sixty-four; the
network's sizes are the project's defaults. It is not trained: weights do not change what a forward costs.
Shapes: U users, N candidate rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface, VersionId, ViewType
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.features import FeatureSpec, RowBatch
from model_runtime.networks.nulls import null_rates_of_rows
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint

SURFACE = Surface("home_feed")
VIEW_TYPES = {
    SURFACE: (ViewType("grid"), ViewType("closeup")),
    Surface("related_pins"): (ViewType("grid"), ViewType("closeup")),
    Surface("search"): (ViewType("first"), ViewType("second"), ViewType("third")),
}
CARDINALITIES = (100_000, 20_000, 5_000, 1_000, 500, 200, 100, 50, 20, 10)  # used in turn, the largest is the item
NUM_USER_CATEGORICAL, NUM_CANDIDATE_CATEGORICAL = 10, 16
NUM_USER_DENSE, NUM_CANDIDATE_DENSE = 5, 8
HISTORY_LENGTH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    folder: Path
    version_id: VersionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One user's candidates; what arrives as one request."""

    batch: RowBatch
    user_key_U: NDArray[np.uint64]


def the_spec() -> FeatureSpec:
    return FeatureSpec(
        user_categorical=_categorical("user", NUM_USER_CATEGORICAL, CARDINALITIES[1:]),
        user_dense=tuple(f"user_number_{place}" for place in range(NUM_USER_DENSE)),
        candidate_categorical=_categorical("candidate", NUM_CANDIDATE_CATEGORICAL, CARDINALITIES),
        candidate_dense=tuple(f"candidate_number_{place}" for place in range(NUM_CANDIDATE_DENSE)),
        history_of="candidate_0",
        history_length=HISTORY_LENGTH,
        view_types=VIEW_TYPES,
    )


def export_version(out: Path, *, seed: int) -> Exported:
    """Of home_feed, from a joint checkpoint of three surfaces; another seed shares nothing with this one."""
    torch.manual_seed(seed)
    spec = the_spec()
    network = EngagementNetwork(spec, TrunkConfig(), {surface: HeadConfig() for surface in spec.surfaces})
    sample = {surface: _sample(spec, surface) for surface in spec.surfaces}
    joint = JointCheckpoint(
        network=network.eval(),
        calibrators={surface: Calibrator(len(spec.view_types[surface])) for surface in spec.surfaces},
        golden=sample,
        training_run=f"benchmark-{seed}",
        metrics={},
        null_rates={surface: null_rates_of_rows(batch) for surface, batch in sample.items()},
    )
    return Exported(folder=out / SURFACE, version_id=export(joint, out)[SURFACE])


def pages(count: int, *, rows: int, seed: int = 0) -> Sequence[Page]:
    """Different users, so that nobody is helped by having seen one before."""
    rng = np.random.default_rng(seed)
    spec = the_spec()
    return [
        Page(batch=_batch(spec, rng, rows=rows), user_key_U=rng.integers(0, 1 << 64, 1, dtype=np.uint64))
        for _ in range(count)
    ]


def _categorical(side: str, count: int, cardinalities: Sequence[int]) -> tuple[tuple[str, int], ...]:
    return tuple((f"{side}_{place}", cardinalities[place % len(cardinalities)]) for place in range(count))


def _sample(spec: FeatureSpec, surface: Surface) -> RowBatch:
    return _batch(spec, np.random.default_rng(0), rows=64, num_view_types=len(spec.view_types[surface]))


def _batch(spec: FeatureSpec, rng: np.random.Generator, *, rows: int, num_view_types: int = 2) -> RowBatch:
    """One user with `rows` candidates; categories are drawn by a power law, as logged ones are."""
    history_UL = _drawn(rng, 1, [spec.history_vocabulary] * spec.history_length)
    history_UL[:, rng.integers(spec.history_length // 4, spec.history_length) :] = 0
    return RowBatch(
        user_categorical_UC=_drawn(rng, 1, _sizes(dict(spec.user_categorical))),
        user_dense_UD=rng.normal(size=(1, len(spec.user_dense))).astype(np.float32),
        history_UL=history_UL,
        user_index_N=np.zeros(rows, np.int64),
        view_type_N=rng.integers(0, num_view_types, rows),
        candidate_categorical_NC=_drawn(rng, rows, _sizes(dict(spec.candidate_categorical))),
        candidate_dense_ND=rng.normal(size=(rows, len(spec.candidate_dense))).astype(np.float32),
    )


def _sizes(categorical: Mapping[str, int]) -> list[int]:
    return list(categorical.values())


def _drawn(rng: np.random.Generator, rows: int, sizes: Sequence[int]) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = (1 + rng.random((rows, len(sizes))) ** 3 * (np.array(sizes) - 1)).astype(np.int64)
    return drawn
