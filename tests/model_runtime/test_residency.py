import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_runtime import residency as residency_module
from model_runtime.residency import Residency, folder_of
from tests.model_runtime.artifacts import Artifact, Artifacts
from tests.model_runtime.conftest import eventually


@pytest.fixture
def residency() -> Iterator[Residency]:
    residency = Residency()
    residency.start()
    yield residency
    residency.stop()


def want(residency: Residency, *artifacts: Artifact) -> None:
    """Name them, and wait until each is loaded or known not to load."""
    residency.want({each.version_id: str(each.folder) for each in artifacts})
    eventually(lambda: all(residency.is_settled(each.version_id) for each in artifacts))


def test_wanted_versions_are_loaded_in_the_background(residency: Residency, artifacts: Artifacts) -> None:
    want(residency, artifacts.stable, artifacts.candidate)

    assert set(residency.loaded()) == {artifacts.stable.version_id, artifacts.candidate.version_id}


def test_versions_of_one_trunk_share_it_in_memory(residency: Residency, artifacts: Artifacts) -> None:
    want(residency, artifacts.stable, artifacts.twin)

    stable, twin = (residency.get(each.version_id) for each in (artifacts.stable, artifacts.twin))
    assert stable is not None
    assert twin is not None
    assert stable.trunk is twin.trunk


def test_a_version_that_does_not_load_is_told_and_harms_none(
    residency: Residency, artifacts: Artifacts, tmp_path: Path
) -> None:
    damaged = Artifact(folder=tmp_path / "damaged", version_id=artifacts.candidate.version_id)
    shutil.copytree(artifacts.candidate.folder, damaged.folder)
    with (damaged.folder / "surface.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    want(residency, artifacts.stable)

    want(residency, artifacts.stable, damaged)

    assert residency.loaded() == (artifacts.stable.version_id,)
    assert "digest" in residency.failures()[damaged.version_id]


def test_a_folder_that_holds_another_version_is_a_failure(residency: Residency, artifacts: Artifacts) -> None:
    mislabelled = Artifact(folder=artifacts.stable.folder, version_id=artifacts.candidate.version_id)

    want(residency, mislabelled)

    assert artifacts.stable.version_id in residency.failures()[mislabelled.version_id]
    assert residency.loaded() == ()


def test_a_version_without_an_artifact_is_a_failure(residency: Residency, artifacts: Artifacts) -> None:
    residency.want({artifacts.stable.version_id: ""})

    eventually(residency.failures)

    assert "names no artifact" in residency.failures()[artifacts.stable.version_id]


def test_a_failed_version_is_tried_again(
    residency: Residency, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency_module, "RETRY_SECONDS", 0.05)
    late = Artifact(folder=tmp_path / "late", version_id=artifacts.stable.version_id)
    want(residency, late)
    assert residency.failures()

    shutil.copytree(artifacts.stable.folder, late.folder)

    eventually(lambda: residency.get(late.version_id))
    assert not residency.failures()


def test_a_version_no_longer_named_stays_for_the_way_back(residency: Residency, artifacts: Artifacts) -> None:
    want(residency, artifacts.stable, artifacts.candidate)

    want(residency, artifacts.candidate)

    assert residency.get(artifacts.stable.version_id) is not None


def test_what_was_not_named_for_longest_goes_first(residency: Residency, artifacts: Artifacts) -> None:
    everything = (artifacts.stable, artifacts.candidate, artifacts.poisoned, artifacts.foreign)
    for each in everything:
        want(residency, each)

    assert set(residency.loaded()) == {each.version_id for each in everything[1:]}


def test_trunks_go_with_the_last_version_that_used_them(residency: Residency, artifacts: Artifacts) -> None:
    for each in (artifacts.stable, artifacts.candidate, artifacts.poisoned, artifacts.foreign):
        want(residency, each)

    trunks = {id(version.trunk) for v in residency.loaded() if (version := residency.get(v)) is not None}
    assert {id(trunk) for trunk in residency.trunks()} == trunks


def test_settling_is_told(artifacts: Artifacts) -> None:
    told: list[bool] = []
    residency = Residency(on_settled=lambda: told.append(True))
    residency.start()

    want(residency, artifacts.stable)
    residency.stop()

    assert told


@pytest.mark.parametrize("uri", ["/models/a b", "file:///models/a%20b"])
def test_an_artifact_is_named_by_path_or_file_url(uri: str) -> None:
    assert folder_of(uri) == Path("/models/a b")


def test_a_version_that_was_moved_is_loaded_at_once_from_where_it_is_now(
    residency: Residency, artifacts: Artifacts, tmp_path: Path
) -> None:
    gone = Artifact(folder=tmp_path / "gone", version_id=artifacts.stable.version_id)
    want(residency, gone)
    assert residency.failures().keys() == {gone.version_id}

    residency.want({artifacts.stable.version_id: str(artifacts.stable.folder)})

    eventually(lambda: residency.get(artifacts.stable.version_id) is not None)
    assert residency.failures() == {}
