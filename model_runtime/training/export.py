"""From one joint checkpoint to one artifact folder per surface, pruned to what that surface serves.

Files of a folder: manifest.json, trunk.safetensors (the same bytes on every surface), surface.safetensors
(this surface's gates, towers and own module), calibrator.safetensors, golden.safetensors.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from control_plane.domain.errors import InvalidManifest
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest, Serving, check_calibrator
from control_plane.domain.model_version import Digest, ModelVersion, Part, Surface, VersionId, digest_of
from model_runtime.checkpoints import (
    CALIBRATOR,
    NULL_RATES,
    LoadedVersion,
    golden_content,
    load_version,
    read_manifest,
    tensors_of,
)
from model_runtime.networks.engagement import write_config
from model_runtime.networks.features import FeatureSpec
from model_runtime.networks.nulls import KINDS, RateArray, null_rates_to_json
from model_runtime.training.blobs import drop_unused, place
from model_runtime.training.compile_card import compile_card
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.latency import latency_card

GOLDEN_TOLERANCE = 1e-5  # of a probability: other processors and batch sizes differ by about 1e-7, a wrong model by far
NO_DIGEST = Digest("sha256:" + "0" * 64)
DEFAULT_MODEL_NAME = "engagement"
BLOBS = ".blobs"  # the store beside the exports, see `training.blobs`


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """How to export; `blobs` is the store of shared files, `out`/.blobs where it is not given.

    `has_latency_card` measures each version, so that no two manifests are alike; the versions are. `has_compile_card`
    measures it compiled, too: runtimes of the same device and threads then compile it, if that was faster.
    """

    model_name: str = DEFAULT_MODEL_NAME
    max_unique_users: int = 2_048
    precision: str = "fp32"
    blobs: Path | None = None
    has_latency_card: bool = False
    has_compile_card: bool = False


def export(
    joint: JointCheckpoint, out: Path, *, model_name: str = DEFAULT_MODEL_NAME, config: ExportConfig | None = None
) -> dict[Surface, VersionId]:
    """Write `out`/<surface>/ for every surface of the checkpoint, and load each once as a runtime will.

    A folder appears whole or not at all; one of the same name is replaced. Files of the same content are stored once.

    Raises:
        CalibratorMismatch: a calibrator was fitted on other weights.
        InvalidManifest: an export of the same model name lies there that takes other inputs.
    """
    config = config or ExportConfig(model_name=model_name)
    out.mkdir(parents=True, exist_ok=True)
    versions = {surface: _export_surface(joint, surface, out, config) for surface in joint.spec.surfaces}
    drop_unused(config.blobs or out / BLOBS)
    return versions


def _export_surface(joint: JointCheckpoint, surface: Surface, out: Path, config: ExportConfig) -> VersionId:
    files = {
        FILE_OF[Part.TRUNK]: tensors_of(joint.network.trunk),
        FILE_OF[Part.SURFACE_EXPORT]: tensors_of(joint.network.head_of(surface)),
        FILE_OF[Part.CALIBRATOR]: tensors_of(joint.calibrators[surface]),
    }
    golden_batch = joint.golden[surface]
    served = _as_served(joint, _manifest(joint, surface, files, NO_DIGEST, config))
    files[GOLDEN_FILE] = golden_content(golden_batch, served.score(golden_batch))
    manifest = _manifest(joint, surface, files, digest_of(files[GOLDEN_FILE]), config, served)
    write_version(files, manifest, out, blobs=config.blobs or out / BLOBS, load=load_version)
    return manifest.version.version_id


def write_version(
    files: Mapping[str, bytes], manifest: Manifest, out: Path, *, blobs: Path, load: Callable[[Path], object]
) -> None:
    """Write `out`/<surface>/, whole or not at all, once `load` had no objection to it."""
    check_calibrator(manifest)
    surface = manifest.version.surface
    _check_signature(manifest, out / surface)
    staging = Path(tempfile.mkdtemp(prefix=f".{surface}-", dir=out))
    try:
        for name, content in files.items():
            place(content, staging / name, blobs)
        (staging / MANIFEST_FILE).write_text(manifest.to_json())
        load(staging)
        _replace(staging, out / surface)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _manifest(
    joint: JointCheckpoint,
    surface: Surface,
    files: dict[str, bytes],
    golden: Digest,
    config: ExportConfig,
    served: LoadedVersion | None = None,
) -> Manifest:
    version = ModelVersion(
        surface=surface,
        trunk=digest_of(files[FILE_OF[Part.TRUNK]]),
        surface_export=digest_of(files[FILE_OF[Part.SURFACE_EXPORT]]),
        calibrator=digest_of(files[FILE_OF[Part.CALIBRATOR]]),
        feature_signature=joint.spec.signature(surface),
    )
    spec, null_rate_F = joint.spec.pruned(surface), joint.null_rates.get(surface)
    is_measured, is_compiled = config.has_latency_card, config.has_compile_card
    num_knots = joint.calibrators[surface].num_knots
    return Manifest(
        version=version,
        model_name=config.model_name,
        view_types=joint.spec.view_types_of(surface),
        golden=golden,
        golden_tolerance=GOLDEN_TOLERANCE,
        training_run=joint.training_run,
        fitted_on=joint.fitted_on.get(surface),
        serving=Serving(
            vocabularies=vocabularies_of(spec),
            precision=config.precision,
            max_unique_users=config.max_unique_users,
            latency=latency_card(served, joint.golden[surface]) if served is not None and is_measured else None,
            compiled=compile_card(served, joint.golden[surface]) if served is not None and is_compiled else None,
        ),
        config={
            "features": spec.to_json(),
            "trunk": write_config(joint.network.trunk.config),
            "head": write_config(joint.network.head_of(surface).config),
            **({CALIBRATOR: {"num_knots": num_knots}} if num_knots else {}),
            **({} if null_rate_F is None else {NULL_RATES: _own_null_rates(joint.spec, surface, null_rate_F)}),
        },
    )


def _own_null_rates(spec: FeatureSpec, surface: Surface, null_rate_F: RateArray) -> dict[str, list[float]]:
    """Without the columns that only other surfaces fill."""
    rates, own = null_rates_to_json(spec, null_rate_F), spec.features_of(surface)
    widths = {"surface_categorical": len(own.candidate_categorical), "surface_dense": len(own.candidate_dense)}
    trimmed = {name: each[: widths.get(name, len(each))] for name, each in rates.items()}
    return {name: each for name, each in trimmed.items() if each or name in KINDS}


def vocabularies_of(spec: FeatureSpec) -> Digest:
    """The digest of every vocabulary's name and size, in the order of the flat table."""
    own = [features.candidate_categorical for features in spec.surface_features.values()]
    sizes = [*spec.user_categorical, *spec.candidate_categorical, *spec.user_multi_hot, *spec.candidate_multi_hot, *own]
    return digest_of(json.dumps([sizes, spec.history_actions], separators=(",", ":")).encode())


def _check_signature(manifest: Manifest, folder: Path) -> None:
    """A model's inputs never change within its name: callers of the version that lies there would break."""
    if not (folder / MANIFEST_FILE).exists():
        return
    there = read_manifest(folder)
    mine, its = manifest.version.feature_signature, there.version.feature_signature
    if there.model_name == manifest.model_name and mine != its:
        raise InvalidManifest(
            "digests.feature_signature",
            f"{there.model_name} in {folder} takes inputs {its}, this one {mine}; other inputs need another model_name",
        )


def _as_served(joint: JointCheckpoint, manifest: Manifest) -> LoadedVersion:
    surface = manifest.version.surface
    return LoadedVersion(
        manifest=manifest,
        spec=joint.spec.pruned(surface),
        trunk=joint.network.trunk,
        head=joint.network.head_of(surface),
        calibrator=joint.calibrators[surface],
        device="cpu",
    )


def _replace(staging: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    staging.chmod(0o755)
    staging.replace(folder)
