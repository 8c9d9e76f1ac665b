"""Scores a batch with the versions that its users' arms name, and picks what each user is shown.

A candidate that raises or gives a bad score for a user costs that user nothing: stable answers instead.
Shapes: U users, N rows of a batch.
"""

import logging
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm, Split
from model_runtime.batching import Piece, of_users, pieces
from model_runtime.checkpoints import LoadedVersion, Observe
from model_runtime.networks.features import RowBatch
from model_runtime.networks.nulls import null_rates
from model_runtime.residency import Residency
from model_runtime.tally import Call, Served, Tally, is_bad

HEADS = ("click", "good_click", "hide")
NOTHING_SHOWN = -1

log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Nothing can answer now; the caller may ask another replica, or again later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What each row scored; NaN where the version raised."""

    click_N: NDArray[np.float32]
    good_click_N: NDArray[np.float32]
    hide_N: NDArray[np.float32]

    @classmethod
    def none_of(cls, rows: int) -> "Scores":
        return cls(**{f"{head}_N": np.full(rows, np.nan, np.float32) for head in HEADS})

    def put(self, row_M: NDArray[np.int64], found: "Scores") -> None:
        """Fill in what the named rows scored."""
        self.click_N[row_M] = found.click_N
        self.good_click_N[row_M] = found.good_click_N
        self.hide_N[row_M] = found.hide_N

    def bad_rows(self) -> NDArray[np.bool_]:
        """Rows of which a score is no probability, shape (N,)."""
        return is_bad(self.click_N) | is_bad(self.good_click_N) | is_bad(self.hide_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """`arm_U` is who answered, which is stable where the candidate failed."""

    scores: Scores
    arm_U: NDArray[np.int64]


class Scorer:
    """Runs forwards of bounded size and counts, by version, how they went."""

    def __init__(
        self, residency: Residency, tally: Tally, *, max_users: int, max_rows: int, slow_seconds: float = 5.0
    ) -> None:
        self._residency = residency
        self._tally = tally
        self._max_users = max_users
        self._max_rows = max_rows
        self._slow_seconds = slow_seconds

    def score(self, version: LoadedVersion, batch: RowBatch, *, is_shadow: bool = False) -> Scores:
        """Score every row with one version. A forward that raises is logged, and its rows are NaN."""
        started = time.perf_counter()
        is_sampled = self._tally.asked(version.version_id, users=batch.num_users)
        observe = self._observer(version) if is_sampled else None
        scores = Scores.none_of(batch.num_rows)
        users_encoded = slow_users = num_scores = bad_scores = 0
        for piece in pieces(batch, max_users=self._max_users, max_rows=self._max_rows):
            forward = self._forward(version, piece, scores, observe)
            observe = None  # the first piece tells enough of a call
            users_encoded += piece.batch.num_users
            slow_users += piece.batch.num_users if forward.is_slow else 0
            num_scores += forward.scores
            bad_scores += forward.bad_scores
        failed_users = len(np.unique(batch.user_index_N[scores.bad_rows()]))
        call = Call(batch.num_users, failed_users, slow_users, num_scores, bad_scores)
        is_split = batch.num_users > self._max_users
        served = Served(time.perf_counter() - started, batch.num_rows, users_encoded, is_split)
        self._tally.called(version.version_id, call, None if is_shadow else served)
        return scores

    def score_routed(self, split: Split, arm_U: NDArray[np.int64], batch: RowBatch) -> Routed:
        """Score each user's rows with the user's arm.

        Raises:
            Unavailable: stable is not loaded, or has no sound score for any row it was asked for.
        """
        stable = self._residency.get(split.stable)
        if stable is None:
            raise Unavailable(f"{split.surface}: stable version {split.stable} is not loaded")
        is_candidate_U = arm_U == Arm.CANDIDATE
        if not is_candidate_U.any():
            return Routed(scores=self._stable_scores(stable, batch), arm_U=arm_U)
        scores = Scores.none_of(batch.num_rows)
        answered_U = self._ask_candidate(split, is_candidate_U, batch, scores)
        if not answered_U.all():
            rest = of_users(batch, ~answered_U)
            scores.put(rest.row_M, self._stable_scores(stable, rest.batch))
        return Routed(scores=scores, arm_U=answered_U.astype(np.int64) * np.int64(Arm.CANDIDATE))

    def _ask_candidate(
        self, split: Split, is_candidate_U: NDArray[np.bool_], batch: RowBatch, scores: Scores
    ) -> NDArray[np.bool_]:
        """Fill in the candidate's scores; return the users that it answered soundly."""
        part = of_users(batch, is_candidate_U)
        candidate_id = split.version_of(Arm.CANDIDATE)
        candidate = self._residency.get(candidate_id)
        if candidate is None:
            users = part.batch.num_users
            self._tally.asked(candidate_id, users=users)
            self._tally.called(candidate_id, Call(users=users, failed_users=users))
            return np.zeros_like(is_candidate_U)
        found = self.score(candidate, part.batch)
        scores.put(part.row_M, found)
        is_sound_U = is_candidate_U.copy()
        is_sound_U[batch.user_index_N[part.row_M[found.bad_rows()]]] = False
        return is_sound_U

    def _stable_scores(self, stable: LoadedVersion, batch: RowBatch) -> Scores:
        scores = self.score(stable, batch)
        if batch.num_rows and scores.bad_rows().all():
            raise Unavailable(f"stable version {stable.version_id} has no sound score for any row")
        return scores

    def _forward(self, version: LoadedVersion, piece: Piece, scores: Scores, observe: Observe | None) -> "_Forward":
        """Fill in what a piece scored; an exception leaves its rows as they were."""
        started = time.perf_counter()
        try:
            found = version.score(piece.batch, observe=observe)
        except Exception:  # whatever a version does, its users get an answer
            log.exception("version %s failed on %d users", version.version_id, piece.batch.num_users)
            return _Forward()
        is_slow = time.perf_counter() - started > self._slow_seconds
        scores.put(piece.row_M, Scores(click_N=found["click"], good_click_N=found["good_click"], hide_N=found["hide"]))
        return _Forward(is_slow, piece.batch.num_rows, self._tally.scored(version.version_id, found["click"]))

    def _observer(self, version: LoadedVersion) -> Observe:
        def observe(batch: RowBatch, gate_NTK: NDArray[np.float32]) -> None:
            self._tally.saw_gates(version.version_id, gate_NTK)
            if version.null_rate_F is not None:
                self._tally.saw_features(version.version_id, null_rates(batch), version.null_rate_F)

        return observe


class _Forward(NamedTuple):
    """What one forward gave; nothing where it raised."""

    is_slow: bool = False
    scores: int = 0
    bad_scores: int = 0


def best_rows(click_N: NDArray[np.float32], user_index_N: NDArray[np.int64], num_users: int) -> NDArray[np.int64]:
    """The row of each user's highest click score, the first of equals, shape (U,).

    NOTHING_SHOWN for a user without a row, or without one sound score.
    """
    rank_N = np.where(is_bad(click_N), np.float32(-np.inf), click_N)
    best_U = np.full(num_users, -np.inf, np.float32)
    np.maximum.at(best_U, user_index_N, rank_N)
    winner_M = np.flatnonzero((rank_N == best_U[user_index_N]) & np.isfinite(rank_N))[::-1]
    shown_U = np.full(num_users, NOTHING_SHOWN, np.int64)
    shown_U[user_index_N[winner_M]] = winner_M
    return shown_U
