"""Scores a batch with the versions that its users' arms name, and picks what each user is shown.

A candidate that raises or gives a bad score for a user costs that user nothing: stable answers instead. Requests
share their forwards with those that come at the same time, and a forward that raises is repeated for each alone.
Shapes: U users, N rows of a batch.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import Arm, Split
from model_runtime.batching import Joined, join, of_users
from model_runtime.checkpoints import Activations, Observe
from model_runtime.kept import Kept, slice_of
from model_runtime.micro_batches import MicroBatches
from model_runtime.networks.features import RowBatch
from model_runtime.networks.nulls import null_rates
from model_runtime.request_stats import RequestStats
from model_runtime.residency import Residency
from model_runtime.scores import HEADS, Scores
from model_runtime.steps import Steps, take
from model_runtime.tally import Call, Served, Tally, is_bad
from model_runtime.tickets import BatchLimits, Part, Ticket
from model_runtime.unavailable import Unavailable
from model_runtime.versions import Version

NOTHING_SHOWN = -1
SHADOW_ROWS = 512  # of a forward that answers nobody: those who come meanwhile wait for no more than that

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """`arm_U` is who answered, stable where the candidate failed; `kept` is what stable's trunk told, if asked."""

    scores: Scores
    arm_U: NDArray[np.int64]
    kept: Kept | None = None


