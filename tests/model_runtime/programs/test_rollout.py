"""A program of the user's own beside the unified network: registered, shadowed, rolled out, taken back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.split import Arm
from model_runtime.programs.loaded import LoadedProgram
from model_runtime.versions import load_version
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.conftest import eventually
from tests.model_runtime.programs.own import export_own
from tests.model_runtime.test_server import (
    INFER,
    Running,
    as_binary,
    command,
    outputs_of,
    serving_home_feed,
    start_ramp,
    tensors_of,
)
from tests.networks.builders import HOME_FEED


@pytest.fixture
def running(artifacts: Artifacts, tmp_path: Path) -> Iterator[Running]:
    with serving_home_feed(artifacts, tmp_path) as running:
        yield running


@pytest.fixture
def own(running: Running, tmp_path: Path) -> VersionId:
    """Registered as any version is: the control plane reads digests, and knows nothing of networks."""
    version_id = export_own(tmp_path / "own")
    answer = running.control_plane.post("/v1/versions", json={"artifact_uri": str(tmp_path / "own" / HOME_FEED)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["version_id"] == version_id
    return version_id


def test_a_program_is_shadowed_ramped_and_becomes_stable(running: Running, own: VersionId, tmp_path: Path) -> None:
    batch = sound_batch()
    body, headers = as_binary(tensors_of(batch), parameters={"show": 1})
    rollout_id = start_ramp(running, own)

    command(running, rollout_id, "start")
    eventually(lambda: own in running.engine.residency.loaded())
    command(running, rollout_id, "advance")
    in_shadow = outputs_of(running.http.post(INFER, content=body, headers=headers))
    running.http.post("/v1/flush").raise_for_status()
    logged_in_shadow = running.engine.sink.counts().accepted
    command(running, rollout_id, "skip")
    at_half = outputs_of(running.http.post(INFER, content=body, headers=headers))
    for name in ("skip", "skip"):
        command(running, rollout_id, name)
    surface = running.control_plane.get("/v1/surfaces/home_feed").json()
    after = outputs_of(running.http.post(INFER, content=body, headers=headers))

    assert isinstance(running.engine.residency.get(own), LoadedProgram)
    assert not in_shadow["arm"].any()
    assert logged_in_shadow == 80  # each impression by stable, and once more by its shadow
    expected_N = load_version(tmp_path / "own" / HOME_FEED).score(batch)["click"]
    stable_N = in_shadow["click"]
    is_own_N = at_half["arm"][batch.user_index_N] == Arm.CANDIDATE
    assert 5 < at_half["arm"].sum() < 35
    np.testing.assert_allclose(at_half["click"][is_own_N], expected_N[is_own_N], atol=1e-6)
    np.testing.assert_allclose(at_half["click"][~is_own_N], stable_N[~is_own_N], atol=1e-6)
    np.testing.assert_allclose(after["click"], expected_N, atol=1e-6)
    assert surface["stable"] == own


def test_a_program_is_taken_back_like_any_candidate(running: Running, own: VersionId) -> None:
    body, headers = as_binary(tensors_of(sound_batch()), parameters={"show": 1})
    rollout_id = start_ramp(running, own)
    for name in ("start", "advance", "skip"):
        command(running, rollout_id, name)
    ramping = outputs_of(running.http.post(INFER, content=body, headers=headers))

    command(running, rollout_id, "roll_back")
    back = outputs_of(running.http.post(INFER, content=body, headers=headers))

    assert ramping["arm"].any()
    assert not back["arm"].any()


def test_the_doors_of_the_runtime_tell_of_a_program_as_of_any_version(running: Running, own: VersionId) -> None:
    rollout_id = start_ramp(running, own)
    command(running, rollout_id, "start")
    eventually(lambda: own in running.engine.residency.loaded())

    path = f"/v2/models/{Surface('home_feed')}/versions/{own}"
    named = outputs_of(
        running.http.post(
            f"{path}/infer",
            content=as_binary(tensors_of(sound_batch()))[0],
            headers=as_binary(tensors_of(sound_batch()))[1],
        )
    )

    assert named["click"].shape == (120,)
    assert running.http.get(path).status_code == 200
    assert running.http.get(f"{path}/stats").status_code == 200
    assert f'surefoot_runtime_loaded{{surface="home_feed",version="{own}"}} 1.0' in running.http.get("/metrics").text
