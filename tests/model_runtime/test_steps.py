"""Scoring in steps, taken in an event loop in which many wait at once."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer
from model_runtime.scores import Scores
from model_runtime.steps import LONE_REQUESTS, LoopSteps
from model_runtime.tally import Tally
from model_runtime.tickets import Part
from model_runtime.unavailable import DeadlineMissed, Unavailable
from tests.model_runtime.artifacts import Artifacts, sound_batch


@pytest.fixture(scope="module")
def version(artifacts: Artifacts) -> LoadedVersion:
    return load_version(artifacts.stable.folder)


@pytest.fixture
def scorer() -> Iterator[Scorer]:
    made = Scorer(Residency(), Tally(), max_users=16, max_rows=64, lanes=2)
    yield made
    made.batches.stop()


def in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


def test_many_in_one_loop_get_the_scores_they_would_get_alone(scorer: Scorer, version: LoadedVersion) -> None:
    batches = [sound_batch(num_users=1 + n % 20, num_rows=20 + 7 * n, seed=n % 5) for n in range(40)]

    async def ask_all() -> list[Scores]:
        steps = LoopSteps(scorer.batches)
        scoring = (scorer.scoring(version, batch, deadline=in_seconds(20)) for batch in batches)
        found: list[Scores] = await asyncio.gather(*(steps.take(each, caller=n) for n, each in enumerate(scoring)))
        return found

    for batch, scores in zip(batches, asyncio.run(ask_all()), strict=True):
        np.testing.assert_allclose(scores.click_N, version.score(batch)["click"], atol=1e-6, rtol=0)


def test_who_comes_alone_again_and_again_is_answered_in_the_loop_itself(
    scorer: Scorer, version: LoadedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    score = LoadedVersion.score

    def watched(self: LoadedVersion, *given: object, **named: object) -> object:
        threads.append(threading.current_thread().name)
        return score(self, *given, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(LoadedVersion, "score", watched)

    async def ask_in_turn() -> None:
        steps = LoopSteps(scorer.batches)
        for caller in ("a", *["b"] * (LONE_REQUESTS + 2), "a"):
            scoring = scorer.scoring(version, sound_batch(num_users=1, num_rows=9), deadline=in_seconds(20))
            await steps.take(scoring, caller=caller)

    asyncio.run(ask_in_turn())

    here = threading.current_thread().name
    assert threads == ["forward"] * (1 + LONE_REQUESTS) + [here] * 2 + ["forward"]


def test_a_deadline_that_passes_in_the_loop_is_told_while_the_device_is_at_work(
    scorer: Scorer, version: LoadedVersion
) -> None:
    may_go_on = threading.Event()
    run = scorer.batches._run

    def run_later(parts: Sequence[Part]) -> None:
        assert may_go_on.wait(20.0)
        run(parts)

    scorer.batches._run = run_later

    async def ask() -> None:
        steps, batch = LoopSteps(scorer.batches), sound_batch(num_users=1, num_rows=9)

        def asked(seconds: float) -> "asyncio.Task[Scores]":
            scoring = scorer.scoring(version, batch, deadline=in_seconds(seconds))
            return asyncio.create_task(steps.take(scoring, caller="one"))

        held = []
        for _ in range(2):  # one for each lane
            held.append(asked(20.0))
            await asyncio.sleep(0.05)
        with pytest.raises(DeadlineMissed, match="not computed"):
            await asked(0.02)
        may_go_on.set()
        await asyncio.gather(*held)

    asyncio.run(ask())

    assert scorer.batches.counts().deadline_misses == 1


def test_who_waits_in_the_loop_when_the_runtime_stops_is_told(scorer: Scorer, version: LoadedVersion) -> None:
    scorer.batches.stop()

    async def ask() -> None:
        steps = LoopSteps(scorer.batches)
        await steps.take(scorer.scoring(version, sound_batch(), deadline=in_seconds(20)), caller="one")

    with pytest.raises(Unavailable, match="stopping"):
        asyncio.run(ask())
