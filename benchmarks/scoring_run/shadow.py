"""What the shadow of a candidate costs that differs from stable in its head alone: requests with it and without.

The runtime keeps what stable's trunk told of a request's rows until the shown one is known, and has the candidate's
head read that one in another thread. Every thread's CPU time counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.scoring_run.model import SURFACE, World, a_request, a_split
from model_runtime.checkpoints import LoadedVersion
from model_runtime.networks.features import RowBatch
from model_runtime.protocol import InferRequest
from model_runtime.tally import FIRST_CALLS

ROWS = 500
REQUESTS = 8  # answered one after the other, while the shadow comes after
WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadowed:
    """CPU seconds a request: scored by the model alone, answered by the runtime, and answered with the shadow.

    `head_on_all` is what it would take to have the candidate's head read every row.
    """

    scored: float
    without: float
    beside: float
    head_on_all: float

    @property
    def shadow(self) -> float:
        return self.beside - self.without

    @property
    def share(self) -> float:
        return self.shadow / self.scored

    @property
    def share_of_all_rows(self) -> float:
        return self.head_on_all / self.scored


class ShadowRounds:
    """On one engine, whose split names the shadow or does not.

    A candidate's first calls are looked at more closely, so they are over before anything is timed.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._batch = a_request(ROWS)
        self._request = _request(self._batch)
        self._switch(has_shadow=True)
        for _ in range(FIRST_CALLS // REQUESTS):
            self._answer()

    def run(self, *, rounds: int, turns: int) -> list[Shadowed]:
        """In each round every side has its turn as often, one after the other: what disturbs one disturbs all."""
        return [self._round(turns) for _ in range(rounds)]

    def _round(self, turns: int) -> Shadowed:
        world = self._world
        taken = dict.fromkeys(("scored", "head_on_all", "without", "beside"), 0.0)
        candidate = world.engine.residency.get(world.versions.head_only.version_id)
        assert isinstance(candidate, LoadedVersion)
        assert candidate.reads_activations_of(world.stable)
        activations = world.stable.activations(self._batch)
        before = self._shadowed()
        for _ in range(turns):
            taken["scored"] += _cpu(lambda: world.stable.score(self._batch))
            taken["head_on_all"] += _cpu(lambda: candidate.score_shared(*activations))
            self._switch(has_shadow=False)
            taken["without"] += _cpu(self._answer) / REQUESTS
            self._switch(has_shadow=True)
            taken["beside"] += _cpu(self._answer) / REQUESTS
        assert self._shadowed() - before == turns * REQUESTS
        assert not world.engine.shadow.dropped
        return Shadowed(**{side: seconds / turns for side, seconds in taken.items()})

    def _switch(self, *, has_shadow: bool) -> None:
        versions = self._world.versions
        self._world.serve(a_split(versions.stable, shadow=versions.head_only if has_shadow else None))

    def _answer(self) -> None:
        for _ in range(REQUESTS):
            self._world.engine.infer(SURFACE, None, self._request)
        assert self._world.engine.shadow.drain(WAIT_SECONDS)

    def _shadowed(self) -> int:
        """Requests that the candidate was asked to score."""
        return self._world.engine.tally.counts()[self._world.versions.head_only.version_id].requests


def _request(batch: RowBatch) -> InferRequest:
    tensors = {name: getattr(batch, name) for name in batch.given()}
    return InferRequest(
        request_id="",
        parameters={"show": 1},
        tensors={**tensors, "user_key": np.array([7], np.uint64)},
        wanted={},
        is_binary=True,
    )


def _cpu(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before
