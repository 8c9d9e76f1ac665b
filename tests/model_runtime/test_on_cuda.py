"""The same runtime on a CUDA device: kernel, profiles, graphs and engine. Skipped where there is none."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from benchmarks.gpu_run.parity import kernel_parity
from control_plane.domain.manifest import PRECISIONS
from model_runtime.buckets import shapes
from model_runtime.checkpoints import load_version
from model_runtime.kernels.choice import TOLERANCE, kernel_for, triton_kernel
from model_runtime.precision import ParityLimits
from model_runtime.profiles import serve_as
from model_runtime.residency import Residency
from model_runtime.versions import Version
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.conftest import eventually, running_runtime, set_up_home_feed

DEVICE = "cuda:0"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_triton_kernel_is_chosen_and_equals_the_reference() -> None:
    assert kernel_for(DEVICE).name == "triton"
    assert max(case.worst for case in kernel_parity(triton_kernel(), DEVICE)) <= TOLERANCE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_profile_scores_as_a_cpu_does_within_its_limits(artifacts: Artifacts, precision: str) -> None:
    prepare = partial(serve_as, precision=precision)
    version = load_version(artifacts.stable.folder, device=DEVICE, prepare=prepare)
    expected = load_version(artifacts.stable.folder).score(sound_batch())

    found = version.score(sound_batch())

    assert version.precision == precision
    limit = 1e-5 if precision == "fp32" else ParityLimits().max_delta
    for task, score_N in expected.items():
        np.testing.assert_allclose(found[task], score_N, atol=limit, rtol=0)


@pytest.mark.parametrize(("users", "rows"), [(1, 1), (1, 500), (7, 33), (32, 1_024)])
def test_graphs_replay_what_is_computed_without_them(artifacts: Artifacts, users: int, rows: int) -> None:
    version = load_version(artifacts.stable.folder, device=DEVICE, prepare=serve_as)
    batch = sound_batch(num_users=users, num_rows=max(rows, users))
    assert version.replay is not None

    replayed = version.replay(batch)

    assert replayed is not None
    computed = replace(version, replay=None).score(batch)
    np.testing.assert_allclose(replayed["click"], computed["click"], atol=1e-5, rtol=0)


def test_every_shape_has_a_graph(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder, device=DEVICE, prepare=serve_as)
    assert version.replay is not None

    for shape in shapes():
        assert version.replay(sound_batch(num_users=shape.users, num_rows=shape.rows)) is not None


def test_graphs_outlive_the_version_whose_tensors_they_share(artifacts: Artifacts) -> None:
    twin = beside_another_of_its_trunk(artifacts)
    batch = sound_batch(num_users=4, num_rows=20)
    before = twin.score(batch)["click"]

    gc.collect()
    torch.cuda.empty_cache()

    np.testing.assert_array_equal(twin.score(batch)["click"], before)


def beside_another_of_its_trunk(artifacts: Artifacts) -> Version:
    """The other one is gone when this returns."""
    residency = Residency(device=DEVICE)
    residency.start()
    residency.want({each.version_id: str(each.folder) for each in (artifacts.stable, artifacts.twin)})
    eventually(lambda: len(residency.loaded()) == 2, seconds=120)
    twin = residency.get(artifacts.twin.version_id)
    residency.stop()
    assert twin is not None
    return twin


def test_an_engine_on_cuda_answers_and_tells_its_profile(
    control_plane: str, artifacts: Artifacts, tmp_path: Path
) -> None:
    set_up_home_feed(control_plane, artifacts)

    with running_runtime(control_plane, tmp_path / "runtime", device=DEVICE, precision="tf32") as (engine, url):
        eventually(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200, seconds=120)
        told = httpx.get(f"{url}/v2/models/home_feed").json()["parameters"]
        version = engine.residency.get(artifacts.stable.version_id)
        assert version is not None
        scores = engine.scorer.score(version, sound_batch())

    assert (told["precision"], told["device"]) == ("tf32", DEVICE)
    expected = load_version(artifacts.stable.folder).score(sound_batch())
    np.testing.assert_allclose(scores.click_N, expected["click"], atol=ParityLimits().max_delta)
