"""The model that is scored: of a production's shape and sizes; untrained, for weights change nothing in what it costs.

Features as of the common click logs, 26 categorical and 13 dense, with a history of 64 to 128 and what the user did
to each entry. Three surfaces share the trunk; each has a tower tree and features of its own.
Shapes: U users, N candidate rows.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from control_plane.domain.model_version import Surface, VersionId, ViewType
from control_plane.domain.split import FULL_TRAFFIC_BP, Split
from model_runtime.checkpoints import LoadedVersion
from model_runtime.engine import Engine
from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.crossing import CrossingConfig, ProjectionConfig
from model_runtime.networks.embeddings import EmbeddingConfig
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.experts import ExpertsConfig
from model_runtime.networks.features import FeatureSpec, RowBatch, SurfaceFeatures
from model_runtime.networks.sequence import SequenceConfig
from model_runtime.settings import RuntimeSettings
from model_runtime.split_table import Snapshot
from model_runtime.training.export import ExportConfig, export
from model_runtime.training.joint import JointCheckpoint

SURFACE = Surface("home_feed")
VIEW_TYPES = {
    SURFACE: (ViewType("grid"), ViewType("closeup")),
    Surface("related_pins"): (ViewType("grid"), ViewType("closeup")),
    Surface("search"): (ViewType("first"), ViewType("second")),
}
CARDINALITIES = (100_000, 20_000, 5_000, 1_000, 500, 200, 100, 50, 20, 10)  # used in turn, the largest is the item
USER = tuple((f"user_{place}", CARDINALITIES[1 + place % 9]) for place in range(10))
CANDIDATE = tuple((f"candidate_{place}", CARDINALITIES[place % 10]) for place in range(16))
OWN = SurfaceFeatures(candidate_categorical=(("query_class", 1_000), ("slot", 20)), candidate_dense=("match", "rank"))
SPEC = FeatureSpec(
    user_categorical=USER,
    user_dense=tuple(f"user_number_{place}" for place in range(5)),
    candidate_categorical=CANDIDATE,
    candidate_dense=tuple(f"candidate_number_{place}" for place in range(8)),
    history_of="candidate_0",
    history_length=128,
    history_actions=("saved", "clicked", "hidden"),
    view_types=VIEW_TYPES,
    surface_features=dict.fromkeys(VIEW_TYPES, OWN),
)
TRUNK = TrunkConfig(
    embedding=EmbeddingConfig(width=16),
    sequence=SequenceConfig(width=64, num_heads=4, num_layers=2),
    projection=ProjectionConfig(rank=16, width=32),
    crossing=CrossingConfig(num_layers=3, rank=64),
    experts=ExpertsConfig(num_experts=4, width=64),
    attention=AttentionConfig(width=64, num_heads=4),
)
HEAD = HeadConfig(tower_width=32, root_widths=(32,), branch_widths=(16,))
LOAD_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    folder: Path
    version_id: VersionId


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """Of home_feed. `head_only` has stable's trunk and another head; `other` shares nothing with stable."""

    stable: Exported
    head_only: Exported
    other: Exported


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The network of all surfaces, and a runtime that has its home_feed versions in memory."""

    network: EngagementNetwork
    versions: Versions
    engine: Engine

    @property
    def stable(self) -> LoadedVersion:
        version = self.engine.residency.get(self.versions.stable.version_id)
        assert isinstance(version, LoadedVersion)
        return version

    def serve(self, split: Split) -> None:
        """Have its surface's split be this one, under the next generation; its versions are in memory."""
        known = self.engine.table.split(split.surface)
        generation = 1 if known is None else known.generation + 1
        named = (self.versions.stable, self.versions.head_only)
        snapshot = Snapshot(splits={split.surface: replace(split, generation=generation)}, artifact_uris=uris(*named))
        self.engine.table.offer(snapshot, asked_at=time.monotonic())
        self.engine.residency.want(self.engine.table.wanted())
        self.engine.table.settle()


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """The runtime's parts are those of `serve`, but that nothing is sent to a control plane."""
    joint = _joint(seed=1)
    versions = Versions(
        stable=_export(folder, "stable", joint),
        head_only=_export(folder, "head_only", _with_another_head(joint)),
        other=_export(folder, "other", _joint(seed=2)),
    )
    engine = Engine(RuntimeSettings(data_dir=folder))
    engine.residency.start()
    engine.shadow.start()
    try:
        loaded = (versions.stable, versions.head_only)
        problems = engine.residency.pin(uris(*loaded), timeout_seconds=LOAD_SECONDS)
        assert not problems, problems
        yield World(network=joint.network, versions=versions, engine=engine)
    finally:
        engine.shadow.stop()
        engine.scorer.batches.stop()
        engine.residency.stop()


