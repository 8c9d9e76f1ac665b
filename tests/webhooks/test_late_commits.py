"""PostgreSQL hands out ids before transactions commit: an event with a lower id may become visible last."""

from contextlib import suppress

import pytest

from control_plane.registry import outbox
from control_plane.registry.session import Sessions
from control_plane.registry.tables import WebhookSubscriberRow
from tests.builders import NOON
from tests.webhooks.receiver import Receiver, wait_until
from tests.webhooks.scene import a_courier, a_subscriber, known, told, wait_until_all_told

pytestmark = pytest.mark.postgres


@pytest.fixture
def registry_url(request: pytest.FixtureRequest) -> str:
    """On PostgreSQL alone: writers of SQLite come one after another."""
    return str(request.getfixturevalue("postgres").registry())


def test_an_event_that_commits_after_a_later_one_is_delivered(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    with a_courier(sessions, [a_subscriber(receiver.url)]):
        with sessions.writing() as slow:
            outbox.append(slow, event_id="search/1", kind="surefoot.test", subject="search", at=NOON, data={})
            slow.flush()
            told(sessions, "home_feed/1")
            receiver.wait_for(1)
            assert receiver.ids == ["home_feed/1"]
        receiver.wait_for(2)
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/1", "search/1"]


def test_it_is_delivered_where_the_courier_changed_in_between(sessions: Sessions, receiver: Receiver) -> None:
    known(sessions, "oncall")
    with sessions.writing() as slow:
        outbox.append(slow, event_id="search/1", kind="surefoot.test", subject="search", at=NOON, data={})
        slow.flush()
        with a_courier(sessions, [a_subscriber(receiver.url)]):
            told(sessions, "home_feed/1")
            receiver.wait_for(1)
    with a_courier(sessions, [a_subscriber(receiver.url)]):
        receiver.wait_for(2)
        wait_until_all_told(sessions)

    assert receiver.ids == ["home_feed/1", "search/1"]


def test_the_id_of_a_change_that_was_undone_is_waited_for_no_more(sessions: Sessions, receiver: Receiver) -> None:
    class ChangedMyMind(Exception):
        pass

    known(sessions, "oncall")
    with a_courier(sessions, [a_subscriber(receiver.url)], lease_seconds=0.3):
        with suppress(ChangedMyMind), sessions.writing() as undone:
            outbox.append(undone, event_id="search/1", kind="surefoot.test", subject="search", at=NOON, data={})
            undone.flush()
            raise ChangedMyMind
        told(sessions, "home_feed/1")
        receiver.wait_for(1)
        wait_until(lambda: _settled(sessions) == _last(sessions), "the hole to close")


def _settled(sessions: Sessions) -> int:
    with sessions.reading() as session:
        row = session.get(WebhookSubscriberRow, "oncall")
        return 0 if row is None else row.fanned_out_to


def _last(sessions: Sessions) -> int:
    with sessions.reading() as session:
        return outbox.last_id(session)
