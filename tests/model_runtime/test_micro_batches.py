import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

from model_runtime.checkpoints import LoadedVersion, load_version
from model_runtime.micro_batches import MicroBatches
from model_runtime.networks.features import RowBatch
from model_runtime.residency import Residency
from model_runtime.scorer import Scorer
from model_runtime.scores import Scores
from model_runtime.tally import Tally
from model_runtime.tickets import HUNG_SECONDS, BatchLimits, Part, Ticket
from model_runtime.unavailable import DeadlineMissed, Overloaded, Unavailable
from tests.model_runtime.artifacts import POISONED_ITEM, Artifacts, sound_batch
from tests.model_runtime.conftest import eventually

LIMITS = BatchLimits(
    max_users=64, max_rows=200, seconds=1e3, rows_for_another_lane=1
)  # forwards here last as long as a test holds them


@pytest.fixture(scope="module")
def version(artifacts: Artifacts) -> LoadedVersion:
    return load_version(artifacts.stable.folder)


class Device:
    """Answers each forward when it is let go, and remembers which rows were in which."""

    def __init__(self) -> None:
        self.forwards: list[list[int]] = []
        self.threads: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, parts: Sequence[Part]) -> None:
        self.forwards.append([piece.batch.num_rows for _, piece in parts])
        self.threads.append(threading.current_thread().name)
        assert self.may_go_on.wait(20.0)


@contextmanager
def a_queue(device: Device, limits: BatchLimits = LIMITS, **settings: int) -> Iterator[MicroBatches]:
    queue = MicroBatches(device, limits, **settings)  # type: ignore[arg-type]  # tests name real settings
    try:
        yield queue
    finally:
        device.may_go_on.set()
        queue.stop()


@contextmanager
def held(device: Device, queue: MicroBatches, ticket: Ticket) -> Iterator[None]:
    """The device at work on a ticket for as long as this lasts."""
    device.may_go_on.clear()
    first = threading.Thread(target=queue.run, args=([ticket],))
    first.start()
    eventually(lambda: len(device.forwards) == 1)
    yield
    device.may_go_on.set()
    first.join(20.0)


def a_ticket(version: LoadedVersion, rows: int = 10, *, deadline: float = float("inf"), seed: int = 0) -> Ticket:
    return Ticket(version, sound_batch(num_users=4, num_rows=rows, seed=seed), LIMITS, deadline=deadline)


def in_threads(queue: MicroBatches, tickets: Sequence[Ticket]) -> list[threading.Thread]:
    threads = [threading.Thread(target=queue.run, args=([ticket],)) for ticket in tickets]
    for count, thread in enumerate(threads, start=queue.waiting_requests + 1):
        thread.start()
        eventually(lambda count=count: queue.waiting_requests == count)  # type: ignore[misc]  # bound now
    return threads


def test_an_idle_device_takes_a_lone_request_at_once_in_its_own_thread(version: LoadedVersion) -> None:
    with a_queue(device := Device()) as queue:
        queue.run([a_ticket(version)])

        assert device.threads == [threading.current_thread().name]


def test_a_device_that_wants_one_thread_gets_one(version: LoadedVersion) -> None:
    with a_queue(device := Device(), may_lead=False) as queue:
        queue.run([a_ticket(version)])
        queue.run([a_ticket(version)])

        assert device.threads == ["forward", "forward"]


def test_two_lanes_run_two_forwards_at_once_and_no_third(version: LoadedVersion) -> None:
    with a_queue(device := Device(), lanes=2, may_lead=False) as queue:
        device.may_go_on.clear()
        for rows in (10, 11, 12):
            queue.submit([a_ticket(version, rows)])
            eventually(lambda: len(device.forwards) == 2 or queue.waiting_requests == 0)

        assert sorted(device.forwards) == [[10], [11]]
        assert queue.waiting_requests == 1
        assert not queue.wait_idle(0.01)
        device.may_go_on.set()

        assert queue.wait_idle(20.0)
        assert device.forwards[2] == [12]


def test_little_work_waits_for_the_lane_at_work_and_no_other(version: LoadedVersion) -> None:
    with a_queue(device := Device(), replace(LIMITS, rows_for_another_lane=25), lanes=2, may_lead=False) as queue:
        device.may_go_on.clear()
        queue.submit([a_ticket(version, 10)])
        eventually(lambda: device.forwards == [[10]])
        for rows in (11, 12, 13):
            assert device.forwards == [[10]]
            queue.submit([a_ticket(version, rows)])

        eventually(lambda: device.forwards == [[10], [11, 12, 13]])


