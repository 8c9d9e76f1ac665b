"""Deliveries over real sockets, on both databases."""

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from control_plane.domain.rollout import Command, Phase
from control_plane.registry import deliveries, freezes, outbox, rollouts
from control_plane.registry.session import Sessions, make_engine
from tests.builders import NOON
from tests.postgres import PostgresCluster
from tests.registry import scene as registry_scene
from tests.webhooks.receiver import Answer, Received, Receiver, wait_until
from tests.webhooks.scene import (
    KEY,
    OTHER_KEY,
    a_courier,
    a_subscriber,
    hand_lease_to,
    in_text,
    known,
    queue,
    told,
    wait_until_all_told,
)

FAILS = Answer(status=500)


def test_a_change_reaches_its_subscriber_signed(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    with sessions.writing() as session:
        registry_scene.a_serving_surface(session)
        rollout_id = registry_scene.a_rollout_in(session, Phase.RAMPING)
        rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="bob", now=NOON, reason="CTR fell")

    with a_courier(sessions, [a_subscriber(receiver.url, events=("surefoot.rollout.rolled_back",))]):
        (received,) = receiver.wait_for(1)
        wait_until_all_told(sessions)

    event = Webhook(in_text(KEY)).verify(received.body, received.headers)
    assert (event["specversion"], event["type"]) == ("1.0", "surefoot.rollout.rolled_back")
    assert (event["data"]["by"], event["data"]["reason"]) == ("bob", "CTR fell")
    assert event["id"] == received.id
    assert received.headers["content-type"] == "application/cloudevents+json; charset=utf-8"


@pytest.mark.postgres
def test_where_the_database_tells_of_changes_nobody_waits_for_the_next_look(
    postgres: PostgresCluster, receiver: Receiver
) -> None:
    engine = make_engine(postgres.registry())
    sessions = Sessions(engine)
    known(sessions, "oncall")
    answers = iter([Answer(status=410)])
    receiver.answers = lambda received: next(answers, Answer())

    with a_courier(
        sessions, [a_subscriber(receiver.url)], poll_seconds=300.0, listening_seconds=300.0, lease_seconds=900.0
    ):
        told(sessions, "home_feed/1")
        receiver.wait_for(1)
        wait_until(lambda: queue(sessions).dead == 1, "the event to be given up")
        with sessions.writing() as session:
            freezes.declare(session, None, by="ann", reason="a fire", now=NOON)
        receiver.wait_for(2)
        with sessions.writing() as session:
            deliveries.replay(session, "oncall")
        receiver.wait_for(3)

    assert receiver.ids == ["home_feed/1", "freeze/1/declared", "home_feed/1"]
    engine.dispose()


@pytest.mark.postgres
def test_a_failed_event_comes_again_in_time_though_no_word_comes_of_it(
    postgres: PostgresCluster, receiver: Receiver
) -> None:
    engine = make_engine(postgres.registry())
    sessions = Sessions(engine)
    known(sessions, "oncall")
    answers = iter([FAILS])
    receiver.answers = lambda received: next(answers, Answer())

    with a_courier(sessions, [a_subscriber(receiver.url)], listening_seconds=300.0, lease_seconds=900.0):
        told(sessions, "home_feed/1")
        receiver.wait_for(2)

    engine.dispose()


