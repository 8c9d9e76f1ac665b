"""Generated rows: the same bits for the same seed, clicks by the probabilities told, and histories that matter."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.features import FeatureSpec
from model_runtime.training.cli import main
from model_runtime.training.data import FEATURES_FILE, IMPRESSIONS_FILE, examples_of, read_examples
from model_runtime.training.generate import BLOCK_ROWS, GeneratorConfig, features, generate, tables
from model_runtime.training.known_truth import HIDDEN, HOME_FEED, RELATED_PINS, SEARCH, SURFACES, World
from model_runtime.training.train import train
from tests.training.builders import a_config

SMALL = GeneratorConfig(rows=60_000, num_users=2_000, num_items=500)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.concat_tables(tables(SMALL))


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    config = replace(SMALL, rows=BLOCK_ROWS + 1_000)  # two row groups
    names = ("first", "again", "other")

    for name, seed in zip(names, (3, 3, 4), strict=True):
        generate(tmp_path / name, replace(config, seed=seed))

    first, again, other = ((tmp_path / name / IMPRESSIONS_FILE).read_bytes() for name in names)
    assert first == again
    assert first != other
    assert pq.ParquetFile(tmp_path / "first" / IMPRESSIONS_FILE).num_row_groups == 2


def test_what_is_written_is_read_as_training_data(tmp_path: Path) -> None:
    rows = generate(tmp_path, replace(SMALL, rows=5_000))

    examples = read_examples(tmp_path)

    assert examples.num_rows == rows == 5_000
    assert examples.spec == features(SMALL)
    assert examples.spec == FeatureSpec.from_json(json.loads((tmp_path / FEATURES_FILE).read_text()))
    assert examples.true_click_N is not None
    assert [path.name for path in sorted(tmp_path.iterdir())] == [FEATURES_FILE, IMPRESSIONS_FILE]


def test_clicks_come_as_often_as_their_probabilities_say_in_every_tenth_of_them(table: pa.Table) -> None:
    true_N, click_N = table["true_click"].to_numpy(), table["click"].to_numpy().astype(float)

    for part in np.array_split(np.argsort(true_N), 10):
        expected, spread = true_N[part].sum(), np.sqrt((true_N[part] * (1 - true_N[part])).sum())
        assert abs(click_N[part].sum() - expected) < 4 * spread


def test_base_rates_differ_by_surface_and_view_types_move_when_layouts_change(table: pa.Table) -> None:
    rates: dict[tuple[str, str, bool], float] = {
        (surface, view_type, is_later): _mean(table, surface, view_type, is_later)
        for surface, told in SURFACES.items()
        for view_type in told.view_types
        for is_later in (False, True)
    }

    assert rates[SEARCH, "grid", False] > 1.5 * rates[HOME_FEED, "grid", False]
    assert rates[RELATED_PINS, "grid", False] < 0.9 * rates[HOME_FEED, "grid", False]
    for surface, told in SURFACES.items():
        for view_type, truth in told.view_types.items():
            ratio = rates[surface, view_type, True] / rates[surface, view_type, False]
            assert (ratio > 1) == (truth.later > 0), (surface, view_type)


def _mean(table: pa.Table, surface: str, view_type: str, is_later: bool) -> float:
    at = pc.and_(pc.equal(table["surface"], surface), pc.equal(table["view_type"], view_type))
    after = pc.greater_equal(table["served_at_ms"], SMALL.changes_at_ms)
    return float(pc.mean(table.filter(pc.and_(at, after if is_later else pc.invert(after)))["true_click"]).as_py())


def test_rows_come_in_the_order_of_time_and_labels_later_than_they_were_served(table: pa.Table) -> None:
    served_N = table["served_at_ms"].to_numpy()

    assert (np.diff(served_N) >= 0).all()
    for label, mean_ms in (("click", 20_000), ("hide", 3_600_000)):
        delay_N = table[f"{label}_at_ms"].to_numpy() - served_N
        is_set_N = table[label].to_numpy()
        assert np.isnan(delay_N[~is_set_N]).all()
        assert delay_N[is_set_N].min() >= 0
        assert delay_N[is_set_N].mean() == pytest.approx(mean_ms, rel=0.2)
    good_N, click_N = table["good_click"].to_numpy(), table["click"].to_numpy()
    assert not (good_N & ~click_N).any()


def test_the_history_decides_much_of_a_click_and_nothing_else_tells_what_it_does() -> None:
    world = World(seed=1, num_items=500, history_length=16)
    user_Q = np.arange(4_000)
    users = world.users(user_Q, np.full(4_000, 10**12))
    later = world.users(user_Q, np.full(4_000, 10**12 + 10 * 86_400_000))
    item_Q1 = np.random.default_rng(0).integers(1, 500, (4_000, 1))

    affinity_Q = world.affinity(users, item_Q1)[:, 0]

    assert affinity_Q.std() > 0.3
    assert (users.age_Q == later.age_Q).all()
    assert (users.history_QL != later.history_QL).any(axis=1).mean() > 0.8
    assert not affinity_Q[(users.history_QL == 0).all(axis=1)].any()
    tired = users.action_QL == HIDDEN
    assert affinity_Q[affinity_Q < 0].size > 100
    assert 0.15 < tired.sum() / (users.history_QL != 0).sum() < 0.35


@pytest.mark.parametrize("surface", SURFACES)
def test_each_surface_trains_alone_whatever_it_has_of_its_own(surface: Surface, tmp_path: Path) -> None:
    generate(tmp_path, replace(SMALL, rows=4_000))

    joint = train(read_examples(tmp_path, surfaces=[surface]), a_config(steps=2))

    assert list(joint.calibrators) == [surface]


def test_values_lack_as_often_as_asked() -> None:
    config = replace(SMALL, rows=20_000, null_rate=0.2)

    examples = examples_of(features(config), pa.concat_tables(tables(config)))

    rows = examples.rows
    assert (rows.candidate_categorical_NC[:, 1] == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (rows.user_categorical_UC[rows.user_index_N, 0] == 0).mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rows", "0", "rows: must be at least 1, not 0"),
        ("--seed", "-1", "seed: must be at least 0, not -1"),
        ("--null-rate", "2", "null_rate: must be a share from 0 to 1, not 2.0"),
        ("--rows-per-request", "99999", "rows_per_request: must be 1 to 32768, not 99999"),
    ],
)
def test_a_senseless_option_is_one_line(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--out", str(tmp_path / "out"), option, value]) == 1

    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_the_command_tells_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--out", str(tmp_path), "--rows", "70001"]) == 0

    printed = capsys.readouterr()
    assert printed.out == f"70004 impressions in {tmp_path}\n"
    assert "drawing: 32768 of 70004 rows" in printed.err
    with pytest.raises(InvalidField, match="num_items"):
        replace(SMALL, num_items=3)
