"""The unified network: what broadcasting, order and neighbours in a batch must not change."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import Surface
from model_runtime.networks.engagement import (
    EngagementNetwork,
    HeadConfig,
    Trunk,
    TrunkConfig,
    first_context,
    read_config,
    to_tensors,
)
from model_runtime.networks.features import RowBatch
from model_runtime.networks.sequence import SequenceConfig
from tests.networks.builders import HOME_FEED, SEARCH, a_batch, a_spec

TOLERANCE = 1e-6


def a_network(seed: int = 0) -> EngagementNetwork:
    torch.manual_seed(seed)
    spec = a_spec()
    network = EngagementNetwork(spec, TrunkConfig(), dict.fromkeys(spec.surfaces, HeadConfig()))
    with torch.no_grad():
        for weight in network.parameters():  # also those that start at zero, so that every path carries signal
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def probabilities(network: EngagementNetwork, batch: RowBatch, surface: Surface = HOME_FEED) -> Tensor:
    with torch.inference_mode():
        probability_NT: Tensor = network(surface, batch).sigmoid()
        return probability_NT


def one_row(batch: RowBatch, row: int) -> RowBatch:
    """The row alone, with its user alone."""
    user = slice(batch.user_index_N[row], batch.user_index_N[row] + 1)
    return replace(
        batch.take(np.array([row])),
        user_categorical_UC=batch.user_categorical_UC[user],
        user_dense_UD=batch.user_dense_UD[user],
        history_UL=batch.history_UL[user],
        user_index_N=np.zeros(1, np.int64),
    )


@pytest.mark.parametrize("surface", [HOME_FEED, SEARCH])
def test_broadcasting_users_scores_each_row_as_if_it_came_alone(surface: Surface) -> None:
    network, batch = a_network(), a_batch(num_users=7, num_rows=40)

    together = probabilities(network, batch, surface)
    alone = torch.cat([probabilities(network, one_row(batch, row), surface) for row in range(40)])

    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)


def test_rows_in_another_order_get_the_same_scores() -> None:
    network, batch = a_network(), a_batch(num_users=7, num_rows=40)
    order = np.random.default_rng(1).permutation(40)

    torch.testing.assert_close(
        probabilities(network, batch.take(order)), probabilities(network, batch)[order], atol=TOLERANCE, rtol=0
    )


def test_padding_anywhere_in_a_batch_changes_no_score() -> None:
    network, batch = a_network(), a_batch(num_users=4, num_rows=12)
    short = np.where(np.arange(5) < 2, batch.history_UL, 0)
    one_is_long = short.copy()
    one_is_long[3] = [3, 4, 5, 6, 7]
    others_N = batch.user_index_N != 3

    scores, beside_a_long_one = (
        probabilities(network, replace(batch, history_UL=history_UL))[others_N] for history_UL in (short, one_is_long)
    )

    torch.testing.assert_close(scores, beside_a_long_one, atol=TOLERANCE, rtol=0)


def test_a_history_matters_and_so_does_its_order() -> None:
    network, batch = a_network(), a_batch(num_users=1, num_rows=1)
    histories = ([[0, 0, 0, 0, 0]], [[3, 9, 0, 0, 0]], [[9, 3, 0, 0, 0]])

    scores = {float(probabilities(network, replace(batch, history_UL=np.array(each)))[0, 0]) for each in histories}

    assert len(scores) == 3


def test_scores_stay_finite_for_any_finite_input() -> None:
    extreme = replace(a_batch(), candidate_dense_ND=np.full((12, 2), np.finfo(np.float32).max))

    assert probabilities(a_network(), extreme).isfinite().all()


def test_read_only_and_strided_arrays_are_scored_without_complaint() -> None:
    batch = a_batch()
    frozen = np.frombuffer(batch.history_UL.tobytes(), np.int64).reshape(batch.history_UL.shape)
    reversed_twice = replace(batch, history_UL=frozen, view_type_N=batch.view_type_N[::-1].copy()[::-1])

    assert torch.equal(probabilities(a_network(), reversed_twice), probabilities(a_network(), batch))


def test_each_view_type_of_each_surface_has_a_context_of_its_own() -> None:
    spec = a_spec()
    contexts = [
        first_context(spec, surface) + place
        for surface in spec.surfaces
        for place in range(len(spec.view_types[surface]))
    ]

    assert contexts == [1, 2, 3, 4, 5]
    assert to_tensors(spec, SEARCH, a_batch(), device="cpu").context_N.min() >= 3


def test_the_gates_of_every_task_sum_to_one() -> None:
    network = a_network()
    with torch.inference_mode():
        shared = network.trunk(to_tensors(a_spec(), SEARCH, a_batch(), device="cpu"))
        gate_NTK = network.head_of(SEARCH).gates(shared.crossed_NX)

    torch.testing.assert_close(gate_NTK.sum(-1), torch.ones(12, 3))


def test_one_surface_runs_only_its_own_head() -> None:
    network, batch = a_network(), a_batch()
    before = probabilities(network, batch, HOME_FEED)
    with torch.no_grad():
        for weight in network.head_of(SEARCH).parameters():
            weight.fill_(float("nan"))

    assert torch.equal(probabilities(network, batch, HOME_FEED), before)


def test_a_config_survives_its_json_and_refuses_what_is_no_size() -> None:
    config = TrunkConfig(sequence=SequenceConfig(width=24, num_heads=3))
    broken = asdict(config) | {"experts": {"num_experts": 0, "width": 8}}

    assert read_config(TrunkConfig, "trunk", asdict(config)) == config
    with pytest.raises(InvalidField, match=r"trunk\.experts\.num_experts: must be a whole number from 1"):
        read_config(TrunkConfig, "trunk", broken)
    with pytest.raises(InvalidField, match=r"trunk\.crossing: must be an object"):
        read_config(TrunkConfig, "trunk", asdict(config) | {"crossing": 3})
    with pytest.raises(InvalidField, match="must divide the width 24"):
        SequenceConfig(width=24, num_heads=5)


def test_the_flat_table_gives_what_a_table_per_feature_would() -> None:
    trunk = Trunk(a_spec(), TrunkConfig())
    item, brand = torch.tensor([7, 19]), torch.tensor([0, 4])

    found = trunk.embedding(torch.stack([item, brand], dim=1), first=2)

    items, brands = trunk.embedding.table[10:30], trunk.embedding.table[30:35]
    torch.testing.assert_close(found, torch.stack([items[item], brands[brand]], dim=1))
