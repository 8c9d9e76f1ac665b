"""Parity cards, on figures that can be told by hand."""

from dataclasses import replace

import numpy as np
import pytest

from model_runtime.networks.features import FloatArray
from model_runtime.precision import ParityCard, ParityLimits, parity, sample_of
from tests.networks.builders import a_batch

TASKS = ("click", "good_click", "hide")


def compare(expected_N: FloatArray, found_N: FloatArray) -> ParityCard:
    """As click scores of four users' twelve rows each; the other tasks agree."""
    batch = sample_of(a_batch(num_users=4, num_rows=12))
    same_N = np.full(batch.num_rows, 0.5, np.float32)
    expected = {task: expected_N if task == "click" else same_N for task in TASKS}
    return parity("bf16", "cpu", batch, expected, {**expected, "click": found_N})


def some_scores() -> FloatArray:
    return np.random.default_rng(0).uniform(0.01, 0.2, 48).astype(np.float32)


def test_the_sample_pairs_every_golden_user_with_every_candidate() -> None:
    golden = a_batch(num_users=4, num_rows=12)

    sample = sample_of(golden)

    assert np.bincount(sample.user_index_N).tolist() == [12] * 4
    for user in range(4):
        of_user = sample.candidate_categorical_NC[sample.user_index_N == user]
        np.testing.assert_array_equal(of_user, golden.candidate_categorical_NC)


def test_the_sample_stays_small_however_many_golden_rows_there_are() -> None:
    sample = sample_of(a_batch(num_users=200, num_rows=5_000))

    assert sample.num_rows == 4_096
    assert sample.user_index_N.max() == 63


def test_equal_scores_give_an_empty_card() -> None:
    card = compare(some_scores(), some_scores())

    assert (card.max_delta, card.rank_flips, card.calibration_shift) == (0.0, 0.0, 0.0)
    assert not card.problem()


def test_a_card_tells_the_largest_change_and_the_shift_of_the_mean() -> None:
    expected_N = some_scores()

    card = compare(expected_N, expected_N * np.float32(1.02))

    assert card.max_delta == pytest.approx(0.02 * expected_N.max(), rel=1e-4)
    assert card.calibration_shift == pytest.approx(0.02, rel=1e-4)
    assert card.rank_flips == 0.0  # no order changes
    assert card.problem().endswith("calibration_shift is 0.02, at most 0.005 is let through")


def test_a_shift_of_one_view_type_is_not_made_good_by_another() -> None:
    expected_N = np.full(48, 0.1, np.float32)
    view_type_N = sample_of(a_batch(num_users=4, num_rows=12)).view_type_N
    found_N = np.where(view_type_N == 0, np.float32(0.11), np.float32(0.09))

    assert compare(expected_N, found_N).calibration_shift == pytest.approx(0.1, rel=1e-4)


def test_a_first_place_that_goes_to_another_row_is_a_flip() -> None:
    expected_N = np.tile(np.linspace(0.2, 0.1, 12, dtype=np.float32), 4)
    found_N = expected_N.copy()
    found_N[[5, 6]] = found_N[[6, 5]]  # the sixth row of the first user is no longer among its six first

    card = compare(expected_N, found_N)

    assert card.k == 6
    assert card.rank_flips == 1 / 24


def test_what_is_no_number_is_beyond_every_limit() -> None:
    found_N = some_scores()
    found_N[7] = np.nan

    card = compare(some_scores(), found_N)

    assert "max_delta is nan" in card.problem(ParityLimits(max_delta=1e9, rank_flips=1.0, calibration_shift=1e9))


def test_a_problem_names_profile_device_rows_and_every_figure_beyond_its_limit() -> None:
    card = replace(compare(some_scores(), some_scores()), max_delta=0.5, rank_flips=0.25)

    assert card.problem() == (
        "bf16 differs from fp32 too much on 48 rows of 4 users on cpu: "
        "max_delta is 0.5, at most 0.01 is let through; rank_flips is 0.25, at most 0.05 is let through"
    )
