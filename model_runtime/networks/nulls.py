"""Which values of a feature are missing, and how often they were so in training.

The protocol refuses NaN, infinities and absent inputs. Missing is what it takes in their stead: UNKNOWN of a
category, also of one outside the vocabulary; 0 of a number; a history without an entry. A 0 may well be a true
value, so a rate means something only beside training's.

Shapes: F features in the order of `KINDS`, C categorical, D dense, U users, N candidate rows, L history entries.
"""

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from model_runtime.networks.features import UNKNOWN, FeatureSpec, RowBatch

KINDS = ("user_categorical", "user_dense", "history", "candidate_categorical", "candidate_dense")
DECIMALS = 6  # of a rate in a manifest
NULL = UNKNOWN  # of a number and of whether a history has an entry, too

RateArray = NDArray[np.float64]


def null_rates(batch: RowBatch, *, weight_U: RateArray | None = None) -> RateArray:
    """The share of each feature's values that is null, shape (F,): of users, or of rows for candidates' features.

    Args:
        batch: checked, so that what lies outside a vocabulary is UNKNOWN.
        weight_U: how often each user counts; once where it is not given.
    """
    has_history_U1 = batch.history_UL.any(axis=1, keepdims=True)
    is_given_UF = np.concatenate((batch.user_categorical_UC, batch.user_dense_UD, has_history_U1), axis=1) != NULL
    is_given_NF = np.concatenate((batch.candidate_categorical_NC, batch.candidate_dense_ND), axis=1) != NULL
    of_users = (
        is_given_UF.sum(axis=0) / batch.num_users if weight_U is None else weight_U @ is_given_UF / weight_U.sum()
    )
    return 1.0 - np.concatenate((of_users, is_given_NF.sum(axis=0) / batch.num_rows))


def null_rates_of_rows(batch: RowBatch) -> RateArray:
    """The same where each user counts once a row: a logged row is one user's impression, as one served user is."""
    return null_rates(batch, weight_U=np.bincount(batch.user_index_N, minlength=batch.num_users).astype(np.float64))


def null_rates_to_json(spec: FeatureSpec, rate_F: RateArray) -> dict[str, list[float]]:
    ends = np.cumsum(_widths(spec)).tolist()
    return {
        kind: [round(float(rate), DECIMALS) for rate in rate_F[end - width : end]]
        for kind, width, end in zip(KINDS, _widths(spec), ends, strict=True)
    }


def null_rates_from_json(spec: FeatureSpec, value: object) -> RateArray:
    """Read what `null_rates_to_json` wrote, shape (F,); `InvalidField` names what is missing or malformed."""
    if not isinstance(value, dict):
        raise InvalidField("null_rates", "must be an object")
    rates: list[float] = []
    for kind, width in zip(KINDS, _widths(spec), strict=True):
        found = value.get(kind)
        if not isinstance(found, list) or len(found) != width or not all(map(_is_rate, found)):
            raise InvalidField(f"null_rates.{kind}", f"must be a list of {width} shares from 0 to 1")
        rates += found
    return np.array(rates, np.float64)


def _widths(spec: FeatureSpec) -> tuple[int, ...]:
    """How many features there are of each kind."""
    return (
        len(spec.user_categorical),
        len(spec.user_dense),
        1,
        len(spec.candidate_categorical),
        len(spec.candidate_dense),
    )


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
