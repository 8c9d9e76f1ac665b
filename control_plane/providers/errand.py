"""One source's questions of one tick, carried by a few threads that nobody waits for in the end."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from queue import SimpleQueue

from control_plane.domain.plan import ExternalPlan
from control_plane.providers.contract import Ask, Sample, Subject, TooSlow, Unanswered, Unreachable, in_words
from control_plane.providers.redaction import without_secrets
from control_plane.providers.sources import MAX_AT_ONCE, Source

logger = logging.getLogger(__name__)

QUESTION_SECONDS = 2.5  # half of a tick's: one slow query leaves time to find out about the next ones
LEAST_SECONDS = 0.05  # with less time left a question is not worth asking

Answer = Sample | Unanswered


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One external metric of one rollout's plan."""

    metric: ExternalPlan
    subject: Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What is sent to a source: equal texts of one moment are one message, whoever asks."""

    source: str
    text: str
    now: datetime
    question: Question = field(compare=False)


class Errand:
    """Puts an answer to every message into `arriving`, whatever happens; what is late may come much later."""

    def __init__(
        self,
        source: Source,
        messages: Iterator[Message],
        arriving: "SimpleQueue[tuple[Message, Answer]]",
        *,
        deadline: float,
    ) -> None:
        self._source = source
        self._messages = messages
        self._arriving = arriving
        self._deadline = deadline  # on the monotonic clock
        self._lock = threading.Lock()
        self._gave_up: Unanswered | None = None
        self._num_heard = 0  # answers of any kind but silence

    def set_out(self, num_threads: int) -> None:
        num_started = sum(self._has_started_one() for _ in range(min(num_threads, MAX_AT_ONCE)))
        if num_started == 0:
            self._answer_the_rest(Unanswered("not asked: earlier questions still wait for an answer"))

    def _has_started_one(self) -> bool:
        if not self._source.slots.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._run, name=f"asks {self._source.name}", daemon=True).start()
        except RuntimeError:  # the process may have no more threads
            self._source.slots.release()
            return False
        return True

    def _run(self) -> None:
        try:
            with self._source.provider.opened() as ask:
                while (message := self._next()) is not None:
                    self._arriving.put((message, self._answer(message, ask)))
        except Exception as error:
            self._answer_the_rest(unanswered(error, self._source))
        finally:
            self._source.slots.release()

    def _answer_the_rest(self, reason: Unanswered) -> None:
        while (message := self._next()) is not None:
            self._arriving.put((message, reason))

    def _next(self) -> Message | None:
        with self._lock:
            return next(self._messages, None)

    def _answer(self, message: Message, ask: Ask) -> Answer:
        if self._gave_up is not None:
            return self._gave_up
        seconds = min(QUESTION_SECONDS, self._deadline - time.monotonic())
        if seconds < LEAST_SECONDS:
            return TooSlow("not asked: the time that one tick has for all external metrics was used up")
        heard_before = self._num_heard
        try:
            sample = _sample(ask, message.question, seconds)
            answer: Answer = replace(sample, note=without_secrets(sample.note, self._source.secrets))
        except Exception as error:
            answer = unanswered(error, self._source)
        self._take_note(answer, heard_before)
        return answer

    def _take_note(self, answer: Answer, heard_before: int) -> None:
        """Give the source up for this tick if it is away, or said nothing to anyone while this question was out."""
        with self._lock:
            is_silent = isinstance(answer, TooSlow) and self._num_heard == heard_before
            if not isinstance(answer, TooSlow):
                self._num_heard += 1
            if (is_silent or isinstance(answer, Unreachable)) and self._gave_up is None:
                self._gave_up = Unreachable(f"not asked: {self._source.name} has failed in this tick: {answer}")
                logger.warning("metric source %s: %s", self._source.name, answer)


def unanswered(error: Exception, source: Source) -> Unanswered:
    """The error without secrets; one that no provider foresaw is told with its type."""
    is_foreseen = isinstance(error, Unanswered)
    words = str(error) if is_foreseen else f"{type(error).__name__}: {error}"
    kind = type(error) if isinstance(error, Unanswered) else Unanswered
    return kind(in_words(without_secrets(words, source.secrets)))


def _sample(ask: Ask, question: Question, seconds: float) -> Sample:
    """The value and, where the plan has a query for it, its time."""
    metric, subject = question.metric, question.subject
    deadline = time.monotonic() + seconds
    sample = ask(metric.query, subject, seconds=seconds)
    if not metric.at_query or sample.value is None:
        return sample
    taken = ask(metric.at_query, subject, seconds=max(LEAST_SECONDS, deadline - time.monotonic()))
    if taken.value is None:
        raise Unanswered("at_query is empty, so that nobody knows how old the value is")
    return replace(sample, at=taken.value)
