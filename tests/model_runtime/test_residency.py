import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from model_runtime import memory
from model_runtime import residency as residency_module
from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.residency import Residency, folder_of
from tests.model_runtime.artifacts import Artifact, Artifacts, sound_batch
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


def weights_of(*artifacts: Artifact) -> int:
    """Bytes of the versions' files, those of one trunk once."""
    files = {path.read_bytes() for each in artifacts for path in each.folder.glob("*.safetensors")}
    goldens = {(each.folder / "golden.safetensors").read_bytes() for each in artifacts}
    return sum(map(len, files - goldens))


def test_versions_hold_once_what_they_hold_alike(residency: Residency, artifacts: Artifacts) -> None:
    want(residency, artifacts.stable, artifacts.twin, artifacts.sibling)

    stable, twin, sibling = (
        residency.get(each.version_id) for each in (artifacts.stable, artifacts.twin, artifacts.sibling)
    )
    assert isinstance(stable, LoadedVersion)
    assert isinstance(twin, LoadedVersion)
    assert isinstance(sibling, LoadedVersion)
    assert pointers(twin.head) == pointers(stable.head)
    assert pointers(twin.calibrator) != pointers(stable.calibrator)
    assert pointers(sibling.calibrator) == pointers(stable.calibrator)
    assert pointers(sibling.head) != pointers(stable.head)
    for each in (artifacts.stable, artifacts.twin, artifacts.sibling):
        loaded, fresh = residency.get(each.version_id), load_version(each.folder)
        assert loaded is not None
        np.testing.assert_array_equal(loaded.score(sound_batch())["click"], fresh.score(sound_batch())["click"])


def pointers(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in module.state_dict().values() if tensor.numel()}


def test_a_version_beyond_the_budget_is_refused_and_harms_none(artifacts: Artifacts) -> None:
    residency = Residency(budget_bytes=weights_of(artifacts.stable, artifacts.candidate) - 10_000)
    residency.start()
    want(residency, artifacts.stable)

    want(residency, artifacts.stable, artifacts.candidate)
    residency.stop()

    assert residency.loaded() == (artifacts.stable.version_id,)
    assert "does not fit" in residency.failures()[artifacts.candidate.version_id]


def test_a_version_of_a_trunk_in_memory_takes_no_more_than_what_differs(artifacts: Artifacts) -> None:
    residency = Residency(budget_bytes=weights_of(artifacts.stable, artifacts.twin, artifacts.sibling))
    residency.start()

    want(residency, artifacts.stable, artifacts.twin, artifacts.sibling)
    residency.stop()

    assert len(residency.loaded()) == 3
    assert residency.held_bytes() <= weights_of(artifacts.stable, artifacts.twin, artifacts.sibling)


def test_what_nobody_names_makes_room_for_what_somebody_does(artifacts: Artifacts) -> None:
    residency = Residency(budget_bytes=weights_of(artifacts.stable, artifacts.candidate))
    residency.start()
    want(residency, artifacts.stable)
    want(residency, artifacts.candidate)

    want(residency, artifacts.poisoned, artifacts.candidate)
    residency.stop()

    assert set(residency.loaded()) == {artifacts.poisoned.version_id, artifacts.candidate.version_id}
    assert residency.failures() == {}


def test_a_version_for_which_the_machine_has_no_memory_is_not_begun_with(
    residency: Residency, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "left_bytes", lambda: 1_000)
    monkeypatch.setattr(residency_module, "load_version", lambda *_, **__: pytest.fail("it was begun with"))

    want(residency, artifacts.stable)

    assert "does not fit" in residency.failures()[artifacts.stable.version_id]


def test_what_was_pinned_by_hand_stays_until_it_is_let_go(residency: Residency, artifacts: Artifacts) -> None:
    by_hand = artifacts.candidate.version_id
    assert residency.pin({by_hand: str(artifacts.candidate.folder)}, timeout_seconds=20.0) == {}

    want(residency, artifacts.stable)
    assert residency.get(by_hand) is not None

    residency.unpin([by_hand])
    assert residency.loaded() == (artifacts.stable.version_id,)


def test_a_pin_that_does_not_load_tells_why_and_is_forgotten(
    residency: Residency, artifacts: Artifacts, tmp_path: Path
) -> None:
    by_hand = artifacts.candidate.version_id

    reasons = residency.pin({by_hand: str(tmp_path)}, timeout_seconds=20.0)

    assert "manifest" in reasons[by_hand]
    assert residency.pinned() == frozenset()


def test_unpinning_what_a_split_names_as_well_leaves_it_in_memory(residency: Residency, artifacts: Artifacts) -> None:
    stable = artifacts.stable.version_id
    want(residency, artifacts.stable)
    residency.pin({stable: str(artifacts.stable.folder)}, timeout_seconds=20.0)

    residency.unpin([stable])

    assert residency.get(stable) is not None


def test_a_reader_never_waits_for_a_load(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load, loads = threading.Event(), threading.Event()

    def held_up(*args: Any, **options: Any) -> LoadedVersion:
        loads.set()
        assert may_load.wait(20.0)
        return load_version(*args, **options)

    residency = Residency()
    residency.start()
    want(residency, artifacts.stable)
    monkeypatch.setattr(residency_module, "load_version", held_up)
    residency.want({each.version_id: str(each.folder) for each in (artifacts.stable, artifacts.candidate)})
    assert loads.wait(20.0)

    started = time.perf_counter()
    for _ in range(1_000):
        assert residency.get(artifacts.stable.version_id) is not None
    assert residency.loaded() == (artifacts.stable.version_id,)
    took = time.perf_counter() - started

    may_load.set()
    eventually(lambda: len(residency.loaded()) == 2)
    residency.stop()
    assert took < 1.0
