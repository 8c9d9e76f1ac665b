"""The commands of the training side, end to end on a small data set."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from control_plane.domain.manifest import FILE_OF, Manifest
from control_plane.domain.model_version import Part
from model_runtime.checkpoints import load_version
from model_runtime.training.cli import main
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_spec
from tests.training.builders import impressions


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(impressions(), folder / IMPRESSIONS_FILE)
    (folder / FEATURES_FILE).write_text(json.dumps(a_spec().to_json()))
    return folder


def test_train_and_export_give_versions_that_load(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "export"

    assert main(["train", "--data", str(data), "--out", str(checkpoint), "--seed", "5", "--steps", "2"]) == 0
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out)]) == 0

    printed = capsys.readouterr()
    loaded = load_version(out / SEARCH)
    assert loaded.version_id in printed.out
    assert "step 2 of 2" in printed.err
    for word in ("NE", "AUC", "calibration", "closeup", "third"):
        assert word in printed.out
    assert loaded.score(a_batch())["click"].shape == (12,)
    assert not any(path.suffix in {".pt", ".pkl", ".bin"} for path in tmp_path.rglob("*"))


def test_faults_are_put_in_by_name(data: Path, tmp_path: Path) -> None:
    checkpoint, sound, faulted = (tmp_path / name for name in ("checkpoint", "sound", "faulted"))
    main(["train", "--data", str(data), "--out", str(checkpoint), "--steps", "1"])
    main(["export", "--checkpoint", str(checkpoint), "--out", str(sound)])

    faults = ["--fault", "search.calibrator=1.13", "--fault", "trunk=scramble"]
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(faulted), *faults]) == 0

    differ = {
        (surface, part)
        for surface in (HOME_FEED, SEARCH)
        for part in FILE_OF
        if _digest(sound / surface, part) != _digest(faulted / surface, part)
    }
    assert differ == {(HOME_FEED, Part.TRUNK), (SEARCH, Part.TRUNK), (SEARCH, Part.CALIBRATOR)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["open-bandit", "--wheel", "none.whl", "--out", "out"], "wheel: cannot be read"),
        (["train", "--data", "nowhere", "--out", "out"], "features.json: cannot be read"),
        (["train", "--data", "nowhere", "--out", "out", "--epochs", "0"], "epochs: must be at least 1"),
        (["export", "--checkpoint", "nowhere", "--out", "out"], "checkpoint: cannot be read"),
    ],
)
def test_an_error_is_one_line_and_exit_code_one(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 1

    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_fault_changes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    main(["train", "--data", str(data), "--out", str(checkpoint), "--steps", "1"])

    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--fault", "x=1"]) == 1

    assert "fault: must be SURFACE.calibrator=FACTOR or trunk=scramble, not 'x=1'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _digest(folder: Path, part: Part) -> str:
    return Manifest.from_json((folder / "manifest.json").read_bytes()).version.digest_of_part(part)


def test_a_recalibrated_checkpoint_exports_as_a_calibrator_only_candidate(data: Path, tmp_path: Path) -> None:
    checkpoint, fitted = tmp_path / "checkpoint", tmp_path / "fitted"
    main(["train", "--data", str(data), "--out", str(checkpoint), "--steps", "1"])

    arguments = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(fitted), "--after-ms", "1500000"]
    assert main(["recalibrate", *arguments]) == 0

    for folder in (checkpoint, fitted):
        assert main(["export", "--checkpoint", str(folder), "--out", str(tmp_path / f"{folder.name}-export")]) == 0
    differ = {
        part
        for part in FILE_OF
        if _digest(tmp_path / "checkpoint-export" / SEARCH, part) != _digest(tmp_path / "fitted-export" / SEARCH, part)
    }
    assert differ == {Part.CALIBRATOR}


def test_a_checkpoint_is_calibrated_anew_on_logs_that_have_more_surfaces_or_had_them_in_another_order(
    data: Path, tmp_path: Path
) -> None:
    first, grown = tmp_path / "first", tmp_path / "grown"
    on_data = ["--data", str(data), "--steps", "1"]
    main(["train", *on_data, "--out", str(first), "--surfaces", SEARCH])
    main(["add-surface", *on_data, "--checkpoint", str(first), "--surface", HOME_FEED, "--out", str(grown)])

    for checkpoint in (first, grown):
        fitted = tmp_path / f"{checkpoint.name}-fitted"
        arguments = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(fitted)]
        assert main(["recalibrate", *arguments]) == 0
