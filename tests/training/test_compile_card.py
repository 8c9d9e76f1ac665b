"""What a compile card says, and what a runtime makes of it. The compiler takes a minute: it is in one slow test."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from control_plane.domain.errors import InvalidManifest
from control_plane.domain.manifest import CompileCard, Manifest
from model_runtime.buckets import Shape
from model_runtime.checkpoints import LoadedVersion
from model_runtime.fixed_forwards import FixedForwards, Make, Run, as_is, compiled, with_compiled
from model_runtime.training.compile_card import compile_card
from tests.model_runtime.artifacts import export_all
from tests.model_runtime.rich_versions import a_rich_version
from tests.networks.builders import HOME_FEED, a_rich_batch


@pytest.fixture(scope="module")
def version() -> LoadedVersion:
    return a_rich_version(HOME_FEED)


def a_card(**overrides: object) -> CompileCard:
    fields: dict[str, object] = {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "users": 1,
        "rows": 512,
        "eager_ms": 3.0,
        "compiled_ms": 2.0,
        "compile_seconds": 40.0,
    }
    return CompileCard(**{**fields, **overrides})  # type: ignore[arg-type]  # tests name real fields


def slowed(compute: Run) -> Run:
    def run() -> torch.Tensor:
        time.sleep(0.02)
        return compute()

    return run


def refusing(compute: Run) -> Run:
    raise RuntimeError("no C++ compiler")


def test_a_card_tells_both_times_and_a_slower_one_is_not_used(version: LoadedVersion) -> None:
    card = compile_card(version, a_rich_batch(HOME_FEED), make=slowed)

    assert card.compiled_ms is not None
    assert card.compiled_ms > 20.0
    assert card.eager_ms > 0.0
    assert not card.is_faster
    assert with_compiled(version, a_rich_batch(HOME_FEED), card, make=as_is).replay is None


@pytest.mark.parametrize("make", [refusing, lambda compute: lambda: compute() + 0.01])
def test_what_does_not_compile_or_changes_scores_has_no_time(version: LoadedVersion, make: Make) -> None:
    card = compile_card(version, a_rich_batch(HOME_FEED), make=make)

    assert card.compiled_ms is None
    assert not card.is_faster


def test_a_faster_one_is_compiled_for_its_shape_alone(version: LoadedVersion) -> None:
    served = with_compiled(version, a_rich_batch(HOME_FEED), a_card(), make=as_is)

    assert served.replay is not None
    assert served.replay(a_rich_batch(HOME_FEED, num_users=1, num_rows=500)) is not None
    assert served.replay(a_rich_batch(HOME_FEED, num_users=2, num_rows=500)) is None


@pytest.mark.parametrize(
    "other", [{"device": "cuda"}, {"threads": 64}, {"compiled_ms": 2.9}, {"compiled_ms": None}, {"users": 1_000}]
)
def test_a_card_of_another_machine_or_without_gain_compiles_nothing(
    version: LoadedVersion, other: dict[str, object]
) -> None:
    assert with_compiled(version, a_rich_batch(HOME_FEED), a_card(**other), make=as_is).replay is None


def test_a_runtime_without_a_compiler_serves_as_ever(version: LoadedVersion) -> None:
    assert with_compiled(version, a_rich_batch(HOME_FEED), a_card(), make=refusing).replay is None


def test_a_card_is_read_back_from_its_manifest(artifact_manifest: Manifest) -> None:
    assert artifact_manifest.serving is not None
    told = replace(artifact_manifest, serving=replace(artifact_manifest.serving, compiled=a_card()))

    assert Manifest.from_json(told.to_json()) == told


def test_a_card_that_is_malformed_is_named(artifact_manifest: Manifest) -> None:
    assert artifact_manifest.serving is not None
    told = replace(artifact_manifest, serving=replace(artifact_manifest.serving, compiled=a_card(rows=0)))

    with pytest.raises(InvalidManifest, match=r"serving\.compiled\.rows"):
        Manifest.from_json(told.to_json())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_forward_has_the_same_scores(version: LoadedVersion) -> None:
    batch = a_rich_batch(HOME_FEED, num_users=1, num_rows=60)

    found = FixedForwards(version, compiled, wanted=[Shape(1, 64)]).score(batch)

    assert found is not None
    np.testing.assert_allclose(found["click"], version.score(batch)["click"], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def artifact_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder: Path = export_all(tmp_path_factory.mktemp("artifacts")).stable.folder
    return Manifest.from_json((folder / "manifest.json").read_bytes())
