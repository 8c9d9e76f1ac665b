import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from model_runtime.checkpoints import LoadedVersion
from model_runtime.event_sink import EventSink
from model_runtime.impressions import ImpressionIds, Impressions
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer
from model_runtime.shadow import Shadow, ShadowJob
from model_runtime.tally import Tally
from tests.model_runtime.artifacts import POISONED_ITEM, Artifact, Artifacts, some_keys, sound_batch
from tests.model_runtime.conftest import NOWHERE, eventually, now_ms
from tests.model_runtime.test_event_sink import VIEW_TYPES
from tests.networks.builders import HOME_FEED


@pytest.fixture(scope="module")
def residency(artifacts: Artifacts) -> Iterator[Residency]:
    residency = Residency()
    residency.start()
    residency.want({each.version_id: str(each.folder) for each in (artifacts.candidate, artifacts.poisoned)})
    eventually(lambda: len(residency.loaded()) == 2)
    yield residency
    residency.stop()


@contextmanager
def a_shadow(residency: Residency, *, max_rows: int = 100) -> Iterator[tuple[Shadow, EventSink, Tally]]:
    """A shadow whose sink keeps what it gets: nobody is there to take it."""
    sink, tally = EventSink(NOWHERE), Tally()
    shadow = Shadow(residency, Scorer(residency, tally, max_users=99, max_rows=999), sink, max_rows=max_rows)
    shadow.start()
    try:
        yield shadow, sink, tally
    finally:
        shadow.stop()
        sink.stop(0.0)


def a_job(version: Artifact, rows: int, *, poisoned_row: int | None = None) -> ShadowJob:
    batch = sound_batch(num_users=rows, num_rows=rows)
    if poisoned_row is not None:
        batch.candidate_categorical_NC[poisoned_row, 0] = POISONED_ITEM
    impressions = Impressions(
        surface=HOME_FEED,
        generation=1,
        served_at_ms=now_ms(),
        view_types=VIEW_TYPES,
        impression_id_S=ImpressionIds().take(rows),
        user_key_S=some_keys(rows),
        view_type_S=batch.view_type_N,
    )
    return ShadowJob(version_id=version.version_id, impressions=impressions, rows=batch)


def test_shadow_scores_go_to_the_sink(residency: Residency, artifacts: Artifacts) -> None:
    with a_shadow(residency) as (shadow, sink, tally):
        shadow.offer(artifacts.candidate.version_id, 20, lambda: a_job(artifacts.candidate, 20))

        assert shadow.drain(20.0)

        assert sink.counts().buffered == 20
        assert tally.counts()[artifacts.candidate.version_id].requests == 20


def test_bad_shadow_scores_are_counted_and_not_sent(residency: Residency, artifacts: Artifacts) -> None:
    with a_shadow(residency) as (shadow, sink, tally):
        shadow.offer(artifacts.poisoned.version_id, 20, lambda: a_job(artifacts.poisoned, 20, poisoned_row=7))

        assert shadow.drain(20.0)

        assert sink.counts().buffered == 19
        assert tally.counts()[artifacts.poisoned.version_id].errors == 1


def test_jobs_beyond_the_memory_of_a_shadow_are_dropped_and_counted(residency: Residency, artifacts: Artifacts) -> None:
    job = a_job(artifacts.candidate, 20)
    shadow = Shadow(
        residency,
        Scorer(residency, Tally(), max_users=99, max_rows=999),
        EventSink(NOWHERE),
        max_rows=999,
        max_bytes=2 * job.num_bytes,
    )

    for _ in range(3):
        shadow.offer(job.version_id, 20, lambda: job)

    assert (shadow.queued, shadow.dropped) == (40, 20)


def test_a_full_queue_drops_and_counts_without_making_the_job(residency: Residency, artifacts: Artifacts) -> None:
    may_go_on, holds_the_worker = threading.Event(), threading.Event()

    def held_up() -> ShadowJob:
        holds_the_worker.set()
        may_go_on.wait(20.0)
        return a_job(artifacts.candidate, 15)

    with a_shadow(residency, max_rows=20) as (shadow, sink, _):
        slow = threading.Thread(target=shadow.offer, args=(artifacts.candidate.version_id, 15, held_up))
        slow.start()
        holds_the_worker.wait(20.0)

        shadow.offer(artifacts.candidate.version_id, 6, lambda: pytest.fail("a dropped job is never made"))

        assert shadow.dropped == 6
        may_go_on.set()
        slow.join()
        assert shadow.drain(20.0)
        assert sink.counts().buffered == 15


def test_a_shadow_whose_version_is_gone_counts_what_it_could_not_score(
    residency: Residency, artifacts: Artifacts
) -> None:
    with a_shadow(residency) as (shadow, sink, _):
        shadow.offer(artifacts.twin.version_id, 9, lambda: a_job(artifacts.twin, 9))

        assert shadow.drain(20.0)

        assert (shadow.dropped, sink.counts().buffered) == (9, 0)


