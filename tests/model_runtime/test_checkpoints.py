"""Loading a version: what is sound gives the checkpoint's scores, what is not is refused by name."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from control_plane.domain.errors import (
    ControlPlaneError,
    DigestMismatch,
    GoldenMismatch,
    InvalidField,
    InvalidManifest,
    UnsafeArtifact,
)
from control_plane.domain.manifest import MANIFEST_FILE
from control_plane.domain.model_version import Digest, digest_of
from model_runtime.checkpoints import CPU_PASS_ROWS, load_version
from model_runtime.networks.engagement import TASKS
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint
from tests.networks.builders import HOME_FEED, SEARCH, a_batch
from tests.training.builders import a_joint_checkpoint

PART_OF = {"trunk": "trunk", "surface": "surface_export", "calibrator": "calibrator"}


@pytest.fixture(scope="module")
def joint() -> JointCheckpoint:
    return a_joint_checkpoint()


@pytest.fixture(scope="module")
def exported(joint: JointCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(joint, folder)
    return folder


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """A copy of the home feed's artifact, for a test to break."""
    return shutil.copytree(exported / HOME_FEED, tmp_path / "artifact")


def reseal(artifact: Path, name: str) -> None:
    """Write the file's present digest into the manifest: what someone does who may also change the manifest."""
    manifest = json.loads((artifact / MANIFEST_FILE).read_text())
    digest = digest_of((artifact / f"{name}.safetensors").read_bytes())
    if name == "golden":
        manifest["golden"] = digest
    else:
        manifest["digests"][PART_OF[name]] = digest
    (artifact / MANIFEST_FILE).write_text(json.dumps(manifest))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_manifest(artifact: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((artifact / MANIFEST_FILE).read_text())
    change(manifest)
    (artifact / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize("surface", [HOME_FEED, SEARCH])
def test_a_loaded_export_gives_the_scores_of_its_checkpoint(
    joint: JointCheckpoint, exported: Path, surface: str
) -> None:
    batch = a_batch(num_users=9, num_rows=60, seed=5)

    loaded = load_version(exported / surface)

    name = loaded.manifest.version.surface
    with torch.inference_mode():
        logit_NT = joint.network(name, batch)
        logit_NT[:, 0] = joint.calibrators[name](logit_NT[:, 0], torch.from_numpy(batch.view_type_N))
    scores = loaded.score(batch)
    assert loaded.version_id == loaded.manifest.version.version_id
    for index, task in enumerate(TASKS):
        assert scores[task].dtype == np.float32
        np.testing.assert_allclose(scores[task], logit_NT[:, index].sigmoid().numpy(), atol=1e-6)


def test_a_batch_beyond_one_pass_is_scored_as_its_parts_are(exported: Path) -> None:
    loaded = load_version(exported / HOME_FEED)
    batch = a_batch(num_users=50, num_rows=2 * CPU_PASS_ROWS + 7)
    order = np.random.default_rng(2).permutation(batch.num_rows)

    whole, shuffled = loaded.score(batch), loaded.score(batch.take(order))

    np.testing.assert_allclose(shuffled["click"], whole["click"][order], atol=1e-6)


def test_categories_never_seen_score_as_unknown_and_broken_rows_are_refused(exported: Path) -> None:
    loaded, batch = load_version(exported / HOME_FEED), a_batch()
    beyond = replace(batch, candidate_categorical_NC=np.full((12, 2), 10_000))
    unknown = replace(batch, candidate_categorical_NC=np.zeros((12, 2), np.int64))

    np.testing.assert_array_equal(loaded.score(beyond)["click"], loaded.score(unknown)["click"])
    with pytest.raises(InvalidField, match="view_type_N"):
        loaded.score(replace(batch, view_type_N=np.full(12, 2)))


def test_versions_of_one_checkpoint_share_the_trunk_in_memory(exported: Path) -> None:
    trunks: dict[Digest, nn.Module] = {}

    first, second = (load_version(exported / surface, trunks=trunks) for surface in (HOME_FEED, SEARCH))

    assert first.trunk is second.trunk
    assert list(trunks) == [first.manifest.version.trunk]


@pytest.mark.parametrize("name", ["trunk", "surface", "calibrator", "golden"])
def test_a_flipped_byte_is_a_digest_mismatch_that_names_the_file(artifact: Path, name: str) -> None:
    path = artifact / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(DigestMismatch, match=rf"{name}\.safetensors"):
        load_version(artifact)


@pytest.mark.parametrize("name", ["trunk", "surface", "calibrator", "golden"])
@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_truncated_file_is_unsafe(artifact: Path, name: str, kept: int) -> None:
    path = artifact / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    reseal(artifact, name)

    with pytest.raises(UnsafeArtifact, match=r"truncated|where its header promises"):
        load_version(artifact)


def test_a_pickle_under_the_name_of_safetensors_is_unsafe_and_never_run(artifact: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (tmp_path.joinpath("ran").touch, ())

    (artifact / "trunk.safetensors").write_bytes(pickle.dumps(Payload()))
    reseal(artifact, "trunk")

    with pytest.raises(UnsafeArtifact, match="pickle"):
        load_version(artifact)
    assert not (tmp_path / "ran").exists()


def test_a_torch_checkpoint_under_the_name_of_safetensors_is_unsafe(artifact: Path) -> None:
    torch.save({"table": torch.zeros(3)}, artifact / "trunk.safetensors")
    reseal(artifact, "trunk")

    with pytest.raises(UnsafeArtifact, match="pickle or a zip"):
        load_version(artifact)


@pytest.mark.parametrize("name", ["trunk", "surface", "calibrator"])
def test_a_foreign_tensor_is_unsafe_even_under_a_true_digest(artifact: Path, name: str) -> None:
    change_tensors(artifact / f"{name}.safetensors", lambda tensors: tensors.update(stowaway=torch.zeros(2)))
    reseal(artifact, name)

    with pytest.raises(UnsafeArtifact, match="foreign tensor 'stowaway'"):
        load_version(artifact)


def test_a_missing_and_a_misshapen_tensor_are_unsafe(artifact: Path) -> None:
    path = artifact / "calibrator.safetensors"
    change_tensors(path, lambda tensors: tensors.update(slope_V=torch.ones(9)))
    reseal(artifact, "calibrator")
    with pytest.raises(UnsafeArtifact, match=r"holds 'slope_V' as \(9,\)"):
        load_version(artifact)

    change_tensors(path, lambda tensors: tensors.update(other_V=tensors.pop("slope_V")))
    reseal(artifact, "calibrator")
    with pytest.raises(UnsafeArtifact, match="foreign tensor 'other_V'"):
        load_version(artifact)

    change_tensors(path, lambda tensors: tensors.pop("other_V"))
    reseal(artifact, "calibrator")
    with pytest.raises(UnsafeArtifact, match=r"lacks the tensor 'slope_V'|its config needs"):
        load_version(artifact)


@pytest.mark.parametrize("name", ["trunk", "surface", "calibrator", "golden"])
def test_other_scores_than_the_golden_ones_are_refused_even_under_a_true_digest(artifact: Path, name: str) -> None:
    def shift(tensors: dict[str, torch.Tensor]) -> None:
        shifted = {"golden": "score.click", "calibrator": "intercept_V", "surface": "bias_T"}.get(
            name, "embedding.table"
        )
        tensors[shifted] = tensors[shifted] + 0.01

    change_tensors(artifact / f"{name}.safetensors", shift)
    reseal(artifact, name)

    with pytest.raises(GoldenMismatch, match="more than the tolerance"):
        load_version(artifact)


@pytest.mark.parametrize("name", ["surface", "calibrator", "golden"])
def test_weights_or_scores_that_are_not_numbers_are_a_golden_mismatch(artifact: Path, name: str) -> None:
    tensor = {"golden": "score.click", "calibrator": "intercept_V", "surface": "bias_T"}[name]
    change_tensors(artifact / f"{name}.safetensors", lambda tensors: tensors[tensor].fill_(torch.nan))
    reseal(artifact, name)

    with pytest.raises(GoldenMismatch):
        load_version(artifact)


def test_a_golden_file_without_a_task_is_unsafe(artifact: Path) -> None:
    change_tensors(artifact / "golden.safetensors", lambda tensors: tensors.pop("score.hide"))
    reseal(artifact, "golden")

    with pytest.raises(UnsafeArtifact, match=r"lacks the tensor 'score\.hide'"):
        load_version(artifact)


def test_a_refused_version_leaves_no_trunk_behind(artifact: Path) -> None:
    trunks: dict[Digest, nn.Module] = {}
    change_tensors(artifact / "golden.safetensors", lambda tensors: tensors["score.click"].add_(0.5))
    reseal(artifact, "golden")

    with pytest.raises(GoldenMismatch):
        load_version(artifact, trunks=trunks)
    assert trunks == {}


@pytest.mark.parametrize("name", ["manifest.json", "trunk.safetensors", "golden.safetensors"])
def test_a_missing_file_is_named(artifact: Path, name: str) -> None:
    (artifact / name).unlink()

    with pytest.raises(ControlPlaneError, match=rf"{name}.*No such file"):
        load_version(artifact)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda manifest: manifest.update(view_types=["grid"]), InvalidManifest, "view_types: must be those of"),
        (lambda manifest: manifest["config"].pop("features"), InvalidManifest, r"config\.features: must be an object"),
        (
            lambda manifest: manifest["config"]["trunk"]["embedding"].update(width="wide"),
            InvalidManifest,
            r"config\.trunk\.embedding\.width: must be a whole number",
        ),
        (
            lambda manifest: manifest["config"]["features"].update(user_dense=["tenure", "age_days"]),
            DigestMismatch,
            r"config\.features",
        ),
        (
            lambda manifest: manifest["config"]["trunk"]["embedding"].update(width=65_536),
            UnsafeArtifact,
            "its config needs",
        ),
        (lambda manifest: manifest["config"]["head"].update(tower_width=65_536), UnsafeArtifact, "its config needs"),
        (
            lambda manifest: manifest["config"]["trunk"]["sequence"].update(num_heads=3),
            InvalidManifest,
            "must divide the width",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(
    artifact: Path, change: Callable[[dict[str, object]], object], error: type[ControlPlaneError], message: str
) -> None:
    change_manifest(artifact, change)

    with pytest.raises(error, match=message):
        load_version(artifact)