def test_lanes_share_a_large_request_which_is_done_with_its_last_piece(version: LoadedVersion) -> None:
    first_may_end, is_first = threading.Event(), iter((True,))

    def run(parts: Sequence[Part]) -> None:
        if next(is_first, False):
            assert first_may_end.wait(20.0)
        device(parts)

    device, ticket, told = Device(), a_ticket(version, 550), threading.Event()
    with a_queue(device, lanes=2, may_lead=False) as queue:
        queue._run = run
        queue.submit([ticket])
        queue.when_done(ticket, told.set)
        eventually(lambda: len(device.forwards) == 2)

        assert not ticket.is_done
        first_may_end.set()
        assert told.wait(20.0)
        assert sorted(device.forwards) == [[150], [200], [200]]


def test_who_leads_is_helped_by_another_lane(version: LoadedVersion) -> None:
    both_are_here = threading.Barrier(2)

    def run(parts: Sequence[Part]) -> None:
        both_are_here.wait(20.0)
        device(parts)

    with a_queue(device := Device(), lanes=2) as queue:
        queue._run = run
        queue.run([a_ticket(version, 400)])

        assert sorted(device.threads) == sorted([threading.current_thread().name, "forward"])


def test_what_arrives_while_a_forward_runs_goes_together_into_the_next(version: LoadedVersion) -> None:
    with a_queue(device := Device()) as queue:
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, rows) for rows in (11, 12, 13)])
        for thread in threads:
            thread.join(20.0)

        assert device.forwards == [[10], [11, 12, 13]]
        assert (queue.counts().forwards, queue.counts().parts, queue.counts().rows) == (2, 4, 46)


def test_a_forward_holds_no_more_rows_and_users_than_its_limits(version: LoadedVersion) -> None:
    with a_queue(device := Device()) as queue:
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, 70) for _ in range(4)])
        for thread in threads:
            thread.join(20.0)

        assert device.forwards == [[10], [70, 70], [70, 70]]


def test_a_large_request_takes_turns_with_small_ones(version: LoadedVersion) -> None:
    with a_queue(device := Device()) as queue:
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, 550), a_ticket(version, 20)])
        for thread in threads:
            thread.join(20.0)

        assert device.forwards == [[10], [200], [20], [200], [150]]


def test_versions_meet_only_their_own(version: LoadedVersion, artifacts: Artifacts) -> None:
    other = load_version(artifacts.candidate.folder)
    with a_queue(device := Device()) as queue:
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, 11), a_ticket(other, 12), a_ticket(version, 13)])
        for thread in threads:
            thread.join(20.0)

        assert device.forwards == [[10], [11, 13], [12]]


def test_a_request_that_waited_beyond_its_deadline_is_not_computed(version: LoadedVersion) -> None:
    with a_queue(device := Device()) as queue:
        with (
            held(device, queue, a_ticket(version)),
            pytest.raises(DeadlineMissed, match="not computed"),
        ):
            queue.run([a_ticket(version, 11, deadline=time.monotonic() + 0.02)])

        with pytest.raises(DeadlineMissed):
            queue.run([a_ticket(version, 12, deadline=time.monotonic() - 0.001)])
        assert device.forwards == [[10]]
        assert (queue.counts().deadline_misses, queue.waiting_rows) == (2, 0)


def test_beyond_what_may_wait_a_request_is_refused_with_a_time(version: LoadedVersion) -> None:
    with a_queue(device := Device(), replace(LIMITS, max_waiting_rows=25)) as queue:
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, 20)])

            with pytest.raises(Overloaded, match="20 rows are waiting") as caught:
                queue.run([a_ticket(version, 6)])

            assert caught.value.retry_after_seconds >= 1
            assert queue.counts().refused == 1
        threads[0].join(20.0)


def test_a_request_too_large_for_the_queue_is_taken_where_nothing_waits(version: LoadedVersion) -> None:
    with a_queue(device := Device(), replace(LIMITS, max_waiting_rows=5)) as queue:
        queue.run([a_ticket(version, 30)])

        assert device.forwards == [[30]]


def test_a_slow_version_gets_smaller_forwards(version: LoadedVersion) -> None:
    def slow(parts: Sequence[Part]) -> None:
        device.forwards.append([piece.batch.num_rows for _, piece in parts])
        assert device.may_go_on.wait(20.0)
        time.sleep(0.001 * sum(device.forwards[-1]))

    device = Device()
    with a_queue(device, replace(LIMITS, seconds=0.02)) as queue:
        queue._run = slow
        with held(device, queue, a_ticket(version)):
            threads = in_threads(queue, [a_ticket(version, rows) for rows in (8, 8, 8, 8)])
        for thread in threads:
            thread.join(20.0)

        assert max(map(len, device.forwards)) < 4


