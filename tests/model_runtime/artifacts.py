"""Real exported versions on tiny features: whole, poisoned in one item, or of another input contract."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Split
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.features import FeatureSpec, RowBatch
from model_runtime.networks.nulls import null_rates_of_rows
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint
from tests.networks.builders import HOME_FEED, a_batch, a_spec

POISONED_ITEM = 19  # a version can be made that gives NaN for rows of this item, and passes its golden check


@dataclass(frozen=True, kw_only=True)
class Artifact:
    folder: Path
    version_id: VersionId


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Of home_feed. `foreign` reads a longer history, so it raises on every batch.

    `twin` and `sibling` share stable's trunk: twin has another calibrator, sibling another head.
    """

    stable: Artifact
    candidate: Artifact
    poisoned: Artifact
    foreign: Artifact
    twin: Artifact
    sibling: Artifact


def export_all(out: Path) -> Artifacts:
    return Artifacts(
        stable=_export(out / "stable", _joint(seed=1)),
        candidate=_export(out / "candidate", _joint(seed=2)),
        poisoned=_export(out / "poisoned", _poisoned(_joint(seed=2))),
        foreign=_export(out / "foreign", _joint(seed=1, spec=replace(a_spec(), history_length=6))),
        twin=_export(out / "twin", _recalibrated(_joint(seed=1))),
        sibling=_export(out / "sibling", _with_another_head(_joint(seed=1))),
    )


def a_split(stable: Artifact, candidate: Artifact | None = None, **overrides: object) -> Split:
    fields: dict[str, object] = {
        "surface": HOME_FEED,
        "generation": 1,
        "salt": "home_feed/rollout/1",
        "stable": stable.version_id,
        "candidate": None if candidate is None else candidate.version_id,
    }
    return Split(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real fields


def sound_batch(*, num_users: int = 40, num_rows: int = 120, seed: int = 0) -> RowBatch:
    """Rows of every user, without the poisoned item, neither as a candidate nor in a history."""
    batch = a_batch(num_users=num_users, num_rows=num_rows, seed=seed)
    batch.user_index_N[:num_users] = np.arange(num_users)
    batch.candidate_categorical_NC[:, 0] %= POISONED_ITEM
    batch.history_UL[:] %= POISONED_ITEM
    return batch


def some_keys(count: int, *, seed: int = 0) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.random.default_rng(seed).integers(0, 1 << 64, count, dtype=np.uint64)


def _joint(*, seed: int, spec: FeatureSpec | None = None) -> JointCheckpoint:
    torch.manual_seed(seed)
    spec = spec or a_spec()
    network = EngagementNetwork(spec, TrunkConfig(), {surface: HeadConfig() for surface in spec.surfaces})
    return JointCheckpoint(
        network=network.eval(),
        calibrators={surface: Calibrator(len(spec.view_types[surface])) for surface in spec.surfaces},
        golden={surface: _golden(spec, surface) for surface in spec.surfaces},
        training_run=f"test-{seed}",
        metrics={},
        null_rates={surface: null_rates_of_rows(sound_batch(num_rows=1_000)) for surface in spec.surfaces},
    )


def _golden(spec: FeatureSpec, surface: Surface) -> RowBatch:
    batch = sound_batch(num_users=4, num_rows=12)
    missing = spec.history_length - batch.history_UL.shape[1]
    history_UL = np.pad(batch.history_UL, ((0, 0), (0, missing)))
    return replace(batch, history_UL=history_UL, view_type_N=batch.view_type_N % len(spec.view_types[surface]))


def _poisoned(joint: JointCheckpoint) -> JointCheckpoint:
    trunk = joint.network.trunk
    with torch.no_grad():
        trunk.embedding.table[trunk.embedding.offsets[trunk.history_feature] + POISONED_ITEM] = torch.nan
    return joint


def _recalibrated(joint: JointCheckpoint) -> JointCheckpoint:
    joint.calibrators[HOME_FEED].intercept_V.add_(0.1)
    return joint


def _with_another_head(joint: JointCheckpoint) -> JointCheckpoint:
    with torch.no_grad():
        for weight in joint.network.head_of(HOME_FEED).parameters():
            weight.mul_(1.5)
    return joint


def _export(out: Path, joint: JointCheckpoint) -> Artifact:
    return Artifact(folder=out / HOME_FEED, version_id=export(joint, out)[HOME_FEED])
