from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Event

import pytest
from sqlalchemy import func, select

from control_plane.domain.errors import KeyReused
from control_plane.registry import idempotency
from control_plane.registry.idempotency import FORGOTTEN_AT_ONCE, KEPT, Answer, Keyed
from control_plane.registry.session import Sessions
from control_plane.registry.tables import IdempotencyRow
from tests.builders import NOON

REQUEST = Keyed(operator="ada", key="k1", request_digest="sha256:" + "1" * 64)
ANSWER = Answer(status=201, headers={"ETag": '"7"'}, body='{"a":1}')
TOO_LATE = NOON + KEPT + timedelta(seconds=1)
WAIT_SECONDS = 0.3  # a twin that did not wait would be through by then


def carried_out(sessions: Sessions, request: Keyed = REQUEST, *, answer: Answer = ANSWER, now: datetime = NOON) -> None:
    with sessions.writing() as session:
        assert idempotency.claim(session, request, now=now) is None
        idempotency.record(session, request, answer)


def claimed(sessions: Sessions, request: Keyed = REQUEST, *, now: datetime = NOON) -> Answer | None:
    with sessions.writing() as session:
        return idempotency.claim(session, request, now=now)


def recalled(sessions: Sessions, request: Keyed = REQUEST, *, now: datetime = NOON) -> Answer | None:
    with sessions.reading() as session:
        return idempotency.recall(session, request, now=now)


def test_a_key_that_was_answered_gives_the_answer(sessions: Sessions) -> None:
    carried_out(sessions)

    assert claimed(sessions) == ANSWER
    assert recalled(sessions) == ANSWER


def test_a_key_of_another_operator_is_another_key(sessions: Sessions) -> None:
    carried_out(sessions)

    assert claimed(sessions, replace(REQUEST, operator="grace")) is None


@pytest.mark.parametrize("look", [claimed, recalled])
def test_another_request_under_the_key_is_refused(
    sessions: Sessions, look: Callable[[Sessions, Keyed], Answer | None]
) -> None:
    carried_out(sessions)

    with pytest.raises(KeyReused, match="k1"):
        look(sessions, replace(REQUEST, request_digest="sha256:" + "2" * 64))


def test_a_key_whose_change_failed_is_free_again(sessions: Sessions) -> None:
    with sessions.writing() as session:
        assert idempotency.claim(session, REQUEST, now=NOON) is None
        session.rollback()

    assert recalled(sessions) is None
    assert claimed(sessions) is None


def test_a_key_expires_after_a_day(sessions: Sessions) -> None:
    carried_out(sessions)

    assert claimed(sessions, now=NOON + KEPT) == ANSWER
    assert recalled(sessions, now=TOO_LATE) is None
    assert claimed(sessions, now=TOO_LATE) is None


def test_an_expired_key_that_nothing_has_swept_away_is_taken_over(sessions: Sessions) -> None:
    """More have expired than one claim forgets, and this one is the youngest of them."""
    for number in range(FORGOTTEN_AT_ONCE + 1):
        age = timedelta(minutes=FORGOTTEN_AT_ONCE - number)
        carried_out(sessions, replace(REQUEST, key=f"k{number}"), now=NOON - age)
    youngest = Keyed(operator="ada", key=f"k{FORGOTTEN_AT_ONCE}", request_digest="sha256:" + "2" * 64)

    carried_out(sessions, youngest, answer=replace(ANSWER, status=200), now=TOO_LATE)

    found = recalled(sessions, youngest, now=TOO_LATE)
    assert found is not None
    assert found.status == 200


def test_expired_keys_leave_as_new_ones_come(sessions: Sessions) -> None:
    for number in range(2 * FORGOTTEN_AT_ONCE):
        carried_out(sessions, replace(REQUEST, key=f"old{number}"))

    for number in range(2):
        carried_out(sessions, replace(REQUEST, key=f"new{number}"), now=TOO_LATE)

    with sessions.reading() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyRow)) == 2


def test_a_twin_waits_for_the_first_and_gets_its_answer(sessions: Sessions) -> None:
    with ThreadPoolExecutor(1) as pool:
        with sessions.writing() as session:
            assert idempotency.claim(session, REQUEST, now=NOON) is None
            twin = pool.submit(claimed, sessions)
            assert not Event().wait(WAIT_SECONDS)
            assert not twin.done()
            idempotency.record(session, REQUEST, ANSWER)
        assert twin.result(timeout=10) == ANSWER


def test_a_twin_of_one_that_fails_takes_the_key(sessions: Sessions) -> None:
    with ThreadPoolExecutor(1) as pool:
        with sessions.writing() as session:
            assert idempotency.claim(session, REQUEST, now=NOON) is None
            twin = pool.submit(claimed, sessions)
            session.rollback()
        assert twin.result(timeout=10) is None
