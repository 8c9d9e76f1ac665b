"""Asks for every number that a tick needs, all at once and under one deadline. Whatever happens is a reading."""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from queue import Empty, SimpleQueue

from control_plane.domain.plan import ExternalPlan
from control_plane.domain.readings import Reading
from control_plane.providers.contract import (
    Sample,
    Subject,
    TooSlow,
    Unanswered,
    Unreachable,
    failed,
    in_words,
    reading_of,
)
from control_plane.providers.redaction import without_secrets
from control_plane.providers.sources import MAX_AT_ONCE, Source

logger = logging.getLogger(__name__)

TOTAL_SECONDS = 5.0  # for all questions of a tick: a third of the scheduler's lease
QUESTION_SECONDS = 2.5  # half of it: one source's slow query leaves time to find out about the next ones
GRACE_SECONDS = 0.25  # so that what an answer was late for is told in the source's words
LEAST_SECONDS = 0.05  # with less time left a question is not worth asking


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One external metric of one rollout's plan."""

    metric: ExternalPlan
    subject: Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ask:
    """What is sent; questions that come to the same text at the same moment are asked once."""

    source: str
    shown: str
    now: datetime
    question: Question = field(compare=False)


_Answer = Sample | Unanswered


def read_all(
    sources: Mapping[str, Source], questions: Sequence[Question], *, seconds: float = TOTAL_SECONDS
) -> list[Reading]:
    """One reading for each question, in their order, within about `seconds`; never raises.

    A source that cannot be reached, or says nothing at all while a question runs out of time, is asked nothing more in
    this tick: what was still to be asked of it has failed.
    """
    asks = [_ask(sources, question) for question in questions]
    wanted: dict[str, dict[_Ask, None]] = {}
    for ask in asks:
        if isinstance(ask, _Ask):
            wanted.setdefault(ask.source, {})[ask] = None
    answers = _answers(sources, wanted, seconds)
    return [_reading(question, ask, answers) for question, ask in zip(questions, asks, strict=True)]


def _ask(sources: Mapping[str, Source], question: Question) -> "_Ask | Unanswered":
    metric = question.metric
    source = sources.get(metric.source)
    if source is None:
        known = f"known: {', '.join(sorted(sources))}" if sources else "this deployment has none"
        return Unanswered(f"no metric source {metric.source!r}; {known}")
    try:
        shown = source.provider.shown(metric.query, question.subject)
        at_shown = source.provider.shown(metric.at_query, question.subject) if metric.at_query else ""
    except Exception as error:
        return _unanswered(error, source)
    whole = f"{shown}\nits time: {at_shown}" if at_shown else shown
    return _Ask(source=source.name, shown=whole, now=question.subject.now, question=question)


def _answers(
    sources: Mapping[str, Source], wanted: Mapping[str, Mapping[_Ask, None]], seconds: float
) -> dict[_Ask, _Answer]:
    deadline = time.monotonic() + seconds
    arriving: SimpleQueue[tuple[_Ask, _Answer]] = SimpleQueue()
    for name, asks in wanted.items():
        in_any_order = random.sample(list(asks), len(asks))  # whom a slow source leaves out is not always the same
        _Errand(sources[name], iter(in_any_order), arriving, deadline).set_out(len(asks))
    answers: dict[_Ask, _Answer] = {}
    num_wanted = sum(map(len, wanted.values()))
    while len(answers) < num_wanted:
        try:
            ask, answer = arriving.get(timeout=max(0.0, deadline + GRACE_SECONDS - time.monotonic()))
        except Empty:
            late = TooSlow(f"no answer within {seconds:g} s")
            return {**{ask: late for asks in wanted.values() for ask in asks}, **answers}
        answers[ask] = answer
    return answers


def _reading(question: Question, ask: "_Ask | Unanswered", answers: Mapping[_Ask, _Answer]) -> Reading:
    if isinstance(ask, Unanswered):
        return failed(question.metric, question.metric.query, str(ask))
    answer = answers[ask]
    if isinstance(answer, Unanswered):
        return failed(question.metric, ask.shown, str(answer))
    return reading_of(question.metric, answer, query=ask.shown, now=question.subject.now)


class _Errand:
    """One source's questions of one tick, carried by up to `MAX_AT_ONCE` threads that nobody waits for in the end."""

    def __init__(
        self, source: Source, asks: Iterator[_Ask], arriving: SimpleQueue[tuple[_Ask, _Answer]], deadline: float
    ) -> None:
        self._source = source
        self._asks = asks
        self._arriving = arriving
        self._deadline = deadline
        self._lock = threading.Lock()
        self._gave_up: Unanswered | None = None
        self._num_heard = 0  # answers of any kind but silence

    def set_out(self, num_asks: int) -> None:
        num_threads = sum(self._has_started_one() for _ in range(min(num_asks, MAX_AT_ONCE)))
        if num_threads == 0:
            self._gave_up = Unanswered("not asked: earlier questions still wait for an answer")
            self._carry()

    def _has_started_one(self) -> bool:
        if not self._source.slots.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._carry_and_free, name=f"asks {self._source.name}", daemon=True).start()
        except RuntimeError:  # the process may have no more threads
            self._source.slots.release()
            return False
        return True

    def _carry_and_free(self) -> None:
        try:
            self._carry()
        finally:
            self._source.slots.release()

    def _carry(self) -> None:
        while (ask := self._next()) is not None:
            self._arriving.put((ask, self._answer(ask)))

    def _next(self) -> _Ask | None:
        with self._lock:
            return next(self._asks, None)

    def _answer(self, ask: _Ask) -> _Answer:
        if self._gave_up is not None:
            return self._gave_up
        seconds = min(QUESTION_SECONDS, self._deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            return TooSlow("not asked: the time that one tick has for all external metrics was used up")
        heard_before = self._num_heard
        try:
            sample = self._sample(ask.question, seconds)
            answer: _Answer = replace(sample, note=without_secrets(sample.note, self._source.secrets))
        except Exception as error:
            answer = _unanswered(error, self._source)
        self._take_note(answer, heard_before)
        return answer

    def _sample(self, question: Question, seconds: float) -> Sample:
        metric, subject = question.metric, question.subject
        deadline = time.monotonic() + seconds
        sample = self._source.provider.sample(metric.query, subject, seconds=seconds)
        if not metric.at_query or sample.value is None:
            return sample
        seconds = max(LEAST_SECONDS, deadline - time.monotonic())
        taken = self._source.provider.sample(metric.at_query, subject, seconds=seconds)
        if taken.value is None:
            raise Unanswered("at_query is empty, so that nobody knows how old the value is")
        return replace(sample, at=taken.value)

    def _take_note(self, answer: _Answer, heard_before: int) -> None:
        with self._lock:
            is_silent = isinstance(answer, TooSlow) and self._num_heard == heard_before
            if not isinstance(answer, TooSlow):
                self._num_heard += 1
            if (is_silent or isinstance(answer, Unreachable)) and self._gave_up is None:
                self._gave_up = Unreachable(f"not asked: {self._source.name} has failed in this tick: {answer}")
                logger.warning("metric source %s: %s", self._source.name, answer)


def _unanswered(error: Exception, source: Source) -> Unanswered:
    """The error without secrets; one that no provider foresaw is told with its type."""
    words = str(error) if isinstance(error, Unanswered) else f"{type(error).__name__}: {error}"
    kind = type(error) if isinstance(error, Unanswered) else Unanswered
    return kind(in_words(without_secrets(words, source.secrets)))
