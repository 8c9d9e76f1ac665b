"""From one joint checkpoint to one artifact folder per surface, pruned to what that surface serves.

Files of a folder: manifest.json, trunk.safetensors (the same bytes on every surface), surface.safetensors
(this surface's gates, tower and heads), calibrator.safetensors, golden.safetensors.
"""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest, check_calibrator
from control_plane.domain.model_version import Digest, ModelVersion, Part, Surface, VersionId, digest_of
from model_runtime.checkpoints import NULL_RATES, LoadedVersion, golden_content, load_version, tensors_of
from model_runtime.networks.nulls import null_rates_to_json
from model_runtime.training.joint import JointCheckpoint

GOLDEN_TOLERANCE = 1e-5  # of a probability: other processors and batch sizes differ by about 1e-7, a wrong model by far
NO_DIGEST = Digest("sha256:" + "0" * 64)
DEFAULT_MODEL_NAME = "engagement"


def export(joint: JointCheckpoint, out: Path, *, model_name: str = DEFAULT_MODEL_NAME) -> dict[Surface, VersionId]:
    """Write `out`/<surface>/ for every surface of the checkpoint, and load each once as a runtime will.

    A folder appears whole or not at all; one of the same name is replaced. A calibrator that was fitted on other
    weights is refused with `CalibratorMismatch`.
    """
    out.mkdir(parents=True, exist_ok=True)
    return {surface: _export_surface(joint, surface, out, model_name) for surface in joint.spec.surfaces}


def _export_surface(joint: JointCheckpoint, surface: Surface, out: Path, model_name: str) -> VersionId:
    files = {
        FILE_OF[Part.TRUNK]: tensors_of(joint.network.trunk),
        FILE_OF[Part.SURFACE_EXPORT]: tensors_of(joint.network.head_of(surface)),
        FILE_OF[Part.CALIBRATOR]: tensors_of(joint.calibrators[surface]),
    }
    golden_batch = joint.golden[surface]
    unsealed = _manifest(joint, surface, files, NO_DIGEST, model_name)
    files[GOLDEN_FILE] = golden_content(golden_batch, _as_served(joint, unsealed).score(golden_batch))
    manifest = _manifest(joint, surface, files, digest_of(files[GOLDEN_FILE]), model_name)
    check_calibrator(manifest)
    files[MANIFEST_FILE] = manifest.to_json().encode()
    staging = Path(tempfile.mkdtemp(prefix=f".{surface}-", dir=out))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        load_version(staging)
        _replace(staging, out / surface)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest.version.version_id


def _manifest(
    joint: JointCheckpoint, surface: Surface, files: dict[str, bytes], golden: Digest, model_name: str
) -> Manifest:
    version = ModelVersion(
        surface=surface,
        trunk=digest_of(files[FILE_OF[Part.TRUNK]]),
        surface_export=digest_of(files[FILE_OF[Part.SURFACE_EXPORT]]),
        calibrator=digest_of(files[FILE_OF[Part.CALIBRATOR]]),
        feature_signature=joint.spec.signature(surface),
    )
    null_rate_F = joint.null_rates.get(surface)
    return Manifest(
        version=version,
        model_name=model_name,
        view_types=joint.spec.view_types_of(surface),
        golden=golden,
        golden_tolerance=GOLDEN_TOLERANCE,
        training_run=joint.training_run,
        fitted_on=joint.fitted_on.get(surface),
        config={
            "features": joint.spec.to_json(),
            "trunk": asdict(joint.network.trunk.config),
            "head": asdict(joint.network.head_of(surface).config),
            **({} if null_rate_F is None else {NULL_RATES: null_rates_to_json(joint.spec, null_rate_F)}),
        },
    )


def _as_served(joint: JointCheckpoint, manifest: Manifest) -> LoadedVersion:
    surface = manifest.version.surface
    return LoadedVersion(
        manifest=manifest,
        spec=joint.spec,
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