def uris(*exported: Exported) -> dict[VersionId, str]:
    return {each.version_id: str(each.folder) for each in exported}


def a_split(stable: Exported, *, shadow: Exported | None = None) -> Split:
    """The shadow, where there is one, scores every request."""
    return Split(
        surface=SURFACE,
        generation=1,
        salt="benchmark",
        stable=stable.version_id,
        shadow=None if shadow is None else shadow.version_id,
        shadow_sample_bp=0 if shadow is None else FULL_TRAFFIC_BP,
    )


def a_batch(*, users: int, rows: int, seed: int = 0, shortest: float = 0.5, longest: float = 1.0) -> RowBatch:
    """Each user has as many rows, beside each other; histories are of `shortest` to `longest` of the whole length.

    Categories are drawn by a power law, as logged ones are.
    """
    rng, length = np.random.default_rng(seed), SPEC.history_length
    history_UL = _drawn(rng, users, [SPEC.history_vocabulary] * length)
    length_U = rng.integers(int(shortest * length), int(longest * length) + 1, users)
    history_UL[np.arange(length) >= length_U[:, None]] = 0
    return RowBatch(
        user_categorical_UC=_drawn(rng, users, [size for _, size in SPEC.user_categorical]),
        user_dense_UD=_normal(rng, users, len(SPEC.user_dense)),
        history_UL=history_UL,
        history_action_UL=np.where(history_UL == 0, 0, rng.integers(1, 4, (users, length))),
        user_index_N=np.arange(rows) * users // rows,
        view_type_N=rng.integers(0, 2, rows),
        candidate_categorical_NC=_drawn(rng, rows, [size for _, size in SPEC.candidate_categorical]),
        candidate_dense_ND=_normal(rng, rows, len(SPEC.candidate_dense)),
        surface_categorical_NS=_drawn(rng, rows, [size for _, size in OWN.candidate_categorical]),
        surface_dense_NS=_normal(rng, rows, len(OWN.candidate_dense)),
    )


def a_request(rows: int, *, history: float = 1.0) -> RowBatch:
    """Of one user, whose history is of a share of the whole length."""
    return a_batch(users=1, rows=rows, shortest=history, longest=history)


def _joint(*, seed: int) -> JointCheckpoint:
    torch.manual_seed(seed)
    network = EngagementNetwork(SPEC, TRUNK, dict.fromkeys(SPEC.surfaces, HEAD))
    return _checkpoint(network, f"benchmark-{seed}")


def _with_another_head(joint: JointCheckpoint) -> JointCheckpoint:
    network = deepcopy(joint.network)
    with torch.no_grad():
        for weight in network.head_of(SURFACE).parameters():
            weight.mul_(1.5)
    return _checkpoint(network, "benchmark-head")


def _checkpoint(network: EngagementNetwork, training_run: str) -> JointCheckpoint:
    return JointCheckpoint(
        network=network.eval().requires_grad_(False),
        calibrators={surface: Calibrator(len(VIEW_TYPES[surface])) for surface in SPEC.surfaces},
        golden=dict.fromkeys(SPEC.surfaces, a_batch(users=4, rows=16)),
        training_run=training_run,
        metrics={},
    )


def _export(folder: Path, name: str, joint: JointCheckpoint) -> Exported:
    version_id = export(joint, folder / name, config=ExportConfig(model_name=name))[SURFACE]
    return Exported(folder=folder / name / SURFACE, version_id=version_id)


def _drawn(rng: np.random.Generator, rows: int, sizes: Sequence[int]) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = (1 + rng.random((rows, len(sizes))) ** 3 * (np.array(sizes) - 1)).astype(np.int64)
    return drawn


def _normal(rng: np.random.Generator, rows: int, width: int) -> NDArray[np.float32]:
    return rng.normal(size=(rows, width)).astype(np.float32)
