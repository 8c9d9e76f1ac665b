"""Exports: one shared trunk, nothing of other surfaces, and a joint checkpoint that survives its folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from control_plane.domain.errors import CalibratorMismatch, InvalidField, InvalidManifest, UnsafeArtifact
from control_plane.domain.manifest import FILE_OF, GOLDEN_FILE, MANIFEST_FILE, Manifest
from control_plane.domain.model_version import Part
from model_runtime.checkpoints import load_version, tensors_of
from model_runtime.networks.nulls import KINDS
from model_runtime.training.export import export
from model_runtime.training.faults import parse_fault, with_fault
from model_runtime.training.joint import JointCheckpoint, weights_of
from model_runtime.training.train import recalibrate
from tests.networks.builders import HOME_FEED, SEARCH
from tests.training.builders import a_joint_checkpoint, some_examples


@pytest.fixture(scope="module")
def joint() -> JointCheckpoint:
    return a_joint_checkpoint()


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json((folder / MANIFEST_FILE).read_text())


def test_exports_of_one_checkpoint_share_the_trunk_and_only_that(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)

    home_feed, search = (manifest_of(tmp_path / surface).version for surface in (HOME_FEED, SEARCH))
    trunks = [(tmp_path / surface / "trunk.safetensors").read_bytes() for surface in (HOME_FEED, SEARCH)]
    assert trunks[0] == trunks[1]
    assert home_feed.trunk == search.trunk
    assert home_feed.surface_export != search.surface_export
    assert home_feed.feature_signature != search.feature_signature


def test_an_export_holds_its_own_surface_and_no_tensor_of_another(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)

    for surface in (HOME_FEED, SEARCH):
        folder = tmp_path / surface
        assert sorted(path.name for path in folder.iterdir()) == sorted([*FILE_OF.values(), GOLDEN_FILE, MANIFEST_FILE])
        head, trunk = joint.network.head_of(surface).state_dict(), joint.network.trunk.state_dict()
        assert load_file(folder / "surface.safetensors").keys() == head.keys()
        assert load_file(folder / "trunk.safetensors").keys() == trunk.keys()
        assert len(load_file(folder / "calibrator.safetensors")["slope_V"]) == len(joint.spec.view_types[surface])


def test_exporting_twice_gives_the_same_versions_and_replaces_the_folders(
    joint: JointCheckpoint, tmp_path: Path
) -> None:
    first = export(joint, tmp_path)
    (tmp_path / SEARCH / "left-over").touch()

    assert export(joint, tmp_path) == first
    assert not (tmp_path / SEARCH / "left-over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".blobs", HOME_FEED, SEARCH]


def test_a_faulted_calibrator_is_the_only_part_that_changes(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path / "sound")
    export(with_fault(joint, parse_fault("search.calibrator=1.13")), tmp_path / "faulted")

    sound, faulted = (manifest_of(tmp_path / name / SEARCH).version for name in ("sound", "faulted"))
    assert replace(faulted, calibrator=sound.calibrator) == sound
    assert faulted.calibrator != sound.calibrator
    assert (tmp_path / "faulted" / HOME_FEED / MANIFEST_FILE).read_bytes() == (
        tmp_path / "sound" / HOME_FEED / MANIFEST_FILE
    ).read_bytes()


def test_a_scrambled_trunk_loads_under_a_digest_of_its_own(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path / "sound")
    export(with_fault(joint, parse_fault("trunk=scramble")), tmp_path / "faulted")

    sound, faulted = (load_version(tmp_path / name / SEARCH).manifest.version for name in ("sound", "faulted"))
    assert faulted.trunk != sound.trunk
    assert replace(faulted, trunk=sound.trunk) == sound


def test_a_joint_checkpoint_survives_its_folder(joint: JointCheckpoint, tmp_path: Path) -> None:
    joint.write(tmp_path / "checkpoint")

    read = JointCheckpoint.read(tmp_path / "checkpoint")

    assert tensors_of(read.network) == tensors_of(joint.network)
    assert read.metrics == json.loads(json.dumps(joint.metrics))
    assert export(read, tmp_path / "read") == export(joint, tmp_path / "trained")
    for surface in (HOME_FEED, SEARCH):
        for name in (*FILE_OF.values(), GOLDEN_FILE, MANIFEST_FILE):
            assert (tmp_path / "read" / surface / name).read_bytes() == (
                tmp_path / "trained" / surface / name
            ).read_bytes()


def test_a_checkpoint_folder_that_is_none_is_refused(joint: JointCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"config\.json: No such file"):
        JointCheckpoint.read(tmp_path)

    joint.write(tmp_path)
    (tmp_path / "search.head.safetensors").unlink()
    with pytest.raises(UnsafeArtifact, match=r"search\.head\.safetensors: cannot be read"):
        JointCheckpoint.read(tmp_path)


def test_an_export_tells_how_often_each_feature_was_null_in_its_surfaces_training(
    joint: JointCheckpoint, tmp_path: Path
) -> None:
    export(joint, tmp_path)

    for surface in (HOME_FEED, SEARCH):
        rates = manifest_of(tmp_path / surface).config["null_rates"]
        assert isinstance(rates, dict)
        assert rates["user_dense"] == [pytest.approx(0.5, abs=0.05)]  # every second row has tenure 0
        assert rates["history"] == [pytest.approx(1 / 8, abs=0.04)]  # one length of eight is 0
        assert rates["user_categorical"][0] == pytest.approx(1 / 4, abs=0.05)
        assert rates["candidate_categorical"][0] == 0.0
        loaded = load_version(tmp_path / surface).null_rate_F
        assert loaded is not None
        assert loaded.tolist() == [rate for kind in KINDS for rate in rates[kind]]


def test_null_rates_are_no_part_of_what_identifies_a_version(joint: JointCheckpoint, tmp_path: Path) -> None:
    assert export(replace(joint, null_rates={}), tmp_path / "without") == export(joint, tmp_path / "with")

    assert load_version(tmp_path / "without" / SEARCH).null_rate_F is None


def test_a_checkpoint_of_before_null_rates_is_read_without_them(joint: JointCheckpoint, tmp_path: Path) -> None:
    joint.write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["null_rates"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert JointCheckpoint.read(tmp_path).null_rates == {}


def test_null_rates_that_fit_no_feature_are_refused_by_their_name(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)
    path = tmp_path / SEARCH / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest["config"]["null_rates"]["history"] = [2.0]
    path.write_text(json.dumps(manifest))

    with pytest.raises(InvalidManifest, match=r"config\.null_rates\.history: must be a list of 1 shares"):
        load_version(tmp_path / SEARCH)


def test_an_export_names_the_weights_that_its_calibrator_was_fitted_on(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path)

    for surface in (HOME_FEED, SEARCH):
        manifest = manifest_of(tmp_path / surface)
        assert manifest.fitted_on is not None
        assert (manifest.fitted_on.trunk, manifest.fitted_on.surface_export) == (
            manifest.version.trunk,
            manifest.version.surface_export,
        )


def test_a_calibrator_taken_from_another_checkpoint_is_not_exported(joint: JointCheckpoint, tmp_path: Path) -> None:
    other = a_joint_checkpoint(seed=1)
    mixed = replace(joint, calibrators=other.calibrators, fitted_on=weights_of(other.network))

    with pytest.raises(CalibratorMismatch, match="fit it anew"):
        export(mixed, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_before_ties_exports_without_one(joint: JointCheckpoint, tmp_path: Path) -> None:
    joint.write(tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    del config["fitted_on"]
    (tmp_path / "checkpoint/config.json").write_text(json.dumps(config))

    export(JointCheckpoint.read(tmp_path / "checkpoint"), tmp_path / "out")

    assert manifest_of(tmp_path / "out" / SEARCH).fitted_on is None


def test_recalibrating_changes_the_calibrator_alone_and_keeps_its_tie(joint: JointCheckpoint, tmp_path: Path) -> None:
    export(joint, tmp_path / "before")
    fitted = recalibrate(joint, some_examples(seed=5), after_ms=1_000_000)
    fitted.write(tmp_path / "checkpoint")

    export(JointCheckpoint.read(tmp_path / "checkpoint"), tmp_path / "after")

    for surface in (HOME_FEED, SEARCH):
        before, after = (manifest_of(tmp_path / name / surface) for name in ("before", "after"))
        assert after.version.parts_unlike(before.version) == (Part.CALIBRATOR,)
        assert after.fitted_on == before.fitted_on


def test_recalibrating_on_nothing_or_on_other_features_is_refused(joint: JointCheckpoint) -> None:
    examples = some_examples()

    with pytest.raises(InvalidField, match="leaves no row"):
        recalibrate(joint, examples, after_ms=10**15)
    with pytest.raises(InvalidField, match="features"):
        recalibrate(joint, replace(examples, spec=replace(examples.spec, history_length=3)))
