"""All that a surface may have: multi-hot, actions, candidates' attention, tower trees, features of its own."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface, ViewType
from model_runtime.networks.attention import AttentionConfig
from model_runtime.networks.engagement import (
    EngagementNetwork,
    HeadConfig,
    Trunk,
    TrunkConfig,
    UserSide,
    first_context,
    read_config,
    to_tensors,
)
from model_runtime.networks.features import FeatureSpec, FloatArray, IntArray, RowBatch, SurfaceFeatures, check_batch
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_rich_batch, a_rich_spec, a_spec

TOLERANCE = 1e-6
RICH_TRUNK = TrunkConfig(attention=AttentionConfig(width=8, num_heads=2))
TREE = HeadConfig(tower_width=8, root_widths=(6,), branch_widths=(5, 4))
RELATED_PINS = Surface("related_pins")


def a_rich_network(seed: int = 0) -> EngagementNetwork:
    torch.manual_seed(seed)
    network = EngagementNetwork(a_rich_spec(), RICH_TRUNK, {HOME_FEED: HeadConfig(), SEARCH: TREE})
    with torch.no_grad():
        for weight in network.parameters():  # also those that start at zero, so that every path carries signal
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def probabilities(network: EngagementNetwork, batch: RowBatch, surface: Surface) -> Tensor:
    with torch.inference_mode():
        probability_NT: Tensor = network(surface, check_batch(network.spec, surface, batch)).sigmoid()
        return probability_NT


def one_row(batch: RowBatch, row: int) -> RowBatch:
    user = slice(batch.user_index_N[row], batch.user_index_N[row] + 1)
    return replace(
        batch.take(np.array([row])),
        user_categorical_UC=batch.user_categorical_UC[user],
        user_dense_UD=batch.user_dense_UD[user],
        history_UL=batch.history_UL[user],
        user_multi_hot_UM=batch.user_multi_hot_UM[user],
        history_action_UL=batch.history_action_UL[user],
        user_index_N=np.zeros(1, np.int64),
    )


@pytest.mark.parametrize("surface", [HOME_FEED, SEARCH])
@pytest.mark.parametrize("num_users", [1, 7, 40])
def test_rows_grouped_by_user_score_as_if_each_came_alone(surface: Surface, num_users: int) -> None:
    network, batch = a_rich_network(), a_rich_batch(surface, num_users=num_users, num_rows=40)

    together = probabilities(network, batch, surface)
    alone = torch.cat([probabilities(network, one_row(batch, row), surface) for row in range(40)])

    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("user_multi_hot_UM", np.array([[0, 0, 0, 0, 3]])),
        ("candidate_multi_hot_NM", np.array([[0, 8, 0, 1]])),
        ("history_action_UL", np.array([[3, 3, 3, 0, 0]])),
        ("surface_categorical_NS", np.array([[5]])),
        ("surface_dense_NS", np.array([[2.0, -9.0]], np.float32)),
    ],
)
def test_each_kind_of_feature_reaches_the_score(field: str, change: IntArray | FloatArray) -> None:
    network = a_rich_network()
    batch = replace(a_rich_batch(SEARCH, num_users=1, num_rows=1), history_UL=np.array([[3, 9, 4, 0, 0]]))

    before, after = (probabilities(network, each, SEARCH) for each in (batch, replace(batch, **{field: change})))  # type: ignore[arg-type]

    assert not torch.equal(before, after)


def test_what_is_done_matters_only_where_something_is() -> None:
    network, batch = a_rich_network(), a_rich_batch(SEARCH)
    everywhere = np.where(batch.history_UL == 0, 2, batch.history_action_UL)

    assert torch.equal(
        probabilities(network, replace(batch, history_action_UL=everywhere), SEARCH),
        probabilities(network, batch, SEARCH),
    )


def test_a_multi_hot_feature_is_the_mean_of_its_values_and_nothing_without_any() -> None:
    trunk = Trunk(a_rich_spec(), RICH_TRUNK)
    start = trunk.embedding.starts[4]  # interests come after the four one-hot features, languages after them
    table = trunk.embedding.table

    assert trunk.user_bags is not None
    pooled = trunk.user_bags(torch.tensor([[2, 0, 5, 0, 0], [0, 0, 0, 3, 3]]), table)

    width = table.shape[1]
    torch.testing.assert_close(pooled[0, :width], (table[start + 2] + table[start + 5]) / 2)
    assert not pooled[0, width:].any()
    assert not pooled[1, :width].any()
    torch.testing.assert_close(pooled[1, width:], table[start + 7 + 3])


def test_padding_gets_no_gradient() -> None:
    trunk = Trunk(a_rich_spec(), RICH_TRUNK)
    assert trunk.user_bags is not None

    pooled = trunk.user_bags(torch.tensor([[2, 0, 0, 0, 0]]), trunk.embedding.table)
    pooled.sum().backward()

    assert trunk.embedding.table.grad is not None
    touched = trunk.embedding.table.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [trunk.embedding.starts[4] + 2]


def test_users_encoded_in_parts_are_those_encoded_at_once() -> None:
    network, batch = a_rich_network(), a_rich_batch(SEARCH, num_users=9, num_rows=30)
    batch.history_UL[1] = [3, 4, 5, 6, 7]
    rows = to_tensors(a_rich_spec(), SEARCH, batch, device="cpu")

    with torch.inference_mode():
        parts = [network.trunk.encode_users(rows.users(slice(start, start + 2))) for start in range(0, 9, 2)]
        whole = network.trunk.read_rows(network.trunk.encode_users(rows), rows)
        joined = network.trunk.read_rows(UserSide.cat(parts), rows)

    torch.testing.assert_close(joined.crossed_NX, whole.crossed_NX, atol=TOLERANCE, rtol=0)


def test_features_of_one_surface_are_in_its_module_and_nowhere_else() -> None:
    network = a_rich_network()

    assert [name for name in network.trunk.state_dict() if "late" in name] == []
    assert network.head_of(HOME_FEED).late is None
    assert {name for name in network.head_of(SEARCH).state_dict() if name.startswith("late")} == {
        "late.embedding.table",
        "late.outward.weight",
    }


def test_a_surface_carries_a_tower_tree_of_its_own() -> None:
    network = a_rich_network()

    assert not [name for name in network.head_of(HOME_FEED).state_dict() if "branches" in name or "roots" in name]
    assert network.head_of(SEARCH).weight_TG.shape == (3, 4)
    assert read_config(HeadConfig, "head", asdict(TREE)) == TREE


def test_configs_of_before_read_as_what_they_were_and_broken_ones_are_refused() -> None:
    assert read_config(HeadConfig, "head", {"tower_width": 8}) == HeadConfig(tower_width=8)
    assert read_config(TrunkConfig, "trunk", asdict(RICH_TRUNK)) == RICH_TRUNK
    old = asdict(TrunkConfig())
    del old["attention"]
    assert read_config(TrunkConfig, "trunk", old) == TrunkConfig()
    for config, rule in (
        ({"tower_width": 8, "root_widths": [0]}, r"head\.root_widths\[0\]: must be a whole number"),
        ({"tower_width": 8, "branch_widths": 3}, r"head\.branch_widths: must be a list"),
        ({"tower_width": 8, "branch_widths": [1] * 99}, r"head\.branch_widths: must be a list of at most"),
        ({"tower_width": 8, "late": None}, r"head\.late: must be an object"),
    ):
        with pytest.raises(InvalidField, match=rule):
            read_config(HeadConfig, "head", config)
    with pytest.raises(InvalidField, match=r"attention\.num_heads: must divide the width 8"):
        AttentionConfig(width=8, num_heads=3)


def test_a_spec_survives_its_json_and_its_contract_is_the_surfaces_own() -> None:
    rich = a_rich_spec()

    assert FeatureSpec.from_json(rich.to_json()) == rich
    assert FeatureSpec.from_json(a_spec().to_json()) == a_spec()
    assert rich.signature(HOME_FEED) == replace(rich, surface_features={}).signature(HOME_FEED)
    assert rich.signature(SEARCH) != replace(rich, surface_features={}).signature(SEARCH)
    assert rich.signature(SEARCH) != replace(rich, history_actions=("saved", "clicked")).signature(SEARCH)
    assert rich.pruned(HOME_FEED).surface_features == {}
    assert rich.pruned(SEARCH) == rich


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"user_multi_hot": (("age", 4, 2),)}, "names must not repeat"),
        ({"user_multi_hot": (("interests", 1, 2),)}, "interests: cardinality must be at least 2"),
        ({"user_multi_hot": (("interests", 4, 0),)}, "interests: must take 1 to 1024 values"),
        ({"history_actions": ("saved", "saved")}, "history_actions: must not repeat"),
        ({"surface_features": {RELATED_PINS: SurfaceFeatures()}}, "related_pins: is of a surface without"),
        ({"surface_features": {SEARCH: SurfaceFeatures(candidate_dense=("price",))}}, "names must not repeat"),
        ({"surface_order": (SEARCH,)}, "surface_order: must name each of home_feed, search once"),
    ],
)
def test_a_senseless_spec_is_refused_by_field(change: dict[str, object], rule: str) -> None:
    with pytest.raises(InvalidField, match=rule):
        replace(a_spec(), **change)  # type: ignore[arg-type]  # tests name real fields


def test_a_surface_that_came_later_counts_its_view_types_last() -> None:
    spec = replace(
        a_spec(),
        view_types={**a_spec().view_types, RELATED_PINS: (ViewType("below"),)},
        surface_order=(HOME_FEED, SEARCH, RELATED_PINS),
    )

    assert [first_context(spec, surface) for surface in (HOME_FEED, SEARCH, RELATED_PINS)] == [1, 3, 6]
    assert spec.signature(SEARCH) == a_spec().signature(SEARCH)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("user_multi_hot_UM", np.zeros((4, 4), np.int64), r"must have the shape \(4, 5\), not \(4, 4\)"),
        ("history_action_UL", np.zeros((4, 0), np.int64), r"must have the shape \(4, 5\), not \(4, 0\)"),
        ("surface_dense_NS", np.full((12, 2), np.nan, np.float32), r"surface_dense_NS\[0, 0\]: must be finite"),
        ("surface_categorical_NS", np.zeros((12, 1), np.int32), "must be int64, not int32"),
    ],
)
def test_added_fields_are_checked_as_the_others_are(field: str, value: object, rule: str) -> None:
    with pytest.raises(InvalidField, match=rule):
        check_batch(a_rich_spec(), SEARCH, replace(a_rich_batch(SEARCH), **{field: value}))  # type: ignore[arg-type]


def test_values_outside_a_vocabulary_become_unknown_in_added_fields_too() -> None:
    batch = replace(
        a_rich_batch(SEARCH, num_users=1, num_rows=1),
        user_multi_hot_UM=np.array([[7, -1, 2, 4, 1]]),
        history_action_UL=np.array([[4, 3, 0, 0, 0]]),
        surface_categorical_NS=np.array([[6]]),
    )

    checked = check_batch(a_rich_spec(), SEARCH, batch)

    assert checked.user_multi_hot_UM.tolist() == [[0, 0, 2, 0, 1]]
    assert checked.history_action_UL.tolist() == [[0, 3, 0, 0, 0]]
    assert checked.surface_categorical_NS.tolist() == [[0]]


def test_what_a_spec_has_none_of_need_not_be_given_and_must_not_be() -> None:
    assert check_batch(a_spec(), HOME_FEED, a_batch()).user_multi_hot_UM.shape == (4, 0)
    assert check_batch(a_spec(), HOME_FEED, a_batch()).surface_dense_NS.shape == (12, 0)
    with pytest.raises(InvalidField, match=r"surface_dense_NS: must have the shape \(12, 0\), not \(12, 2\)"):
        check_batch(a_spec(), SEARCH, replace(a_batch(), surface_dense_NS=a_rich_batch(SEARCH).surface_dense_NS))