class Scorer:
    """Scores through the micro-batches of one device, and counts by version how it went."""

    def __init__(
        self,
        residency: Residency,
        tally: Tally,
        *,
        max_users: int,
        max_rows: int,
        batch_seconds: float = 0.02,
        slow_seconds: float = 5.0,
        lanes: int = 1,
        may_lead: bool = True,
        stats: RequestStats | None = None,
    ) -> None:
        self._residency = residency
        self._tally = tally
        self._limits = BatchLimits(max_users=max_users, max_rows=max_rows, seconds=batch_seconds)
        self._slow_seconds = slow_seconds
        self.stats = stats or RequestStats()
        self.batches = MicroBatches(self._run, self._limits, lanes=lanes, may_lead=may_lead)

    def score(self, version: Version, batch: RowBatch, *, deadline: float = math.inf) -> Scores:
        """Score every row with one version; those whose forward raised are NaN.

        Args:
            deadline: on the monotonic clock; what has not begun by then is not computed.

        Raises:
            Unavailable: too much waits, or the deadline was missed.
        """
        return take(self.scoring(version, batch, deadline=deadline), self.batches)

    def scoring(self, version: Version, batch: RowBatch, *, deadline: float) -> Steps[Scores]:
        """The same in steps."""
        ticket = self._ticket(version, batch, deadline)
        yield from self._see_through([ticket])
        return ticket.scores

    def score_in_shadow(self, version: Version, batch: RowBatch, *, patience_seconds: float = 0.0) -> Scores:
        """The same beside the device's queue, in small forwards, each begun when nobody else is answered.

        Where that moment does not come for `patience_seconds`, a forward goes ahead.
        """
        limits = replace(self._limits, max_rows=min(SHADOW_ROWS, self._limits.max_rows))
        is_observed = self._tally.asked(version.version_id, users=batch.num_users)
        ticket = Ticket(version, batch, limits, is_observed=is_observed)
        while ticket.next_piece is not None:
            self.batches.wait_idle(patience_seconds)
            self._run([Part(ticket, ticket.take())])
        self._tally.called(version.version_id, _call(ticket))
        return ticket.scores

    def score_kept(self, version: Version, activations: Activations, *, patience_seconds: float = 0.0) -> Scores:
        """Score in the shadow from activations of the version's own trunk, each row of a user to itself."""
        rows = len(activations.shared.crossed_NX)
        self._tally.asked(version.version_id, users=rows)
        self.batches.wait_idle(patience_seconds)
        scores, num_scores, bad_scores = Scores.none_of(rows), 0, 0
        try:
            scores = _scores(version.score_shared(*activations))
            num_scores, bad_scores = rows, self._tally.scored(version.version_id, scores.click_N)
        except Exception:  # the shadow's own trouble, counted as such
            log.exception("version %s failed on %d users", version.version_id, rows)
        failed_users = int(scores.bad_rows().sum())
        self._tally.called(version.version_id, Call(rows, failed_users, 0, num_scores, bad_scores))
        return scores

    def score_routed(
        self,
        split: Split,
        arm_U: NDArray[np.int64],
        batch: RowBatch,
        *,
        deadline: float = math.inf,
        keeps_activations: bool = False,
    ) -> Routed:
        """Score each user's rows with the user's arm.

        Raises:
            Unavailable: stable is not loaded, or has no sound score for any row it was asked for; or as in `score`.
        """
        steps = self.scoring_routed(split, arm_U, batch, deadline=deadline, keeps_activations=keeps_activations)
        return take(steps, self.batches)

    def scoring_routed(
        self,
        split: Split,
        arm_U: NDArray[np.int64],
        batch: RowBatch,
        *,
        deadline: float,
        keeps_activations: bool,
    ) -> Steps[Routed]:
        """The same in steps."""
        stable = self._residency.get(split.stable)
        if stable is None:
            raise Unavailable(f"{split.surface}: stable version {split.stable} is not loaded")
        is_candidate_U = arm_U == Arm.CANDIDATE
        if not is_candidate_U.any():
            ticket = self._ticket(stable, batch, deadline, keeps_activations=keeps_activations)
            yield from self._see_through([ticket])
            return Routed(scores=_sound(ticket), arm_U=arm_U, kept=_kept(ticket))
        scores = Scores.none_of(batch.num_rows)
        answered_U = yield from self._ask_both(split, stable, is_candidate_U, batch, scores, deadline)
        is_failed_U = is_candidate_U & ~answered_U
        if is_failed_U.any():
            rest = of_users(batch, is_failed_U)
            ticket = self._ticket(stable, rest.batch, deadline)
            yield from self._see_through([ticket])
            scores.put(rest.row_M, _sound(ticket))
        return Routed(scores=scores, arm_U=answered_U.astype(np.int64) * np.int64(Arm.CANDIDATE))

    def _ask_both(
        self,
        split: Split,
        stable: Version,
        is_candidate_U: NDArray[np.bool_],
        batch: RowBatch,
        scores: Scores,
        deadline: float,
    ) -> Steps[NDArray[np.bool_]]:
        """Fill in both arms' scores; return the users that the candidate answered soundly."""
        part, rest = of_users(batch, is_candidate_U), of_users(batch, ~is_candidate_U)
        candidate_id = split.version_of(Arm.CANDIDATE)
        candidate = self._residency.get(candidate_id)
        tickets = {} if candidate is None else {Arm.CANDIDATE: self._ticket(candidate, part.batch, deadline)}
        if rest.batch.num_rows:
            tickets[Arm.STABLE] = self._ticket(stable, rest.batch, deadline)
        yield from self._see_through(list(tickets.values()))
        if Arm.STABLE in tickets:
            scores.put(rest.row_M, _sound(tickets[Arm.STABLE]))
        if candidate is None:
            users = part.batch.num_users
            self._tally.asked(candidate_id, users=users)
            self._tally.called(candidate_id, Call(users=users, failed_users=users))
            return np.zeros_like(is_candidate_U)
        found = tickets[Arm.CANDIDATE].scores
        scores.put(part.row_M, found)
        is_sound_U = is_candidate_U.copy()
        is_sound_U[batch.user_index_N[part.row_M[found.bad_rows()]]] = False
        return is_sound_U

    def _ticket(self, version: Version, batch: RowBatch, deadline: float, *, keeps_activations: bool = False) -> Ticket:
        is_observed = self._tally.asked(version.version_id, users=batch.num_users)
        return Ticket(
            version,
            batch,
            self._limits,
            deadline=deadline,
            is_observed=is_observed,
            keeps_activations=keeps_activations,
        )

    def _see_through(self, tickets: Sequence[Ticket]) -> Steps[None]:
        """Have them computed, and count how each went; what was not computed at all is no call of its version."""
        started = time.perf_counter()
        try:
            yield tickets
        except Unavailable:
            for ticket in tickets:
                self.stats.failed(ticket.version.version_id, seconds=time.perf_counter() - started)
            raise
        for ticket in tickets:
            batch = ticket.batch
            self.stats.answered(
                ticket.version.version_id,
                rows=batch.num_rows,
                queue_seconds=ticket.queue_seconds,
                infer_seconds=ticket.run_seconds,
            )
            is_split = batch.num_users > ticket.max_users
            served = Served(ticket.run_seconds, batch.num_rows, ticket.users_encoded, is_split)
            self._tally.called(ticket.version.version_id, _call(ticket), served)

    def _run(self, parts: Sequence[Part]) -> None:
        """Score parts of one trunk in one forward; what raises leaves the rows of whom it concerns as they were."""
        started = time.perf_counter()
        parts = sorted(parts, key=lambda part: part.ticket.version.version_id)  # those of a version beside each other
        try:
            joined = _joined(parts)
            found = self._forward(parts, joined)
        except Exception:  # whatever a version does, its users get an answer
            if len(parts) > 1:
                for part in parts:
                    self._run([part])
            else:
                (ticket, piece), *_ = parts
                log.exception("version %s failed on %d users", ticket.version.version_id, piece.batch.num_users)
            return
        seconds = time.perf_counter() - started
        self.batches.count_encoded(joined.batch.num_users)
        for version_id in {part.ticket.version.version_id for part in parts}:
            self.stats.ran(version_id, rows=joined.batch.num_rows, seconds=seconds)
        for part, scores, new_users in zip(parts, found, joined.new_users, strict=True):
            if scores is not None:
                self._deliver(part, scores, new_users, is_slow=seconds > self._slow_seconds)

    def _forward(self, parts: Sequence[Part], joined: Joined) -> list[Scores | None]:
        """By part; None where a version's own head raised. Heads of one trunk read the same activations."""
        observed = next((ticket for ticket, _ in parts if ticket.is_observed), None)
        version = parts[0].ticket.version if observed is None else observed.version
        observe = None if observed is None else self._observer(version)
        if all(ticket.version is version and not ticket.keeps_activations for ticket, _ in parts):
            scores = _scores(version.score(joined.batch, observe=observe))
            return [scores.rows(rows) for rows in joined.parts]
        activations = version.activations(joined.batch, observe=observe)
        found: list[Scores | None] = []
        for _, same in groupby(
            zip(parts, joined.parts, strict=True), key=lambda each: each[0].ticket.version.version_id
        ):
            found += self._read(list(same), activations, version)
        return found

    def _read(
        self, parts: Sequence[tuple[Part, slice]], activations: Activations, version: Version
    ) -> list[Scores | None]:
        """Score neighbouring parts of one version by its own head, from what `version`'s trunk told of all."""
        reader, first = parts[0][0].ticket.version, parts[0][1].start
        its = slice_of(activations, slice(first, parts[-1][1].stop))
        try:
            assert reader.reads_activations_of(version)  # or they had not met
            scores = _scores(reader.score_shared(*its))
        except Exception:  # a head that raises harms no other
            log.exception("version %s failed on %d rows", reader.version_id, len(its.shared.crossed_NX))
            return [None] * len(parts)
        for (ticket, piece), rows in parts:
            if ticket.keeps_activations:
                ticket.kept.append((slice_of(activations, rows), piece.row_M))
        return [scores.rows(slice(rows.start - first, rows.stop - first)) for _, rows in parts]

    def _deliver(self, part: Part, scores: Scores, new_users: int, *, is_slow: bool) -> None:
        ticket, piece = part
        ticket.is_observed = False  # its first forward tells enough of a call
        ticket.scores.put(piece.row_M, scores)
        bad_scores = self._tally.scored(ticket.version.version_id, scores.click_N)
        with ticket.lock:
            ticket.users_encoded += new_users
            ticket.slow_users += piece.batch.num_users if is_slow else 0
            ticket.num_scores += piece.batch.num_rows
            ticket.bad_scores += bad_scores

    def _observer(self, version: Version) -> Observe:
        def observe(batch: RowBatch, gate_NTK: NDArray[np.float32]) -> None:
            self._tally.saw_gates(version.version_id, gate_NTK)
            if version.null_rate_F is not None:
                self._tally.saw_features(version.version_id, null_rates(batch), version.null_rate_F)

        return observe


def _scores(found: Mapping[str, NDArray[np.float32]]) -> Scores:
    return Scores(**{f"{head}_N": found[head] for head in HEADS})


def _kept(ticket: Ticket) -> Kept | None:
    return Kept.of(ticket.batch.num_rows, ticket.kept) if ticket.keeps_activations else None


def _joined(parts: Sequence[Part]) -> Joined:
    if len(parts) == 1:  # nothing to compare its users with
        batch = parts[0].piece.batch
        return Joined(batch=batch, parts=(slice(0, batch.num_rows),), new_users=(batch.num_users,))
    return join([piece.batch for _, piece in parts], [ticket.digests_of(piece) for ticket, piece in parts])


def _call(ticket: Ticket) -> Call:
    failed_users = len(np.unique(ticket.batch.user_index_N[ticket.scores.bad_rows()]))
    return Call(ticket.batch.num_users, failed_users, ticket.slow_users, ticket.num_scores, ticket.bad_scores)


def _sound(ticket: Ticket) -> Scores:
    """Stable's scores; `Unavailable` where there is not one among them."""
    if ticket.batch.num_rows and ticket.scores.bad_rows().all():
        raise Unavailable(f"stable version {ticket.version.version_id} has no sound score for any row")
    return ticket.scores


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
