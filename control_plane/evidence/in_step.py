"""Runs what asks for parts of the log in step: parts of the same files that are asked for at once are one query."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from control_plane.evidence.partition_query import Asked, PartitionQuery
from control_plane.evidence.shard_sums import Asking
from control_plane.evidence.sums import Sums
from control_plane.evidence.users import UserRows

Found = TypeVar("Found")
Answer = tuple[Sums, UserRows] | Exception


def run_in_step(
    sql: PartitionQuery, runs: Sequence[Asking[Found]], *, on_progress: Callable[[], None] = lambda: None
) -> list[Found | Exception]:
    """What each run comes to; one that fails does not stop the others."""
    found: dict[int, Found | Exception] = {}
    answers: Mapping[int, Answer | None] = dict.fromkeys(range(len(runs)))
    while answers:
        asked: dict[int, Asked] = {}
        for place, answer in answers.items():
            try:
                asked[place] = _go_on(runs[place], answer)
            except StopIteration as done:
                found[place] = done.value
            except Exception as error:
                found[place] = error
        answers = _answers(sql, asked, on_progress)
    return [found[place] for place in range(len(runs))]


def _go_on(run: Asking[Found], answer: Answer | None) -> Asked:
    if answer is None:
        return next(run)
    return run.throw(answer) if isinstance(answer, Exception) else run.send(answer)


def _answers(sql: PartitionQuery, asked: Mapping[int, Asked], on_progress: Callable[[], None]) -> dict[int, Answer]:
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, one in asked.items():
        alike.setdefault(one.alike, []).append(place)
    answers: dict[int, Answer] = {}
    for places in alike.values():
        on_progress()
        try:
            answers.update(zip(places, sql.answers([asked[place] for place in places]), strict=True))
        except Exception as error:
            answers.update(dict.fromkeys(places, error))
    return answers
