from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.registry import deliveries, leases, outbox
from control_plane.registry.session import Sessions
from tests.builders import NOON
from tests.registry.scene import LATER

LONG_AGO = NOON - timedelta(days=100)
FAR = NOON + timedelta(days=100)


def told(session: Session, *ids: str) -> None:
    for event_id in ids:
        surface = event_id.partition("/")[0]
        outbox.append(session, event_id=event_id, kind="surefoot.test", subject=surface, at=NOON, data={})
        session.flush()


def made_out(session: Session, subscriber: str, *ids: str) -> None:
    """A subscriber with one open row for each of these events."""
    after = deliveries.register(session, subscriber)
    told(session, *ids)
    entries = outbox.read(session, after=after)
    deliveries.fan_out(session, subscriber, entries, fanned_out_to=outbox.last_id(session))


def due_ids(session: Session, subscriber: str = "oncall", **options: object) -> list[str]:
    found = deliveries.due(session, subscriber, **{"now": NOON, "limit": 10, **options})  # type: ignore[arg-type]
    return [due.entry.event.split('"id":"')[1].split('"')[0] for due in found]


def test_of_each_ordering_key_the_oldest_event_is_due(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1", "home_feed/2", "search/1", "search/2")

        assert due_ids(session) == ["home_feed/1", "search/1"]
        assert due_ids(session, without_keys=["home_feed"]) == ["search/1"]
        assert due_ids(session, limit=1) == ["home_feed/1"]
        assert due_ids(session, "nobody") == []


def test_a_failed_event_holds_its_key_back_until_its_next_attempt(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1", "home_feed/2", "search/1")
        first = outbox.read(session)[0].outbox_id
        deliveries.note_failed(session, "oncall", first, error="answered 500", next_attempt_at=LATER, now=NOON)

        assert due_ids(session) == ["search/1"]
        assert due_ids(session, now=LATER) == ["home_feed/1", "search/1"]
        assert deliveries.due(session, "oncall", now=LATER, limit=10)[0].attempts == 1


def test_a_dead_event_lets_the_next_one_pass_until_it_is_replayed(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1", "home_feed/2")
        first = outbox.read(session)[0].outbox_id
        deliveries.note_failed(session, "oncall", first, error="answered 410 Gone", next_attempt_at=None, now=NOON)

        assert due_ids(session) == ["home_feed/2"]
        assert [dead.outbox_id for dead in deliveries.list_dead(session)] == [first]

        assert deliveries.replay(session, "oncall", first) == 1

        assert due_ids(session) == ["home_feed/1"]
        assert deliveries.list_dead(session) == []


def test_only_a_dead_event_can_be_replayed(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1")
        first = outbox.read(session)[0].outbox_id

        with pytest.raises(UnknownName, match="no dead event"):
            deliveries.replay(session, "oncall", first)
        assert deliveries.replay(session, "oncall") == 0


def test_what_was_delivered_is_not_made_open_again_by_a_late_failure(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1")
        first = outbox.read(session)[0].outbox_id
        deliveries.note_delivered(session, "oncall", first, now=NOON)
        deliveries.note_failed(session, "oncall", first, error="late", next_attempt_at=NOON, now=NOON)

        assert due_ids(session, now=FAR) == []


def test_rows_made_twice_are_made_once(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1", "home_feed/2")
        entries = outbox.read(session)
        deliveries.note_delivered(session, "oncall", entries[0].outbox_id, now=NOON)

        deliveries.fan_out(session, "oncall", entries, fanned_out_to=entries[-1].outbox_id)

        assert due_ids(session, now=FAR) == ["home_feed/2"]


def test_each_subscriber_has_a_queue_of_its_own(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "audit", "home_feed/1")
        made_out(session, "oncall", "home_feed/2", "home_feed/3")
        second = outbox.read(session)[1].outbox_id
        deliveries.note_failed(session, "oncall", second, error="answered 500", next_attempt_at=LATER, now=NOON)

        audit, oncall = deliveries.queues(session)

    assert (audit.subscriber, audit.pending, audit.oldest_at, audit.last_error) == ("audit", 1, NOON, "")
    assert (oncall.subscriber, oncall.pending, oncall.dead, oncall.last_error) == ("oncall", 2, 0, "answered 500")


def test_a_subscriber_reads_on_where_it_was_and_from_the_end_where_the_registry_is_older(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", "home_feed/1")
        told(session, "home_feed/2")
        first, second = (entry.outbox_id for entry in outbox.read(session))
        assert deliveries.register(session, "oncall") == first

        deliveries.fan_out(session, "oncall", [], fanned_out_to=second + 1_000)

        assert deliveries.register(session, "oncall") == second


def test_old_deliveries_and_events_are_pruned_and_the_rest_stays(sessions: Sessions) -> None:
    with sessions.writing() as session:
        made_out(session, "oncall", *(f"home_feed/{number}" for number in range(1, 7)))
        numbers = [entry.outbox_id for entry in outbox.read(session)]
        deliveries.note_delivered(session, "oncall", numbers[0], now=LONG_AGO)
        deliveries.note_failed(session, "oncall", numbers[1], error="", next_attempt_at=None, now=LONG_AGO)
        deliveries.note_delivered(session, "oncall", numbers[2], now=NOON)
        deliveries.note_delivered(session, "oncall", numbers[5], now=LONG_AGO)

        pruned = deliveries.prune(session, "oncall", delivered_before=NOON, dead_before=LONG_AGO)
        forgotten = deliveries.prune_outbox(session, before=FAR)

        assert (pruned, forgotten) == (2, 1)
        assert [entry.outbox_id for entry in outbox.read(session)] == numbers[1:]  # the newest stays without a row
        assert len(deliveries.list_dead(session)) == 1


def test_no_event_is_pruned_that_a_subscriber_has_not_read(sessions: Sessions) -> None:
    with sessions.writing() as session:
        deliveries.register(session, "oncall")
        told(session, "home_feed/1", "home_feed/2")

        assert deliveries.prune_outbox(session, before=FAR) == 0


def test_an_event_after_a_prune_gets_a_number_that_no_other_had(sessions: Sessions) -> None:
    with sessions.writing() as session:
        told(session, "home_feed/1", "home_feed/2")
        last = outbox.last_id(session)
        deliveries.prune_outbox(session, before=FAR)
        told(session, "home_feed/3")

        assert outbox.last_id(session) > last


def test_a_subscriber_that_nobody_has_sent_to_for_long_is_forgotten(sessions: Sessions) -> None:
    with sessions.writing() as session:
        for name, seen_at in (("gone", LONG_AGO), ("oncall", NOON)):
            epoch = leases.acquire(session, deliveries.lease_of(name), "holder", 15.0)
            assert epoch is not None
            leases.note_tick(session, deliveries.lease_of(name), epoch, seen_at)
            made_out(session, name, f"{name}/1")

        assert deliveries.forget_silent(session, since=NOON - timedelta(days=1)) == ["gone"]
        assert [queue.subscriber for queue in deliveries.queues(session)] == ["oncall"]


def test_events_of_before_ordering_keys_are_ordered_by_their_subject(sessions: Sessions) -> None:
    with sessions.writing() as session:
        told(session, "home_feed/1")
        session.execute(text("UPDATE outbox SET ordering_key = NULL"))
        session.expire_all()

        assert outbox.read(session)[0].ordering_key == "home_feed"
