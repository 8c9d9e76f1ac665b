import json

from control_plane.domain.rollout import Phase
from control_plane.domain.split import Split
from control_plane.registry import outbox, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON
from tests.registry import scene


def test_every_change_leaves_an_event_with_its_split(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

        events = [json.loads(entry.event) for entry in outbox.pending(session, 100)]
        last = events[-1]

        assert [event["id"] for event in events] == [f"home_feed/{generation}" for generation in range(1, 6)]
        assert (last["specversion"], last["type"], last["subject"]) == ("1.0", "surefoot.split.changed", "home_feed")
        assert Split.from_json(last["data"]["split"]) == surfaces.splits(session, now=NOON)[HOME_FEED]


def test_what_was_delivered_is_pending_no_more(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_pending_rollout(session)
        first, second = outbox.pending(session, 100)

        outbox.mark_delivered(session, [first.outbox_id], now=NOON)

        assert outbox.pending(session, 100) == [second]


def test_a_change_that_is_undone_leaves_no_event(sessions: Sessions) -> None:
    class ChangedMyMind(Exception):
        pass

    try:
        with sessions.writing() as session:
            scene.a_serving_surface(session)
            raise ChangedMyMind
    except ChangedMyMind:
        pass

    with sessions.reading() as session:
        assert outbox.pending(session, 100) == []
        assert surfaces.list_surfaces(session) == []
