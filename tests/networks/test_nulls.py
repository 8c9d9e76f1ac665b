from dataclasses import replace

import numpy as np
import pytest

from control_plane.domain.errors import InvalidField
from model_runtime.networks.features import RowBatch, check_batch
from model_runtime.networks.nulls import KINDS, null_rates, null_rates_from_json, null_rates_of_rows, null_rates_to_json
from tests.networks.builders import HOME_FEED, a_batch, a_spec


def full_batch() -> RowBatch:
    """Four users, twelve rows, three of each; no value is null."""
    batch = a_batch()
    return replace(
        batch,
        user_categorical_UC=np.maximum(batch.user_categorical_UC, 1),
        history_UL=np.maximum(batch.history_UL, 1),
        candidate_categorical_NC=np.maximum(batch.candidate_categorical_NC, 1),
        user_index_N=np.repeat(np.arange(4), 3),
    )


def rates_by_kind(batch: RowBatch) -> dict[str, list[float]]:
    return null_rates_to_json(a_spec(), null_rates(batch))


def test_a_whole_batch_has_no_nulls() -> None:
    assert rates_by_kind(full_batch()) == {
        "user_categorical": [0.0, 0.0],
        "user_dense": [0.0],
        "history": [0.0],
        "candidate_categorical": [0.0, 0.0],
        "candidate_dense": [0.0, 0.0],
    }


def test_null_is_an_unknown_category_a_zero_and_a_history_without_an_entry() -> None:
    batch = full_batch()
    batch.user_categorical_UC[0, 1] = 0
    batch.user_dense_UD[:2, 0] = 0.0
    batch.history_UL[0, 1:] = 0
    batch.history_UL[1] = 0
    batch.candidate_categorical_NC[:3, 0] = 0
    batch.candidate_dense_ND[:6, 1] = 0.0

    assert list(rates_by_kind(batch).values()) == [[0.0, 0.25], [0.5], [0.25], [0.25, 0.0], [0.0, 0.5]]


def test_a_category_beyond_the_vocabulary_is_null_to_the_version_that_reads_it() -> None:
    batch = full_batch()
    batch.user_categorical_UC[:, 1] = 6

    checked = check_batch(a_spec(), HOME_FEED, batch)

    assert rates_by_kind(checked)["user_categorical"] == [0.0, 1.0]


def test_of_logged_rows_a_user_counts_as_often_as_shown_to() -> None:
    batch = full_batch()
    batch.user_dense_UD[0, 0] = 0.0
    batch = replace(batch, user_index_N=np.array([0] * 9 + [1, 2, 3]))

    assert null_rates_of_rows(batch)[2] == pytest.approx(0.75)
    assert null_rates(batch)[2] == pytest.approx(0.25)


def test_rates_survive_their_json() -> None:
    rate_F = np.linspace(0, 1, 8)

    assert null_rates_from_json(a_spec(), null_rates_to_json(a_spec(), rate_F)) == pytest.approx(rate_F, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [None, [], [0.5] * 3, [1.5], [float("nan")], [True], ["0"]])
def test_rates_that_are_none_are_refused_by_their_name(kind: str, wrong: object) -> None:
    sound = null_rates_to_json(a_spec(), np.zeros(8))

    with pytest.raises(InvalidField, match=f"null_rates.{kind}"):
        null_rates_from_json(a_spec(), {**sound, kind: wrong})
