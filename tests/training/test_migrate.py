"""From one head for all to a surface added later: what is there answers as it did."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Surface, ViewType
from model_runtime.checkpoints import load_version, tensors_of
from model_runtime.networks.engagement import EngagementNetwork, HeadConfig
from model_runtime.networks.features import FeatureSpec, RowBatch, SurfaceFeatures
from model_runtime.training.data import Examples, examples_of
from model_runtime.training.evaluate import click_logits
from model_runtime.training.export import export
from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.migrate import add_surface, with_a_head_each
from model_runtime.training.train import train
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_spec
from tests.training.builders import a_config, impressions, some_examples

RELATED_PINS = Surface("related_pins")  # between home_feed and search by its name, after both in time


def three_surfaces(**overrides: object) -> FeatureSpec:
    view_types = {**a_spec().view_types, RELATED_PINS: (ViewType("below"), ViewType("beside"))}
    return replace(a_spec(), view_types=view_types, **overrides)  # type: ignore[arg-type]  # tests name real fields


def related_examples(num_rows: int = 1_500, *, spec: FeatureSpec | None = None) -> Examples:
    table = impressions(num_rows, seed=7)
    beside_N = np.random.default_rng(0).random(num_rows) < 0.5
    table = table.set_column(0, "surface", pa.array([RELATED_PINS] * num_rows))
    table = table.set_column(1, "view_type", pc.if_else(pa.array(beside_N), "beside", "below"))
    if spec is not None and spec.surface_features:
        table = table.append_column("surface_dense", pa.array([[float(row % 7)] for row in range(num_rows)]))
    return examples_of(spec or three_surfaces(), table)


@pytest.fixture(scope="module")
def joint() -> JointCheckpoint:
    return train(some_examples(), a_config(steps=6))


@pytest.fixture(scope="module")
def grown(joint: JointCheckpoint) -> JointCheckpoint:
    return add_surface(
        joint, related_examples(), RELATED_PINS, a_config(head=HeadConfig(tower_width=8, branch_widths=(4,)))
    )


def logits(network: EngagementNetwork, surface: Surface, batch: RowBatch | None = None) -> torch.Tensor:
    with torch.inference_mode():
        logit_NT: torch.Tensor = network(surface, batch or a_batch(num_users=9, num_rows=60))
        return logit_NT


def test_the_baseline_has_one_head_for_all_surfaces() -> None:
    union = train(some_examples(), a_config(steps=4, has_one_head=True))

    assert union.network.head_of(HOME_FEED) is union.network.head_of(SEARCH)
    assert union.metrics["held_out"].keys() == {HOME_FEED, SEARCH}  # type: ignore[attr-defined]  # a dict
    with pytest.raises(InvalidField, match="has_one_head: needs surfaces without"):
        train(some_examples(), a_config(has_one_head=True, heads={SEARCH: HeadConfig(tower_width=3)}))


def test_a_head_each_scores_as_the_one_head_did_and_then_they_part() -> None:
    union = train(some_examples(), a_config(steps=4, has_one_head=True)).network

    aware = with_a_head_each(union)
    trained = train(some_examples(), a_config(steps=3), start=aware).network

    for surface in (HOME_FEED, SEARCH):
        assert torch.equal(logits(aware, surface), logits(union, surface))
    assert aware.head_of(HOME_FEED) is not aware.head_of(SEARCH)
    assert tensors_of(aware.head_of(HOME_FEED)) == tensors_of(aware.head_of(SEARCH))
    assert tensors_of(trained.head_of(HOME_FEED)) != tensors_of(trained.head_of(SEARCH))


def test_a_baseline_that_was_written_and_read_has_a_head_each(tmp_path: Path) -> None:
    union = train(some_examples(), a_config(steps=4, has_one_head=True))
    union.write(tmp_path / "checkpoint")

    read = JointCheckpoint.read(tmp_path / "checkpoint")
    export(read, tmp_path / "out")

    for surface in (HOME_FEED, SEARCH):
        assert torch.equal(logits(read.network, surface), logits(union.network, surface))
    one, other = (tmp_path / "out" / surface / "surface.safetensors" for surface in (HOME_FEED, SEARCH))
    assert one.stat().st_ino == other.stat().st_ino


def test_a_surface_added_later_moves_no_score_of_those_before(joint: JointCheckpoint, grown: JointCheckpoint) -> None:
    assert grown.spec.surfaces == (HOME_FEED, RELATED_PINS, SEARCH)
    for surface in (HOME_FEED, SEARCH):
        assert torch.equal(logits(grown.network, surface), logits(joint.network, surface))
        assert tensors_of(grown.network.head_of(surface)) == tensors_of(joint.network.head_of(surface))
        assert grown.calibrators[surface] is joint.calibrators[surface]


def test_of_the_trunk_only_the_new_view_types_rows_move(joint: JointCheckpoint, grown: JointCheckpoint) -> None:
    before, after = joint.network.trunk.state_dict(), grown.network.trunk.state_dict()
    table, longer = before.pop("embedding.table"), after.pop("embedding.table")

    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert torch.equal(longer[: len(table)], table)
    assert len(longer) == len(table) + 2
    assert not torch.equal(longer[-1], longer[-2])


def test_the_added_surface_learns(joint: JointCheckpoint, grown: JointCheckpoint) -> None:
    examples = replace(related_examples(), spec=grown.spec)
    row_N = examples.rows_of(RELATED_PINS)
    learnt_N, _ = click_logits(grown.network, examples, RELATED_PINS, row_N)
    click_N = examples.label_NT[row_N, 0] > 0

    assert learnt_N[click_N].mean() > learnt_N[~click_N].mean()
    assert (1 / (1 + np.exp(-learnt_N))).mean() == pytest.approx(click_N.mean(), rel=0.2)
    assert grown.metrics["held_out"].keys() == {HOME_FEED, SEARCH, RELATED_PINS}  # type: ignore[attr-defined]


def test_exports_of_before_and_after_answer_alike_under_the_same_inputs(
    joint: JointCheckpoint, grown: JointCheckpoint, tmp_path: Path
) -> None:
    export(joint, tmp_path / "before")
    grown.write(tmp_path / "checkpoint")
    export(JointCheckpoint.read(tmp_path / "checkpoint"), tmp_path / "after")

    for surface in (HOME_FEED, SEARCH):
        before, after = (load_version(tmp_path / name / surface) for name in ("before", "after"))
        for task, score_N in before.score(a_batch(num_rows=50)).items():
            np.testing.assert_allclose(after.score(a_batch(num_rows=50))[task], score_N, atol=1e-6)
        one, other = before.manifest.version, after.manifest.version
        assert (one.feature_signature, one.surface_export) == (other.feature_signature, other.surface_export)
        assert one.calibrator == other.calibrator
    assert load_version(tmp_path / "after" / RELATED_PINS).manifest.view_types == ("below", "beside")


def test_an_added_surface_brings_features_of_its_own(joint: JointCheckpoint, tmp_path: Path) -> None:
    spec = three_surfaces(surface_features={RELATED_PINS: SurfaceFeatures(candidate_dense=("depth",))})

    grown = add_surface(joint, related_examples(spec=spec), RELATED_PINS, a_config(steps=3))
    export(grown, tmp_path)

    assert torch.equal(logits(grown.network, SEARCH), logits(joint.network, SEARCH))
    assert load_version(tmp_path / RELATED_PINS).spec.features_of(RELATED_PINS).candidate_dense == ("depth",)


def test_a_surface_that_is_there_or_unknown_or_of_other_features_is_refused(joint: JointCheckpoint) -> None:
    examples = related_examples()

    with pytest.raises(InvalidField, match="surface: search is in the checkpoint already"):
        add_surface(joint, examples, SEARCH, a_config())
    with pytest.raises(UnknownName, match="surface 'shop'"):
        add_surface(joint, examples, Surface("shop"), a_config())
    other = replace(examples, spec=replace(examples.spec, history_length=4))
    with pytest.raises(InvalidField, match="features: must be those of the checkpoint"):
        add_surface(joint, other, RELATED_PINS, a_config())