def test_a_job_that_cannot_be_made_is_counted_and_costs_no_answer(
    residency: Residency, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "model_runtime.shadow"), a_shadow(residency) as (shadow, _, _):
        shadow.offer(artifacts.candidate.version_id, 100, lambda: a_job(artifacts.candidate, 1 // 0))

        assert (shadow.queued, shadow.dropped) == (0, 100)


def test_a_version_that_raises_does_not_end_the_worker(artifacts: Artifacts, caplog: pytest.LogCaptureFixture) -> None:
    residency = Residency()
    residency.start()
    residency.want({each.version_id: str(each.folder) for each in (artifacts.candidate, artifacts.foreign)})
    eventually(lambda: len(residency.loaded()) == 2)

    with (
        caplog.at_level(logging.CRITICAL, "model_runtime.scorer"),
        a_shadow(residency) as (shadow, sink, tally),
    ):
        shadow.offer(artifacts.foreign.version_id, 5, lambda: a_job(artifacts.foreign, 5))
        shadow.offer(artifacts.candidate.version_id, 6, lambda: a_job(artifacts.candidate, 6))
        assert shadow.drain(20.0)
        assert sink.counts().buffered == 6
        assert tally.counts()[artifacts.foreign.version_id].errors == 5
    residency.stop()


def test_a_stopped_shadow_takes_nothing_more(residency: Residency, artifacts: Artifacts) -> None:
    with a_shadow(residency) as (shadow, _, _):
        shadow.stop()

        shadow.offer(artifacts.candidate.version_id, 3, lambda: a_job(artifacts.candidate, 3))

        assert shadow.dropped == 3


def test_a_job_that_fails_is_dropped_and_the_next_one_done(
    residency: Residency, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    broken = replace(a_job(artifacts.candidate, 5), impressions=a_job(artifacts.candidate, 4).impressions)
    with caplog.at_level(logging.CRITICAL, "model_runtime.shadow"), a_shadow(residency) as (shadow, sink, _):
        shadow.offer(broken.version_id, 5, lambda: broken)
        assert shadow.drain(20.0)

        shadow.offer(artifacts.candidate.version_id, 3, lambda: a_job(artifacts.candidate, 3))
        assert shadow.drain(20.0)

        assert (shadow.dropped, sink.counts().buffered) == (5, 3)


def test_a_full_shadow_costs_no_other_its_room_and_they_take_turns(residency: Residency, artifacts: Artifacts) -> None:
    first, second = artifacts.candidate, artifacts.poisoned
    sink, tally = EventSink(NOWHERE), Tally()
    shadow = Shadow(residency, Scorer(residency, tally, max_users=99, max_rows=999), sink, max_rows=20)
    for _ in range(3):
        shadow.offer(first.version_id, 10, lambda: a_job(first, 10))
    shadow.offer(second.version_id, 10, lambda: a_job(second, 10))

    order = [shadow._next()[0].version_id for _ in range(3)]

    assert order == [first.version_id, second.version_id, first.version_id]
    assert shadow.dropped_by_version() == {first.version_id: 10}
    sink.stop(0.0)


@pytest.fixture
def relatives(artifacts: Artifacts) -> Iterator[Residency]:
    """Stable, and a sibling of its trunk."""
    residency = Residency()
    residency.start()
    pinned = {each.version_id: str(each.folder) for each in (artifacts.stable, artifacts.sibling)}
    assert not residency.pin(pinned, timeout_seconds=20.0)
    yield residency
    residency.stop()


def a_read_job(relatives: Residency, artifacts: Artifacts, rows: int, *, seed: int) -> ShadowJob:
    """Of the sibling, whose rows stable's trunk has read."""
    stable = relatives.get(artifacts.stable.version_id)
    assert isinstance(stable, LoadedVersion)
    activations = stable.activations(sound_batch(num_users=rows, num_rows=rows, seed=seed))
    return replace(a_job(artifacts.sibling, rows), rows=activations)


def offer(shadow: Shadow, job: ShadowJob) -> None:
    shadow.offer(job.version_id, job.num_rows, lambda: job)


def test_jobs_that_need_a_head_alone_go_together_and_score_as_they_would_alone(
    relatives: Residency, artifacts: Artifacts
) -> None:
    jobs = [a_read_job(relatives, artifacts, rows, seed=rows) for rows in (3, 1, 7)]
    sink, tally = EventSink(NOWHERE), Tally()
    shadow = Shadow(relatives, Scorer(relatives, tally, max_users=99, max_rows=999), sink, max_rows=99)
    for job in jobs:
        offer(shadow, job)

    together = shadow._next()

    assert [job.num_rows for job in together] == [3, 1, 7]
    for job, found in zip(jobs, shadow._score(together), strict=True):
        (alone,) = shadow._score([job])
        assert found is not None
        assert alone is not None
        np.testing.assert_allclose(found.click_N, alone.click_N, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found.hide_N, alone.hide_N, atol=1e-6, rtol=0)
    sink.stop(0.0)


def test_a_job_with_rows_to_read_waits_for_no_other_and_goes_alone(relatives: Residency, artifacts: Artifacts) -> None:
    read = [a_read_job(relatives, artifacts, 2, seed=seed) for seed in (1, 2)]
    sink = EventSink(NOWHERE)
    shadow = Shadow(relatives, Scorer(relatives, Tally(), max_users=99, max_rows=999), sink, max_rows=99)
    for job in (read[0], a_job(artifacts.sibling, 5), read[1]):
        offer(shadow, job)

    assert [[job.num_rows for job in shadow._next()] for _ in range(3)] == [[2], [5], [2]]
    assert shadow.queued == 9
    sink.stop(0.0)


def test_who_waits_for_the_shadow_does_not_wait_for_company(
    relatives: Residency, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_runtime.shadow.LINGER_SECONDS", 60.0)
    with a_shadow(relatives) as (shadow, sink, _):
        shadow.offer(artifacts.sibling.version_id, 4, lambda: a_read_job(relatives, artifacts, 4, seed=0))

        assert shadow.drain(20.0)

        assert sink.counts().buffered == 4
