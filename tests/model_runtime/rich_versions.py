"""Versions of the network with all its parts, made in memory."""

import torch

from control_plane.domain.manifest import Manifest
from control_plane.domain.model_version import Digest, ModelVersion, Surface
from model_runtime.checkpoints import LoadedVersion
from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.calibration import Calibrator
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig, TrunkConfig
from model_runtime.networks.features import FeatureSpec
from tests.networks.builders import a_rich_spec

SOME_DIGEST = Digest("sha256:" + "1" * 64)


def a_rich_version(surface: Surface, *, seed: int = 0, spec: FeatureSpec | None = None) -> LoadedVersion:
    """Of `a_rich_spec`, with attention, tower trees and curves; its weights are drawn wide, so that scores differ."""
    torch.manual_seed(seed)
    spec = spec or a_rich_spec()
    head = HeadConfig(root_widths=(12,), branch_widths=(8,))
    trunk = TrunkConfig(attention=AttentionConfig())
    network = EngagementNetwork(spec, trunk, dict.fromkeys(spec.surfaces, head)).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.add_(torch.randn_like(weight) * 0.1)
    version = ModelVersion(
        surface=surface,
        trunk=SOME_DIGEST,
        surface_export=SOME_DIGEST,
        calibrator=SOME_DIGEST,
        feature_signature=spec.signature(surface),
    )
    return LoadedVersion(
        manifest=Manifest(
            version=version,
            model_name="rich",
            view_types=spec.view_types_of(surface),
            golden=SOME_DIGEST,
            golden_tolerance=1e-5,
            training_run="test",
            config={},
        ),
        spec=spec.pruned(surface),
        trunk=network.trunk,
        head=network.head_of(surface),
        calibrator=Calibrator(len(spec.view_types_of(surface)), num_knots=4),
        device="cpu",
    )