def test_while_a_secret_changes_receivers_with_either_one_accept(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")

    with a_courier(sessions, [a_subscriber(receiver.url, secrets=(KEY, OTHER_KEY))]):
        (received,) = receiver.wait_for(1)

    for key in (KEY, OTHER_KEY):
        assert Webhook(in_text(key)).verify(received.body, received.headers)["id"] == "home_feed/1"


def test_a_subscriber_that_is_new_is_told_of_what_comes_and_not_of_the_past(
    sessions: Sessions, receiver: Receiver
) -> None:
    told(sessions, "home_feed/1", "home_feed/2")

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        wait_until(lambda: bool(_subscribers(sessions)), "the subscriber to be known")
        told(sessions, "home_feed/3")
        receiver.wait_for(1)

    assert receiver.ids == ["home_feed/3"]


def test_only_what_a_subscriber_asks_for_is_sent(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", kind="surefoot.split.changed")
    told(sessions, "home_feed/2", kind="surefoot.quarantine.added")
    told(sessions, "home_feed/3", kind="surefoot.rollout.expired")

    with a_courier(sessions, [a_subscriber(receiver.url, events=("surefoot.rollout.*", "surefoot.quarantine.added"))]):
        receiver.wait_for(2)
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/2", "home_feed/3"]


def test_a_failed_event_comes_again_and_holds_back_its_own_surface_only(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", "search/1", "home_feed/2", "search/2", "home_feed/3")
    fails = iter([True, True])
    receiver.answers = lambda received: FAILS if received.id == "home_feed/1" and next(fails, False) else Answer()

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        receiver.wait_for(7)
        wait_until_all_told(sessions)

    assert [event for event in receiver.ids if event.startswith("home_feed")] == [
        *("home_feed/1", "home_feed/1", "home_feed/1", "home_feed/2", "home_feed/3")
    ]
    assert [event for event in receiver.ids if event.startswith("search")] == ["search/1", "search/2"]
    assert receiver.ids.index("search/2") < len(receiver.ids) - 1


def test_after_the_last_attempt_an_event_is_dead_and_the_next_one_goes_on(
    sessions: Sessions, receiver: Receiver
) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", "home_feed/2")
    receiver.answers = lambda received: (
        Answer(status=400, body=b"no such phase") if received.id == "home_feed/1" else Answer()
    )

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/1"] * 4 + ["home_feed/2"]
    with sessions.reading() as session:
        (dead,) = deliveries.list_dead(session)
    assert (dead.subscriber, dead.attempts, dead.last_error) == (
        *("oncall", 4, "answered 400 Bad Request: no such phase"),
    )


def test_what_is_replayed_goes_out_again_with_its_id(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    receiver.answers = lambda received: FAILS

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        wait_until(lambda: queue(sessions).dead == 1, "the event to be given up")
        receiver.answers = lambda received: Answer()
        with sessions.writing() as session:
            assert deliveries.replay(session, "oncall") == 1
        receiver.wait_for(5)
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/1"] * 5
    assert queue(sessions).dead == 0


def test_a_receiver_that_is_gone_is_not_asked_again(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    receiver.answers = lambda received: Answer(status=410)

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        wait_until(lambda: queue(sessions).dead == 1, "the event to be given up")

    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_for_time_gets_it(sessions: Sessions, receiver: Receiver, status: int) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    answers = iter([Answer(status=status, headers={"retry-after": "1"}), Answer()])
    receiver.answers = lambda received: next(answers)

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        first, second = receiver.wait_for(2)

    assert second.at - first.at >= 1.0


def test_a_receiver_that_hangs_delays_no_other_surface_and_no_other_subscriber(
    sessions: Sessions, receiver: Receiver, other_receiver: Receiver
) -> None:
    known(sessions, "oncall", "audit")
    receiver.answers = lambda received: Answer(after_seconds=60 if received.id.startswith("home_feed") else 0)
    told(sessions, "home_feed/1", "home_feed/2", "search/1")
    subscribers = [a_subscriber(receiver.url), a_subscriber(other_receiver.url, "audit")]

    began = time.monotonic()
    with a_courier(sessions, subscribers):
        receiver.wait_for(2)
        other_receiver.wait_for(3)
        wait_until_all_told(sessions, "audit")
        took = time.monotonic() - began

    assert took < 5.0  # the time-out of the request that hangs
    assert sorted(receiver.ids) == ["home_feed/1", "search/1"]
    assert sorted(other_receiver.ids) == ["home_feed/1", "home_feed/2", "search/1"]


def test_no_decision_waits_for_a_receiver_that_hangs(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    with sessions.writing() as session:
        registry_scene.a_serving_surface(session)
        rollout_id = registry_scene.a_rollout_in(session, Phase.RAMPING)
    receiver.answers = lambda received: Answer(after_seconds=60)

    with a_courier(sessions, [a_subscriber(receiver.url)], timeout_seconds=60.0):
        receiver.wait_for(1)
        began = time.monotonic()
        with sessions.writing() as session:
            rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="bob", now=NOON)
        took = time.monotonic() - began

    assert took < 2.0
    with sessions.reading() as session:
        assert rollouts.get(session, rollout_id).phase is Phase.ROLLED_BACK
        assert queue(sessions).pending > 0


def test_bytes_that_drip_for_ever_count_as_no_answer(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    receiver.answers = lambda received: Answer(drips=True)

    with a_courier(sessions, [a_subscriber(receiver.url)], timeout_seconds=0.3):
        wait_until(lambda: queue(sessions).dead == 1, "the event to be given up")

    with sessions.reading() as session:
        assert deliveries.list_dead(session)[0].last_error == "no answer within 0.3 s"


def test_nothing_is_sent_to_where_a_redirect_points(
    sessions: Sessions, receiver: Receiver, other_receiver: Receiver
) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    receiver.answers = lambda received: Answer(status=307, headers={"location": other_receiver.url})

    with a_courier(sessions, [a_subscriber(receiver.url)]):
        wait_until(lambda: queue(sessions).dead == 1, "the event to be given up")

    assert other_receiver.received == []
    with sessions.reading() as session:
        error = deliveries.list_dead(session)[0].last_error
    assert error == "answered 307 Temporary Redirect; redirects are not followed"


def test_two_couriers_send_each_event_once_while_both_live(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    ids = [f"{surface}/{number}" for number in range(20) for surface in ("home_feed", "search")]
    subscriber = a_subscriber(receiver.url)

    with a_courier(sessions, [subscriber]), a_courier(sessions, [subscriber]):
        told(sessions, *ids)
        receiver.wait_for(len(ids))
        wait_until_all_told(sessions)

    assert sorted(receiver.ids) == sorted(ids)
    for surface in ("home_feed", "search"):
        assert [event for event in receiver.ids if event.startswith(surface)] == [
            event for event in ids if event.startswith(surface)
        ]


def test_a_courier_that_stops_hands_over_at_once(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    subscriber = a_subscriber(receiver.url)
    with a_courier(sessions, [subscriber], lease_seconds=1.5):
        told(sessions, "home_feed/1")
        receiver.wait_for(1)
        wait_until_all_told(sessions)

    with a_courier(sessions, [subscriber], lease_seconds=1.5):
        told(sessions, "home_feed/2")
        receiver.wait_for(2)

    assert receiver.ids == ["home_feed/1", "home_feed/2"]


def test_a_courier_that_lost_its_lease_records_nothing_any_more(sessions: Sessions, receiver: Receiver) -> None:
    """As after a SIGSTOP: its request comes back when another one has the lease already."""
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    may_answer = threading.Event()

    def answer(received: Received) -> Answer:
        may_answer.wait(20)
        return FAILS

    receiver.answers = answer
    with a_courier(sessions, [a_subscriber(receiver.url)], timeout_seconds=30.0, lease_seconds=60.0):
        receiver.wait_for(1)
        with sessions.writing() as session:
            hand_lease_to(session, "another")
        may_answer.set()
        time.sleep(0.3)

    with sessions.reading() as session:
        (due,) = deliveries.due(session, "oncall", now=NOON.replace(year=2100), limit=9)
    assert due.attempts == 0


def test_what_was_delivered_long_ago_is_forgotten(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", "search/1", "home_feed/2")

    with a_courier(sessions, [a_subscriber(receiver.url)], retention=timedelta(seconds=1), prune_seconds=0.1):
        receiver.wait_for(3)
        wait_until(lambda: _num_kept(sessions) == 1, "all but the newest event to be forgotten")
        told(sessions, "home_feed/3")
        receiver.wait_for(4)

    assert len(set(receiver.ids)) == len(receiver.ids) == 4


@pytest.mark.slow
def test_an_outcome_that_the_registry_does_not_take_is_brought_again_and_the_event_is_not(
    sessions: Sessions, receiver: Receiver
) -> None:
    """The registry is locked from the moment of the request until after its patience with a lock, which is 10 s."""
    known(sessions, "oncall")
    told(sessions, "home_feed/1")
    is_locked, was_answered = threading.Event(), threading.Event()

    def answer(received: Received) -> Answer:
        is_locked.wait(20)
        was_answered.set()
        return Answer()

    receiver.answers = answer
    with a_courier(sessions, [a_subscriber(receiver.url)], timeout_seconds=30.0, lease_seconds=60.0):
        receiver.wait_for(1)
        with sessions.writing() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                session.execute(text("LOCK TABLE webhook_delivery IN ACCESS EXCLUSIVE MODE"))
            is_locked.set()
            assert was_answered.wait(10)
            time.sleep(11.5)
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/1"]


def _num_kept(sessions: Sessions) -> int:
    with sessions.reading() as session:
        return len(outbox.read(session))


def _subscribers(sessions: Sessions) -> list[str]:
    with sessions.reading() as session:
        return [queue.subscriber for queue in deliveries.queues(session)]
