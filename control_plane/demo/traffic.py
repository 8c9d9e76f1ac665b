"""Requests: the real log replayed as it happened, or real contexts resampled to many users.

Shapes: U requests (one user each), N = U × K rows, K candidate items of a request.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.demo.click_model import ClickModel
from control_plane.demo.contexts import Contexts, FloatArray, IntArray, KeyArray
from control_plane.domain.split import mix64

HOUR_MS = 3_600_000
NUM_USERS = 200_000  # of the simulation: 1 % of them must be well over the judge's 1 000 users
CANDIDATES = 3  # items to choose from in each simulated request
USER_SALT = np.uint64(0x5EED_0B0D)  # keeps simulated user keys apart from plain counters


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """One batch for the runtime: the arrays of its RowBatch, and when it was served."""

    surface: str
    served_at_ms: int
    user_key_U: KeyArray
    user_categorical_UC: IntArray
    user_dense_UD: FloatArray
    history_UL: IntArray
    user_index_N: IntArray
    view_type_N: IntArray
    candidate_categorical_NC: IntArray
    candidate_dense_ND: FloatArray

    @property
    def size(self) -> int:
        return len(self.user_key_U)


def real_hours(contexts: Contexts) -> Iterator[tuple[Requests, NDArray[np.bool_]]]:
    """The log in event time, an hour a batch, with its clicks; each impression asks for the one ad that was shown."""
    hour_P = contexts.served_at_ms_P // HOUR_MS
    starts = np.flatnonzero(np.r_[True, hour_P[1:] != hour_P[:-1]])
    for start, end in zip(starts, [*starts[1:], contexts.size], strict=True):
        rows = slice(start, end)
        yield (
            Requests(
                surface=contexts.surface,
                served_at_ms=int(contexts.served_at_ms_P[end - 1]),
                user_key_U=contexts.user_key_P[rows],
                user_categorical_UC=contexts.user_categorical_PC[rows],
                user_dense_UD=contexts.user_dense_PD[rows],
                history_UL=contexts.history_PL[rows],
                user_index_N=np.arange(end - start, dtype=np.int64),
                view_type_N=contexts.view_type_P[rows],
                candidate_categorical_NC=contexts.candidate_categorical_PC[rows],
                candidate_dense_ND=contexts.candidate_dense_PD[rows],
            ),
            contexts.clicked_P[rows],
        )


def simulated_requests(
    contexts: Contexts, size: int, *, served_at_ms: int, rng: np.random.Generator, candidates: int = CANDIDATES
) -> Requests:
    """`size` requests of users from the pool; a user has the same real context on every visit to a surface."""
    user_U = rng.integers(0, NUM_USERS, size).astype(np.uint64)
    key_U = mix64(user_U ^ USER_SALT)
    context_U = (key_U % np.uint64(contexts.size)).astype(np.int64)
    item_N = rng.integers(0, contexts.num_items, size * candidates)
    view_type_U = rng.integers(0, len(contexts.view_types), size)
    return Requests(
        surface=contexts.surface,
        served_at_ms=served_at_ms,
        user_key_U=key_U,
        user_categorical_UC=contexts.user_categorical_PC[context_U],
        user_dense_UD=contexts.user_dense_PD[context_U],
        history_UL=contexts.history_PL[context_U],
        user_index_N=np.repeat(np.arange(size, dtype=np.int64), candidates),
        view_type_N=np.repeat(view_type_U, candidates),
        candidate_categorical_NC=contexts.item_categorical_IC[item_N],
        candidate_dense_ND=contexts.item_dense_ID[item_N],
    )


def simulated_clicks(
    truth: ClickModel, requests: Requests, shown_row_U: IntArray, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """SIMULATED: whether each shown row is clicked."""
    probability_U = truth.probability(
        requests.surface,
        view_type_N=requests.view_type_N[shown_row_U],
        user_categorical_NC=requests.user_categorical_UC[requests.user_index_N[shown_row_U]],
        candidate_categorical_NC=requests.candidate_categorical_NC[shown_row_U],
    )
    return rng.random(probability_U.size) < probability_U


def hourly_shape(contexts: Contexts) -> NDArray[np.float64]:
    """How the real log spreads over the 24 hours of a day (UTC); sums to 1."""
    count_H = np.bincount((contexts.served_at_ms_P // HOUR_MS) % 24, minlength=24)
    return np.asarray(count_H / count_H.sum(), np.float64)
