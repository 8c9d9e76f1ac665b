"""Training: repeatable, masked, mixed over surfaces, and honest about time."""

import numpy as np
import pytest
import torch

from control_plane.domain.errors import InvalidField
from model_runtime.checkpoints import tensors_of
from model_runtime.networks.engagement import TASKS
from model_runtime.training.data import examples_of, split_by_time
from model_runtime.training.evaluate import click_logits
from model_runtime.training.fit import masked_loss
from model_runtime.training.train import train
from model_runtime.training.windows import mixed_batches
from tests.networks.builders import HOME_FEED, SEARCH, a_spec
from tests.training.builders import a_config, impressions, some_examples


def test_the_same_seed_trains_the_same_bits_and_another_one_others() -> None:
    first, again, other = (train(some_examples(), a_config(steps=4, seed=seed)) for seed in (3, 3, 4))

    assert tensors_of(first.network) == tensors_of(again.network)
    assert first.training_run == again.training_run
    assert tensors_of(first.network.trunk) != tensors_of(other.network.trunk)


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()

    train(some_examples(), a_config(steps=1))

    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_which_items_are_clicked() -> None:
    joint = train(some_examples(6_000), a_config(epochs=6, learning_rate=0.02))

    held_out = joint.metrics["held_out"]
    assert isinstance(held_out, dict)
    for surface in (HOME_FEED, SEARCH):
        assert held_out[surface]["all"]["auc"] > 0.65
        assert held_out[surface]["all"]["normalised_entropy"] < 0.95
        assert 0.8 < held_out[surface]["all"]["calibration"] < 1.25


def test_a_checkpoint_says_how_its_gates_share_the_experts() -> None:
    experts = train(some_examples(), a_config(steps=2)).metrics["experts"]

    assert isinstance(experts, dict)
    for surface in (HOME_FEED, SEARCH):
        assert experts[surface].keys() == set(TASKS)
        assert all(sum(shares) == pytest.approx(1.0) for shares in experts[surface].values())


def test_progress_is_told_each_step() -> None:
    told: list[tuple[int, int]] = []

    train(some_examples(), a_config(steps=3), progress=lambda step, steps, _: told.append((step, steps)))

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_missing_labels_carry_no_loss_and_no_gradient() -> None:
    logit_NT = torch.zeros(2, 3, requires_grad=True)
    label_NT = torch.tensor([[1.0, torch.nan, torch.nan], [0.0, 1.0, torch.nan]])

    loss = masked_loss(logit_NT, label_NT)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert loss.item() == pytest.approx(1.5 * np.log(2))
    assert logit_NT.grad is not None
    assert logit_NT.grad.tolist() == [[-0.25, 0.0, 0.0], [0.25, -0.25, 0.0]]


def test_a_task_without_labels_answers_one_constant() -> None:
    examples = some_examples()
    joint = train(examples, a_config(steps=4))

    with torch.inference_mode():
        hide_N = joint.network(SEARCH, examples.batch(examples.rows_of(SEARCH)))[:, TASKS.index("hide")].sigmoid()

    assert hide_N.tolist() == pytest.approx([0.01] * len(hide_N))


def test_every_step_mixes_all_surfaces_and_an_epoch_sees_each_row_once() -> None:
    row_S = [np.arange(100), np.arange(100, 140)]

    batches = list(mixed_batches(row_S, 28, 2, np.random.default_rng(0)))

    assert len(batches) == 10
    assert all(len(parts[0]) == 20 and len(parts[1]) == 8 for parts in batches)
    assert sorted(np.concatenate([np.concatenate(parts) for parts in batches[:5]])) == list(range(140))


def test_what_is_held_out_is_later_than_what_is_trained_on() -> None:
    examples = some_examples()

    parts = split_by_time(examples, SEARCH, 0.2)

    when = examples.served_at_ms_N
    assert when[parts.training].max() < when[parts.calibration].min()
    assert when[parts.calibration].max() < when[parts.evaluation].min()
    assert len(parts.held_out) == round(len(examples.rows_of(SEARCH)) * 0.2)


def test_a_surface_with_too_few_rows_is_named() -> None:
    table = impressions()
    few = table.filter([surface == HOME_FEED or row < 8 for row, surface in enumerate(table["surface"].to_pylist())])

    with pytest.raises(InvalidField, match=r"search: has \d rows, too few"):
        train(examples_of(a_spec(), few), a_config())


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_rows", 0), ("steps", 0), ("held_out", 1.0), ("learning_rate", float("nan"))],
)
def test_a_senseless_config_is_refused_by_field(field: str, value: float) -> None:
    with pytest.raises(InvalidField, match=f"^{field}: must be"):
        a_config(**{field: value})


def test_training_starts_at_the_click_rate_of_each_surface() -> None:
    examples = some_examples()
    joint = train(examples, a_config(steps=1))

    for surface in (HOME_FEED, SEARCH):
        row_M = examples.rows_of(surface)
        logit_M, _ = click_logits(joint.network, examples, surface, row_M)
        expected = (1 / (1 + np.exp(-logit_M))).mean()
        assert expected == pytest.approx(examples.label_NT[row_M, 0].mean(), rel=0.1)
