"""Exports of all that a surface may have: pruned, stored once, tied to their inputs, and scored from shared parts."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from control_plane.domain.errors import InvalidManifest
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, Manifest
from control_plane.domain.model_version import Digest, Part, digest_of
from model_runtime.checkpoints import CPU_PASS_ROWS, load_version
from model_runtime.training.export import BLOBS, ExportConfig, export
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.train import recalibrate
from tests.networks.builders import HOME_FEED, SEARCH, a_rich_batch
from tests.training.builders import a_joint_checkpoint, a_rich_joint_checkpoint, rich_examples

FILES = (*FILE_OF.values(), GOLDEN_FILE)


@pytest.fixture(scope="module")
def joint() -> JointCheckpoint:
    return a_rich_joint_checkpoint()


@pytest.fixture(scope="module")
def exported(joint: JointCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(joint, folder)
    return folder


def test_no_export_holds_a_tensor_or_a_feature_of_another_surface(joint: JointCheckpoint, exported: Path) -> None:
    for surface, other in ((HOME_FEED, SEARCH), (SEARCH, HOME_FEED)):
        head = joint.network.head_of(surface).state_dict()
        allowed = {*joint.network.trunk.state_dict(), *head, "slope_V", "intercept_V"}
        found = {name for part in FILE_OF.values() for name in load_file(exported / surface / part)}
        assert found == allowed
        for name in head:
            assert load_file(exported / surface / "surface.safetensors")[name].shape == head[name].shape
        assert other not in load_version(exported / surface).spec.surface_features
    assert "late.embedding.table" not in load_file(exported / HOME_FEED / "surface.safetensors")
    assert "late.embedding.table" in load_file(exported / SEARCH / "surface.safetensors")


def test_an_exported_surface_scores_as_its_checkpoint_and_survives_the_folder_of_it(
    joint: JointCheckpoint, exported: Path, tmp_path: Path
) -> None:
    joint.write(tmp_path / "checkpoint")

    again = export(JointCheckpoint.read(tmp_path / "checkpoint"), tmp_path / "again")

    for surface in (HOME_FEED, SEARCH):
        version = load_version(exported / surface)
        assert again[surface] == version.version_id
        hide_N = joint.network(surface, a_rich_batch(surface))[:, 2].sigmoid().detach().numpy()
        np.testing.assert_allclose(version.score(a_rich_batch(surface))["hide"], hide_N, atol=1e-6)


def test_scores_from_shared_activations_are_the_scores(exported: Path) -> None:
    version = load_version(exported / SEARCH)
    for batch in (a_rich_batch(SEARCH), a_rich_batch(SEARCH, num_users=50, num_rows=CPU_PASS_ROWS + 100)):
        activations = version.activations(batch)

        scores = version.score_shared(activations.shared, activations.rows)

        assert scores.keys() == {"click", "good_click", "hide"}
        for task, score_N in version.score(batch).items():
            np.testing.assert_array_equal(scores[task], score_N)


def test_a_candidate_of_stables_trunk_scores_from_stables_activations(
    joint: JointCheckpoint, exported: Path, tmp_path: Path
) -> None:
    export(recalibrate(joint, rich_examples(seed=3)), tmp_path)
    stable, candidate = load_version(exported / SEARCH), load_version(tmp_path / SEARCH)
    other_surface = load_version(exported / HOME_FEED)
    batch = a_rich_batch(SEARCH)
    activations = stable.activations(batch)

    assert candidate.reads_activations_of(stable)
    assert not other_surface.reads_activations_of(stable)
    scores = candidate.score_shared(activations.shared, activations.rows)
    np.testing.assert_allclose(scores["click"], candidate.score(batch)["click"], atol=1e-6)
    assert not np.allclose(scores["click"], stable.score(batch)["click"], atol=1e-6)


def test_files_of_the_same_content_are_stored_once_and_each_folder_stands_alone(
    joint: JointCheckpoint, tmp_path: Path
) -> None:
    store = ExportConfig(blobs=tmp_path / "store")
    export(joint, tmp_path / "first", config=store)
    export(recalibrate(joint, rich_examples(seed=3)), tmp_path / "second", config=store)

    def inode(run: str, surface: str, name: str) -> int:
        return (tmp_path / run / surface / name).stat().st_ino

    runs = [(run, surface) for run in ("first", "second") for surface in (HOME_FEED, SEARCH)]
    assert len({inode(run, surface, "trunk.safetensors") for run, surface in runs}) == 1
    assert len({inode(run, SEARCH, "surface.safetensors") for run in ("first", "second")}) == 1
    assert len({inode(run, SEARCH, "calibrator.safetensors") for run in ("first", "second")}) == 2
    for blob in (tmp_path / "store").iterdir():
        assert digest_of(blob.read_bytes()).replace(":", "-") == blob.name
    for blob in (tmp_path / "store").iterdir():
        blob.unlink()
    assert load_version(tmp_path / "second" / SEARCH)


def test_a_stored_file_that_was_changed_in_place_does_not_spread(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)
    version = load_version(tmp_path / SEARCH)
    (tmp_path / SEARCH / "trunk.safetensors").write_bytes(b"rotten")

    assert export(joint, tmp_path)[SEARCH] == version.version_id

    assert load_version(tmp_path / SEARCH)
    assert load_version(tmp_path / HOME_FEED)


def test_files_that_no_export_shares_any_more_leave_the_store(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)
    export(recalibrate(joint, rich_examples(seed=3)), tmp_path)

    linked = {path.stat().st_ino for surface in (HOME_FEED, SEARCH) for path in (tmp_path / surface).iterdir()}
    assert {blob.stat().st_ino for blob in (tmp_path / BLOBS).iterdir()} <= linked


def test_a_file_system_without_links_gets_copies(
    joint: JointCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)

    export(joint, tmp_path)

    assert load_version(tmp_path / SEARCH).version_id
    assert list((tmp_path / BLOBS).iterdir()) == []


def test_other_inputs_under_one_model_name_are_refused_and_leave_what_lies_there(
    joint: JointCheckpoint, tmp_path: Path
) -> None:
    before = export(joint, tmp_path)

    with pytest.raises(
        InvalidManifest, match=r"feature_signature: engagement in .* other inputs need another model_name"
    ):
        export(a_joint_checkpoint(), tmp_path)

    assert load_version(tmp_path / SEARCH).version_id == before[SEARCH]
    export(a_joint_checkpoint(), tmp_path, model_name="plain")
    assert load_version(tmp_path / SEARCH).manifest.model_name == "plain"


def test_a_manifest_tells_what_a_runtime_may_count_on(joint: JointCheckpoint, tmp_path: Path) -> None:
    config = ExportConfig(max_unique_users=77, has_latency_card=True)

    measured = export(joint, tmp_path, config=config)

    manifest = load_version(tmp_path / SEARCH).manifest
    assert manifest.serving is not None
    assert manifest.serving.max_unique_users == 77
    assert manifest.serving.precision == "fp32"
    assert manifest.serving.latency is not None
    assert 0 < manifest.serving.latency.p50_ms <= manifest.serving.latency.p99_ms
    assert (manifest.serving.latency.users, manifest.serving.latency.rows) == (1, 512)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert measured == export(joint, tmp_path)
    assert replace(manifest, serving=None) == replace(load_version(tmp_path / SEARCH).manifest, serving=None)


def test_surfaces_share_the_trunk_in_memory_though_their_own_features_differ(exported: Path) -> None:
    trunks: dict[Digest, nn.Module] = {}

    first, second = (load_version(exported / surface, trunks=trunks) for surface in (HOME_FEED, SEARCH))

    assert first.trunk is second.trunk
    assert first.manifest.version.digest_of_part(Part.TRUNK) in trunks
