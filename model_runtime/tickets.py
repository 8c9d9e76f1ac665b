"""A request's rows for one version on their way through a device: cut to its limits, waited for, finished."""

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_runtime.batching import Piece, pieces, shape_of, user_digests
from model_runtime.checkpoints import Activations
from model_runtime.networks.features import RowBatch
from model_runtime.scores import Scores
from model_runtime.versions import Version

HUNG_SECONDS = 60.0  # no forward takes as long: whoever still waits for it is told so


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """Of one forward, and of what waits for one.

    `seconds` is how long a forward of several requests may take, `rows_for_another_lane` how many must wait before a
    second forward begins beside one.
    """

    max_users: int
    max_rows: int
    seconds: float = 0.02
    max_waiting_rows: int = 2_000_000
    rows_for_another_lane: int = 256  # eight small requests: together they cost under half of what they cost alone


class Ticket:
    """One request's rows for one version on their way through the device, and what became of them."""

    def __init__(
        self,
        version: Version,
        batch: RowBatch,
        limits: BatchLimits,
        *,
        deadline: float = math.inf,
        is_observed: bool = False,
        keeps_activations: bool = False,
    ) -> None:
        self.version = version
        self.batch = batch
        self.deadline = deadline
        self.is_observed = is_observed  # by whoever watches what comes in; until its first forward
        self.keeps_activations = keeps_activations
        self.kept: list[tuple[Activations, NDArray[np.int64]]] = []
        serving = version.manifest.serving
        self.max_users = min(limits.max_users, serving.max_unique_users) if serving else limits.max_users
        identity = version.manifest.version  # of one trunk and one surface's inputs, heads share what the trunk tells
        self.key: Hashable = (
            *(id(version.trunk), identity.surface, identity.feature_signature, self.max_users),
            *shape_of(batch),
        )
        self.rows_left = batch.num_rows
        self._pieces = pieces(batch, max_users=self.max_users, max_rows=limits.max_rows)
        self.next_piece = next(self._pieces) if batch.num_rows else None
        self.scores = Scores.none_of(batch.num_rows)
        self.users_encoded = self.slow_users = self.num_scores = self.bad_scores = 0
        self.lock = threading.Lock()  # of these four: several lanes may work on one request
        self.num_running = 0  # pieces in forwards now
        self.asked_at = self.first_run_at = math.nan
        self.run_seconds = 0.0
        self.problem: Exception | None = None
        self.is_done = False
        self.on_done: Callable[[], None] | None = None
        self._digests: list[bytes] | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def take(self) -> Piece:
        """The next piece; cut only now, so that a large request is not held twice."""
        piece = self.next_piece
        assert piece is not None
        self.rows_left -= piece.batch.num_rows
        self.next_piece = next(self._pieces, None)
        return piece

    def digests_of(self, piece: Piece) -> list[bytes]:
        """Of the piece's users; those of a whole batch are made once, by whoever needs them first."""
        if piece.batch is not self.batch:
            return user_digests(piece.batch)
        if self._digests is None:
            self._digests = user_digests(self.batch)
        return self._digests

    def digest(self) -> None:
        """Make them before they are needed: whoever waits has the time."""
        if self.next_piece is not None and self.next_piece.batch is self.batch:
            self.digests_of(self.next_piece)

    @property
    def queue_seconds(self) -> float:
        """Until its first forward began."""
        return self.first_run_at - self.asked_at if self.first_run_at >= self.asked_at else 0.0

    def wait(self, seconds: float) -> bool:
        return self._gate.acquire(timeout=min(max(seconds, 0.0), HUNG_SECONDS))

    def finish(self, problem: Exception | None = None) -> None:
        """Call with the lock of the queue held."""
        if not self.is_done:
            self.is_done = True
            self.problem = problem
            self.next_piece = None
            self._gate.release()
            if self.on_done is not None:
                self.on_done()


class Part(NamedTuple):
    """A ticket's piece in one forward."""

    ticket: Ticket
    piece: Piece
