"""Many questions at once, under one deadline, to sources of which some are slow, dead or odd."""

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from control_plane.domain.readings import ReadingOutcome
from control_plane.providers.asking import read_all
from control_plane.providers.contract import Ask, Sample, Subject
from control_plane.providers.errand import QUESTION_SECONDS, Question
from control_plane.providers.sources import MAX_AT_ONCE, Source, make_sources
from tests.providers.builders import a_metric, a_subject
from tests.providers.servers import answers_vector, free_port, never_answers, serving


class Numbers:
    """A provider that answers with what it is told to."""

    def __init__(self, answer: Callable[[str, float], Sample]) -> None:
        self._answer = answer
        self.asked: list[str] = []

    def shown(self, query: str, subject: Subject) -> str:
        return f"{query} of {subject.surface}"

    @contextmanager
    def opened(self) -> Iterator[Ask]:
        yield self._sample

    def _sample(self, query: str, subject: Subject, *, seconds: float) -> Sample:
        self.asked.append(query)
        return self._answer(query, seconds)


def a_source(answer: Callable[[str, float], Sample], *, name: str = "numbers") -> tuple[Source, Numbers]:
    numbers = Numbers(answer)
    return Source(name=name, provider=numbers, secrets=("hunter2",)), numbers


def questions(count: int, *, source: str = "numbers") -> list[Question]:
    return [Question(metric=a_metric(f"q{index}", source=source), subject=a_subject()) for index in range(count)]


def test_readings_come_in_the_order_of_the_questions_whatever_order_they_were_answered_in() -> None:
    def later_ones_first(query: str, seconds: float) -> Sample:
        time.sleep(0.02 if query < "q15" else 0)
        return Sample(value=float(query[1:]))

    source, _ = a_source(later_ones_first)

    readings = read_all({"numbers": source}, questions(30))

    assert [reading.value for reading in readings] == list(range(30))


def test_no_questions_are_no_readings() -> None:
    assert read_all({}, []) == []


def test_an_unknown_source_is_named_beside_the_known_ones() -> None:
    source, _ = a_source(lambda query, seconds: Sample(value=1.0))

    unknown, known = read_all({"numbers": source}, [*questions(1, source="prod"), *questions(1)])
    (without_any,) = read_all({}, questions(1, source="prod"))

    assert (unknown.outcome, known.outcome) == (ReadingOutcome.FAILED, ReadingOutcome.VALUE)
    assert unknown.detail == "no metric source 'prod'; known: numbers"
    assert without_any.detail == "no metric source 'prod'; this deployment has none"


def test_what_comes_to_the_same_query_is_asked_once() -> None:
    source, numbers = a_source(lambda query, seconds: Sample(value=3.0))
    same = [
        Question(metric=a_metric("q", name=f"metric {index}"), subject=a_subject(generation=index))
        for index in range(50)
    ]
    other = Question(metric=a_metric("q", at_query="q"), subject=a_subject())

    readings = read_all({"numbers": source}, [*same, other])

    assert [reading.name for reading in readings[:50]] == [f"metric {index}" for index in range(50)]
    assert {reading.value for reading in readings[:50]} == {3.0}
    assert numbers.asked == ["q", "q", "q"]


@pytest.mark.parametrize("error", [ValueError("hunter2"), RecursionError("deep"), KeyError("hunter2"), MemoryError()])
def test_whatever_a_provider_raises_is_a_reading_without_secrets(error: Exception) -> None:
    def raises(query: str, seconds: float) -> Sample:
        raise error

    source, _ = a_source(raises)

    readings = read_all({"numbers": source}, questions(3))

    assert {reading.outcome for reading in readings} == {ReadingOutcome.FAILED}
    assert readings[0].detail.startswith(type(error).__name__)
    assert "hunter2" not in repr(readings)


def test_a_provider_that_cannot_even_be_opened_fails_for_all_of_its_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://ann:hunter2@nowhere")
    sources = make_sources({"prod": "prometheus+http://127.0.0.1:1"})

    readings = read_all(sources, questions(20, source="prod"))

    assert {reading.outcome for reading in readings} == {ReadingOutcome.FAILED}
    assert readings[0].detail.startswith("ValueError")
    assert "hunter2" not in repr(readings)
    assert all(sources["prod"].slots.acquire(timeout=5) for _ in range(MAX_AT_ONCE))


