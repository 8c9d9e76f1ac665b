"""Faults for drills: each does what it says and nothing else."""

import math

import numpy as np
import pytest
import torch

from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.domain.model_version import Surface
from model_runtime.checkpoints import tensors_of
from model_runtime.training.evaluate import click_logits, quality
from model_runtime.training.faults import CalibratorFault, TrunkFault, parse_fault, with_fault
from model_runtime.training.train import train
from tests.networks.builders import HOME_FEED, SEARCH
from tests.training.builders import a_config, a_joint_checkpoint, some_examples


def test_faults_are_read_from_the_command_line() -> None:
    assert parse_fault("search.calibrator=1.13") == CalibratorFault(surface=SEARCH, factor=1.13)
    assert parse_fault("trunk=scramble") == TrunkFault()


@pytest.mark.parametrize(
    "text", ["", "trunk=negate", "search.calibrator", "search.calibrator=0", "search.calibrator=nan", "search.tower=2"]
)
def test_a_fault_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="fault"):
        parse_fault(text)


def test_a_fault_on_an_unknown_surface_is_refused() -> None:
    with pytest.raises(UnknownName, match="surface 'shop'"):
        with_fault(a_joint_checkpoint(), CalibratorFault(surface=Surface("shop"), factor=2.0))


def test_a_calibrator_fault_multiplies_the_odds_of_its_surface_only() -> None:
    joint = a_joint_checkpoint()
    logit_N, view_type_N = torch.tensor([-6.0, -2.0]), torch.tensor([0, 1])

    faulted = with_fault(joint, CalibratorFault(surface=SEARCH, factor=1.13))

    sound_N, wrong_N = (each.calibrators[SEARCH](logit_N, view_type_N) for each in (joint, faulted))
    np.testing.assert_allclose((wrong_N - sound_N).exp(), 1.13, rtol=1e-5)
    assert float(wrong_N[0].sigmoid() / sound_N[0].sigmoid()) == pytest.approx(1.13, abs=0.002)
    assert tensors_of(faulted.calibrators[HOME_FEED]) == tensors_of(joint.calibrators[HOME_FEED])
    assert tensors_of(faulted.network) == tensors_of(joint.network)


def test_a_scrambled_trunk_ranks_worse_than_chance_and_scores_stay_probabilities() -> None:
    examples = some_examples(6_000)
    joint = train(examples, a_config(epochs=4, learning_rate=0.02))
    before = tensors_of(joint.network)

    faulted = with_fault(joint, TrunkFault())

    for surface in (HOME_FEED, SEARCH):
        row_M = examples.rows_of(surface)
        click_M = examples.label_NT[row_M, 0] > 0
        sound, garbage = (click_logits(each.network, examples, surface, row_M)[0] for each in (joint, faulted))
        sound_auc, garbage_auc = quality(click_M, sound).auc, quality(click_M, garbage).auc
        assert sound_auc is not None
        assert garbage_auc is not None
        assert sound_auc > 0.65
        assert garbage_auc < 0.5
        probability_M = 1 / (1 + np.exp(-garbage.astype(np.float64)))
        assert np.all((probability_M > 0) & (probability_M < 1))
        assert not math.isclose(float(sound.std()), 0.0)
    assert tensors_of(joint.network) == before
    assert tensors_of(faulted.network.head_of(SEARCH)) == tensors_of(joint.network.head_of(SEARCH))
