"""Profiles of real exports on a CPU: what they change, what they are refused for, and that they share what they can."""

import copy
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from control_plane.domain.manifest import PRECISIONS
from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.networks.features import RowBatch
from model_runtime.precision import ParityLimits
from model_runtime.profiles import embedding_bytes, serve_as
from model_runtime.residency import Residency
from tests.model_runtime.artifacts import Artifact, Artifacts, sound_batch
from tests.model_runtime.conftest import eventually


def served(artifact: Artifact, precision: str, limits: ParityLimits | None = None) -> LoadedVersion:
    return load_version(artifact.folder, prepare=partial(serve_as, precision=precision, limits=limits))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_profile_scores_within_its_limits_of_fp32(artifacts: Artifacts, precision: str) -> None:
    batch = sound_batch(num_rows=500)
    expected = load_version(artifacts.stable.folder).score(batch)

    version = served(artifacts.stable, precision)

    assert version.precision == precision
    assert not version.refused
    found = version.score(batch)
    for task, score_N in expected.items():
        assert found[task].dtype == np.float32
        np.testing.assert_allclose(found[task], score_N, atol=ParityLimits().max_delta)


def test_tf32_is_fp32_on_a_cpu_and_says_so(artifacts: Artifacts) -> None:
    version = served(artifacts.stable, "tf32")

    assert version.parity is not None
    assert version.parity.max_delta == 0.0
    assert version.parity.note == "cpu has no TF32: the same as fp32"


@pytest.mark.parametrize("precision", ["bf16", "int8_rows"])
def test_a_profile_that_changes_numbers_tells_by_how_much(artifacts: Artifacts, precision: str) -> None:
    card = served(artifacts.stable, precision).parity

    assert card is not None
    assert 0.0 < card.max_delta < 0.01
    assert 0.0 < card.calibration_shift < 0.005
    assert card.rows == card.users * 12  # every golden user with every golden candidate


def test_a_profile_beyond_the_limits_is_refused_with_its_figures_and_fp32_serves(
    artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        version = served(artifacts.stable, "bf16", ParityLimits(max_delta=1e-9))

    assert version.precision == "fp32"
    assert "bf16 differs from fp32 too much on 48 rows of 4 users on cpu: max_delta is " in version.refused
    assert "at most 1e-09 is let through" in version.refused
    assert version.refused in caplog.text
    batch = sound_batch()
    expected = load_version(artifacts.stable.folder).score(batch)
    np.testing.assert_array_equal(version.score(batch)["click"], expected["click"])


def test_a_version_whose_scores_are_steep_is_refused_in_bf16_by_the_usual_limits(artifacts: Artifacts) -> None:
    verified, golden = load_with_golden(artifacts.stable.folder)
    head = copy.deepcopy(verified.head)
    head.weight_TG.mul_(3_000.0)  # a step of bf16 is now a step of the logit, too

    served = serve_as(replace(verified, head=head), golden, precision="bf16")

    assert served.precision == "fp32"
    assert "calibration_shift is 0.03" in served.refused


def test_int8_rows_take_the_memory_that_they_tell(artifacts: Artifacts) -> None:
    plain, version = load_version(artifacts.stable.folder), served(artifacts.stable, "int8_rows")

    rows, width = plain.trunk.embedding.table.shape
    assert embedding_bytes(plain.trunk) == rows * width * 4
    assert embedding_bytes(version.trunk) == rows * (width + 8)


def test_the_manifest_names_the_profile_unless_a_person_does(artifacts: Artifacts) -> None:
    verified, golden = load_with_golden(artifacts.stable.folder)
    assert verified.manifest.serving is not None
    manifest = replace(verified.manifest, serving=replace(verified.manifest.serving, precision="bf16"))
    exported = replace(verified, manifest=manifest)

    assert serve_as(exported, golden).precision == "bf16"
    assert serve_as(exported, golden, precision="fp32").precision == "fp32"


def test_activations_are_read_only_by_versions_of_the_same_profile(artifacts: Artifacts) -> None:
    stable, twin = served(artifacts.stable, "bf16"), served(artifacts.twin, "bf16")

    assert twin.reads_activations_of(stable)
    assert not served(artifacts.twin, "fp32").reads_activations_of(stable)
    assert not served(artifacts.twin, "tf32").reads_activations_of(stable)
    activations = stable.activations(sound_batch())
    expected = twin.score(sound_batch())["click"]
    np.testing.assert_allclose(twin.score_shared(*activations)["click"], expected, atol=1e-6)


def test_gates_are_seen_in_numbers_that_can_be_counted(artifacts: Artifacts) -> None:
    seen = []

    served(artifacts.stable, "bf16").score(sound_batch(), observe=lambda batch, gate_NTK: seen.append(gate_NTK))

    assert seen[0].dtype == np.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_versions_of_one_trunk_share_it_in_every_profile(artifacts: Artifacts, precision: str) -> None:
    residency = Residency(precision=precision)
    residency.start()
    try:
        for wanted in ((artifacts.stable,), (artifacts.stable, artifacts.twin)):
            residency.want({each.version_id: str(each.folder) for each in wanted})
            eventually(partial(all_are_loaded, residency, wanted))
        stable, twin = (residency.get(each.version_id) for each in (artifacts.stable, artifacts.twin))
        assert stable is not None
        assert twin is not None
        assert stable.precision == twin.precision == precision
        assert stable.trunk is twin.trunk
        assert residency.trunks() == (stable.trunk,)
    finally:
        residency.stop()


def test_no_profile_leaves_a_flag_behind(artifacts: Artifacts) -> None:
    before = torch.get_float32_matmul_precision()

    for precision in PRECISIONS:
        served(artifacts.stable, precision).score(sound_batch())

    assert torch.get_float32_matmul_precision() == before
    assert not torch.is_autocast_enabled("cpu")


def all_are_loaded(residency: Residency, wanted: tuple[Artifact, ...]) -> bool:
    return all(residency.get(each.version_id) for each in wanted)


def load_with_golden(folder: Path) -> tuple[LoadedVersion, RowBatch]:
    kept: list[RowBatch] = []

    def keep(verified: LoadedVersion, golden: RowBatch) -> LoadedVersion:
        kept.append(golden)
        return verified

    return load_version(folder, prepare=keep), kept[0]