def test_a_forward_that_fails_wakes_everyone_who_waits(version: LoadedVersion) -> None:
    def broken(_: Sequence[Part]) -> None:
        raise ZeroDivisionError

    queue = MicroBatches(broken, LIMITS)
    with pytest.raises(ZeroDivisionError):
        queue.run([a_ticket(version)])

    assert queue.wait_idle(1.0)


def test_who_waits_when_the_runtime_stops_is_told(version: LoadedVersion) -> None:
    told: list[str] = []

    def ask() -> None:
        try:
            queue.run([a_ticket(version)])
        except Unavailable as error:
            told.append(str(error))

    with a_queue(device := Device(), may_lead=False) as queue:
        with held(device, queue, a_ticket(version)):
            waiting = threading.Thread(target=ask)
            waiting.start()
            eventually(lambda: queue.waiting_requests == 1)
            stopping = threading.Thread(target=queue.stop)
            stopping.start()
        waiting.join(20.0)
        stopping.join(20.0)

        assert told == ["this runtime is stopping"]
        with pytest.raises(Unavailable):
            queue.run([a_ticket(version)])


@pytest.mark.parametrize(("may_lead", "lanes"), [(True, 1), (False, 1), (True, 3)])
def test_many_threads_get_the_scores_they_would_get_alone(version: LoadedVersion, may_lead: bool, lanes: int) -> None:
    scorer = Scorer(Residency(), Tally(), max_users=16, max_rows=64, may_lead=may_lead, lanes=lanes)
    batches = [sound_batch(num_users=1 + n % 20, num_rows=20 + 7 * n, seed=n % 5) for n in range(40)]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda batch: scorer.score(version, batch), batches))
    scorer.batches.stop()

    for batch, scores in zip(batches, found, strict=True):
        assert_same(scores, version, batch)
    assert scorer.batches.counts().rows == sum(batch.num_rows for batch in batches)
    assert scorer.batches.counts().users_encoded <= scorer.batches.counts().users_asked


def test_a_user_whom_two_requests_bring_at_once_is_encoded_once(version: LoadedVersion) -> None:
    scorer = Scorer(Residency(), Tally(), max_users=99, max_rows=999)
    parts = [Part(ticket, ticket.take()) for ticket in (a_ticket(version, seed=3), a_ticket(version, seed=3))]

    scorer._run(parts)

    assert [ticket.users_encoded for ticket, _ in parts] == [4, 0]
    assert scorer.batches.counts().users_encoded == 4
    for ticket, _ in parts:
        assert_same(ticket.scores, version, ticket.batch)


def test_a_request_on_which_the_network_raises_harms_none_that_share_its_forward(
    artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    version = load_version(artifacts.stable.folder)
    hook = version.trunk.embedding.register_forward_pre_hook(_raise_on_poison)
    scorer = Scorer(Residency(), Tally(), max_users=99, max_rows=999)
    tickets = [a_ticket(version, seed=seed) for seed in (1, 2, 3)]
    tickets[1].batch.candidate_categorical_NC[:, 0] = POISONED_ITEM

    with caplog.at_level(logging.CRITICAL, "model_runtime.scorer"):
        scorer._run([Part(ticket, ticket.take()) for ticket in tickets])

    hook.remove()
    assert tickets[1].scores.bad_rows().all()
    for ticket in (tickets[0], tickets[2]):
        assert_same(ticket.scores, version, ticket.batch)


def _raise_on_poison(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if (inputs[0] == POISONED_ITEM).any():
        raise RuntimeError("an item that the network does not bear")


def assert_same(scores: Scores, version: LoadedVersion, batch: RowBatch) -> None:
    expected = version.score(batch)
    found: dict[str, NDArray[np.float32]] = {"click": scores.click_N, "hide": scores.hide_N}
    for head, score_N in found.items():
        np.testing.assert_allclose(score_N, expected[head], atol=1e-6, rtol=0)


def test_a_forward_that_hangs_shows(version: LoadedVersion) -> None:
    now = [0.0]
    device = Device()
    queue = MicroBatches(device, LIMITS, monotonic=lambda: now[0])
    with held(device, queue, a_ticket(version)):
        assert not queue.is_hung()
        now[0] = HUNG_SECONDS + 1

        assert queue.is_hung()
    assert not queue.is_hung()


def test_the_exports_own_cap_of_unique_users_splits_and_scores_the_same(version: LoadedVersion) -> None:
    assert version.manifest.serving is not None
    serving = replace(version.manifest.serving, max_unique_users=3)
    capped = replace(version, manifest=replace(version.manifest, serving=serving))
    scorer, batch = Scorer(Residency(), Tally(), max_users=99, max_rows=999), sound_batch(num_users=10, num_rows=40)

    scores = scorer.score(capped, batch)

    assert_same(scores, version, batch)
    assert scorer.batches.counts().forwards == 4
