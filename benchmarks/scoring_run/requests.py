"""Whole requests through the runtime's own parts beside the plain way to the same scores."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.scoring_run.model import World, a_batch, a_request
from benchmarks.scoring_run.pairs import Comparison
from benchmarks.scoring_run.parts import CANDIDATES
from model_runtime.batching import of_users, one_user_each
from model_runtime.networks.features import RowBatch
from model_runtime.scorer import Scorer
from model_runtime.settings import RuntimeSettings
from model_runtime.tally import Tally
from model_runtime.tickets import BatchLimits, Ticket

REQUESTS, USERS, REQUEST_ROWS = 32, 8, 8
SETTINGS = RuntimeSettings()
LIMITS = BatchLimits(
    max_users=SETTINGS.max_users_per_forward,
    max_rows=SETTINGS.max_rows_per_forward,
    seconds=1.0,  # by the wall clock: a busy machine would say how many meet, and more than these never do
)


def whole_model(world: World, *, figure: str, history: float = 1.0) -> Comparison:
    """One request of one user, over its rows with a copy of the user each."""
    version, batch = world.stable, a_request(CANDIDATES, history=history)
    rows = one_user_each(batch, np.arange(CANDIDATES))
    return Comparison(
        figure=figure,
        what=f"score {CANDIDATES} candidates of a user, {(batch.history_UL > 0).sum()} entries, over row by row",
        plain=lambda: version.score(rows)["click"],
        ours=lambda: version.score(batch)["click"],
    )


def cross_request(world: World) -> Comparison:
    """Small requests that wait for the device together, over the same one after the other."""
    requests = small_requests()
    together, alone = a_scorer(world), a_scorer(world)  # each learns its own pace

    def batched() -> NDArray[np.float32]:
        tickets = [Ticket(world.stable, request, LIMITS) for request in requests]
        together.batches.run(tickets)
        return np.concatenate([ticket.scores.click_N for ticket in tickets])

    def one_by_one() -> NDArray[np.float32]:
        tickets = [Ticket(world.stable, request, LIMITS) for request in requests]
        for ticket in tickets:
            alone.batches.run([ticket])
        return np.concatenate([ticket.scores.click_N for ticket in tickets])

    return Comparison(
        figure="cross_request_ratio",
        what=f"{REQUESTS} requests of {REQUEST_ROWS} candidates, {USERS} users in all, over one by one",
        plain=one_by_one,
        ours=batched,
    )


def small_requests() -> list[RowBatch]:
    """In turn of each user."""
    batch = a_batch(users=USERS, rows=REQUESTS * REQUEST_ROWS)
    by_user = [of_users(batch, np.arange(USERS) == user).batch for user in range(USERS)]
    pages = REQUESTS // USERS
    return [
        each.take(np.arange(page * REQUEST_ROWS, (page + 1) * REQUEST_ROWS))
        for page in range(pages)
        for each in by_user
    ]


def a_scorer(world: World) -> Scorer:
    return Scorer(
        world.engine.residency,
        Tally(),
        max_users=LIMITS.max_users,
        max_rows=LIMITS.max_rows,
        batch_seconds=LIMITS.seconds,
    )
