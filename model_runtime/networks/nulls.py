"""Which values of a feature are missing, and how often they were so in training.

The protocol refuses NaN, infinities and absent inputs. Missing is what it takes in their stead: UNKNOWN of a
category, also of one outside the vocabulary; 0 of a number; a history without an entry. A 0 may well be a true
value, so a rate means something only beside training's.

Of a multi-hot feature each place counts by itself, the first where it has any value at all. The actions of a history
count as one.

Shapes: F features in the order of `KINDS` and `ADDED_KINDS`, C categorical, D dense, U users, N candidate rows,
L history entries, A is 1 where histories have actions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.errors import InvalidField
from model_runtime.networks.features import PLAIN_FIELDS, UNKNOWN, FeatureSpec, IntArray, RowBatch

KINDS = ("user_categorical", "user_dense", "history", "candidate_categorical", "candidate_dense")
ADDED_KINDS = ("user_multi_hot", "candidate_multi_hot", "history_action", "surface_categorical", "surface_dense")
DECIMALS = 6  # of a rate in a manifest
NULL = UNKNOWN  # of a number and of whether a history has an entry, too

RateArray = NDArray[np.float64]


def null_rates(batch: RowBatch, *, weight_U: RateArray | None = None) -> RateArray:
    """The share of each feature's values that is null, shape (F,): of users, or of rows for candidates' features.

    Args:
        batch: checked, so that what lies outside a vocabulary is UNKNOWN.
        weight_U: how often each user counts; once where it is not given.
    """
    has_history_U1 = _any(batch.history_UL)
    plain = (
        _of_users((batch.user_categorical_UC, batch.user_dense_UD, has_history_U1), weight_U),
        _of_rows((batch.candidate_categorical_NC, batch.candidate_dense_ND)),
    )
    if len(batch.given()) == len(PLAIN_FIELDS):
        return 1.0 - np.concatenate(plain)
    action_UL = batch.history_action_UL
    has_action_UA = _any(action_UL) if action_UL.shape[1] else action_UL
    added = (
        _of_users((batch.user_multi_hot_UM,), weight_U),
        _of_rows((batch.candidate_multi_hot_NM,)),
        _of_users((has_action_UA,), weight_U),
        _of_rows((batch.surface_categorical_NS, batch.surface_dense_NS)),
    )
    return 1.0 - np.concatenate((*plain, *added))


def _any(index_UL: IntArray) -> NDArray[np.bool_]:
    return np.asarray(index_UL.any(axis=1, keepdims=True))


def _of_users(values: tuple[NDArray[Any], ...], weight_U: RateArray | None) -> RateArray:
    is_given_UF = np.concatenate(values, axis=1) != NULL
    given_F: RateArray = (
        is_given_UF.sum(axis=0) / len(is_given_UF) if weight_U is None else weight_U @ is_given_UF / weight_U.sum()
    )
    return given_F


def _of_rows(values: tuple[NDArray[Any], ...]) -> RateArray:
    is_given_NF = np.concatenate(values, axis=1) != NULL
    given_F: RateArray = is_given_NF.sum(axis=0) / len(is_given_NF)
    return given_F


def null_rates_of_rows(batch: RowBatch) -> RateArray:
    """The same where each user counts once a row: a logged row is one user's impression, as one served user is."""
    return null_rates(batch, weight_U=np.bincount(batch.user_index_N, minlength=batch.num_users).astype(np.float64))


def null_rates_to_json(spec: FeatureSpec, rate_F: RateArray) -> dict[str, list[float]]:
    ends = np.cumsum(_widths(spec)).tolist()
    return {
        kind: [round(float(rate), DECIMALS) for rate in rate_F[end - width : end]]
        for kind, width, end in zip((*KINDS, *ADDED_KINDS), _widths(spec), ends, strict=True)
        if width or kind in KINDS
    }


def null_rates_from_json(spec: FeatureSpec, value: object) -> RateArray:
    """Read what `null_rates_to_json` wrote, shape (F,); `InvalidField` names what is missing or malformed."""
    if not isinstance(value, dict):
        raise InvalidField("null_rates", "must be an object")
    rates: list[float] = []
    for kind, width in zip((*KINDS, *ADDED_KINDS), _widths(spec), strict=True):
        found = value.get(kind, [] if kind in ADDED_KINDS else None)
        if not isinstance(found, list) or len(found) != width or not all(map(_is_rate, found)):
            raise InvalidField(f"null_rates.{kind}", f"must be a list of {width} shares from 0 to 1")
        rates += found
    return np.array(rates, np.float64)


def _widths(spec: FeatureSpec) -> tuple[int, ...]:
    """How many features there are of each kind; of what one surface alone has, as many as the widest has."""
    own = tuple(spec.surface_features.values())
    return (
        len(spec.user_categorical),
        len(spec.user_dense),
        1,
        len(spec.candidate_categorical),
        len(spec.candidate_dense),
        sum(max_values for _, _, max_values in spec.user_multi_hot),
        sum(max_values for _, _, max_values in spec.candidate_multi_hot),
        bool(spec.history_actions),
        max((len(each.candidate_categorical) for each in own), default=0),
        max((len(each.candidate_dense) for each in own), default=0),
    )


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
