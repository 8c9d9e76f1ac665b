"""Asks for every number that a tick needs, all at once and under one deadline. Whatever happens is a reading."""

import random
import time
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue

from control_plane.domain.readings import Reading
from control_plane.providers.contract import TooSlow, Unanswered, failed, reading_of
from control_plane.providers.errand import Answer, Errand, Message, Question, unanswered
from control_plane.providers.sources import Source

TOTAL_SECONDS = 5.0  # for all questions of a tick: checks that need none wait as long
GRACE_SECONDS = 0.25  # so that what an answer was late for is told in the source's words


def read_all(
    sources: Mapping[str, Source], questions: Sequence[Question], *, seconds: float = TOTAL_SECONDS
) -> list[Reading]:
    """One reading for each question, in their order, within about `seconds`; never raises.

    A source that cannot be reached, or says nothing at all while a question runs out of time, is asked nothing more in
    this tick: what was still to be asked of it has failed.
    """
    messages = [_message(sources, question) for question in questions]
    answers = _answers(sources, [message for message in messages if isinstance(message, Message)], seconds)
    return [_reading(question, message, answers) for question, message in zip(questions, messages, strict=True)]


def _message(sources: Mapping[str, Source], question: Question) -> Message | Unanswered:
    metric = question.metric
    source = sources.get(metric.source)
    if source is None:
        known = f"known: {', '.join(sorted(sources))}" if sources else "this deployment has none"
        return Unanswered(f"no metric source {metric.source!r}; {known}")
    try:
        text = source.provider.shown(metric.query, question.subject)
        if metric.at_query:
            text += f"\nits time: {source.provider.shown(metric.at_query, question.subject)}"
    except Exception as error:
        return unanswered(error, source)
    return Message(source=source.name, text=text, now=question.subject.now, question=question)


def _answers(sources: Mapping[str, Source], messages: Sequence[Message], seconds: float) -> dict[Message, Answer]:
    deadline = time.monotonic() + seconds
    arriving: SimpleQueue[tuple[Message, Answer]] = SimpleQueue()
    wanted = list(dict.fromkeys(messages))
    random.shuffle(wanted)  # whom a slow source leaves out is not always the same
    for name in {message.source for message in wanted}:
        own = [message for message in wanted if message.source == name]
        Errand(sources[name], iter(own), arriving, deadline=deadline).set_out(len(own))
    answers: dict[Message, Answer] = {}
    while len(answers) < len(wanted):
        try:
            message, answer = arriving.get(timeout=max(0.0, deadline + GRACE_SECONDS - time.monotonic()))
        except Empty:
            late = TooSlow(f"no answer within {seconds:g} s")
            return dict.fromkeys(wanted, late) | answers
        answers[message] = answer
    return answers


def _reading(question: Question, message: Message | Unanswered, answers: Mapping[Message, Answer]) -> Reading:
    if isinstance(message, Unanswered):
        return failed(question.metric, question.metric.query, str(message))
    answer = answers[message]
    if isinstance(answer, Unanswered):
        return failed(question.metric, message.text, str(answer))
    return reading_of(question.metric, answer, query=message.text, now=question.subject.now)