def test_a_question_that_goes_wrong_does_not_stop_the_others() -> None:
    def odd_ones_fail(query: str, seconds: float) -> Sample:
        if int(query[1:]) % 2:
            raise ValueError(query)
        return Sample(value=1.0)

    source, _ = a_source(odd_ones_fail)

    outcomes = [reading.outcome for reading in read_all({"numbers": source}, questions(40))]

    assert outcomes == [ReadingOutcome.VALUE, ReadingOutcome.FAILED] * 20


def test_a_provider_that_ignores_its_deadline_is_left_behind_and_does_not_pile_up_threads() -> None:
    released = threading.Event()

    def hangs(query: str, seconds: float) -> Sample:
        released.wait(30)
        return Sample(value=1.0)

    source, _ = a_source(hangs)
    before = threading.active_count()
    began = time.monotonic()
    late = [read_all({"numbers": source}, questions(20), seconds=0.2) for _ in range(4)]
    seconds, threads = time.monotonic() - began, threading.active_count()
    released.set()

    assert seconds < 2
    assert threads <= before + MAX_AT_ONCE
    assert {reading.outcome for readings in late for reading in readings} == {ReadingOutcome.FAILED}
    assert {reading.detail for reading in late[0]} == {"no answer within 0.2 s"}
    assert {reading.detail for reading in late[3]} == {"not asked: earlier questions still wait for an answer"}
    assert all(source.slots.acquire(timeout=5) for _ in range(MAX_AT_ONCE))
    source.slots.release(MAX_AT_ONCE)
    assert read_all({"numbers": source}, questions(1))[0].value == 1


def test_a_thousand_rollouts_on_a_dead_prometheus_cost_next_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sources = make_sources({"dead": f"prometheus+http://ann:hunter2@127.0.0.1:{free_port()}"})
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        readings = read_all(sources, questions(1_000, source="dead"))

    assert time.monotonic() - began < QUESTION_SECONDS
    assert {reading.outcome for reading in readings} == {ReadingOutcome.FAILED}
    assert sum("not asked: dead has failed in this tick: cannot be asked" in r.detail for r in readings) > 900
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text + repr(readings)


PATIENCE = 60.0  # a busy machine may take its time; a thousand timeouts, eight at once, would take five minutes


@pytest.mark.slow
def test_a_thousand_rollouts_on_a_hanging_prometheus_cost_one_timeout_and_other_sources_are_read() -> None:
    num_asked = 0

    def hangs(connection: socket.socket, request: bytes) -> None:
        nonlocal num_asked
        num_asked += 1
        never_answers(connection, request)

    with serving(hangs) as hanging, serving(answers_vector("7")) as sound:
        sources = make_sources({"hanging": f"prometheus+{hanging}", "sound": f"prometheus+{sound}"})
        began = time.monotonic()
        asked = [*questions(1_000, source="hanging"), *questions(100, source="sound")]
        readings = read_all(sources, asked, seconds=PATIENCE)
        seconds = time.monotonic() - began

    assert seconds < PATIENCE / 2, "one question's timeout, not that of every eight"
    assert num_asked <= MAX_AT_ONCE
    assert {reading.outcome for reading in readings[:1_000]} == {ReadingOutcome.FAILED}
    assert {reading.value for reading in readings[1_000:]} == {7}


def test_one_slow_query_costs_no_other_its_answer() -> None:
    def one_is_slow(query: str, seconds: float) -> Sample:
        time.sleep(1 if query == "q3" else 0.005)
        return Sample(value=1.0)

    source, _ = a_source(one_is_slow)

    readings = read_all({"numbers": source}, questions(200), seconds=0.3)

    assert [reading.name for reading in readings if reading.outcome is not ReadingOutcome.VALUE] == ["errors"]
    assert readings[3].detail == "no answer within 0.3 s"


def test_whom_a_slow_source_leaves_out_is_not_always_the_same() -> None:
    def slow(query: str, seconds: float) -> Sample:
        time.sleep(0.1)
        return Sample(value=1.0)

    source, _ = a_source(slow)
    answered: set[str] = set()
    for _ in itertools.repeat(None, 4):
        readings = read_all({"numbers": source}, questions(100), seconds=0.15)
        answered |= {reading.query for reading in readings if reading.outcome is ReadingOutcome.VALUE}
        assert all(source.slots.acquire(timeout=5) for _ in range(MAX_AT_ONCE))
        source.slots.release(MAX_AT_ONCE)

    assert len(answered) > 2 * MAX_AT_ONCE
