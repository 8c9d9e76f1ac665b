import json
from typing import Any

from sqlalchemy.orm import Session

from control_plane.domain.rollout import Command, Phase
from control_plane.domain.split import Split
from control_plane.registry import outbox, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene

SPLITS = "surefoot.split.changed"


def events_of(session: Session) -> list[dict[str, Any]]:
    return [json.loads(entry.event) for entry in outbox.read(session)]


def test_every_change_leaves_an_event_with_its_split(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

        events = [event for event in events_of(session) if event["type"] == SPLITS]
        last = events[-1]

        assert [event["id"] for event in events] == [f"home_feed/{generation}" for generation in range(1, 6)]
        assert (last["specversion"], last["subject"]) == ("1.0", "home_feed")
        assert Split.from_json(last["data"]["split"]) == surfaces.splits(session, now=NOON)[HOME_FEED]


def test_a_rollout_tells_of_every_phase_it_comes_to(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.HELD)
        rollouts.apply_command(session, rollout_id, Command.ROLL_BACK, by="bob", now=NOON, reason="CTR fell")

        told = [event for event in events_of(session) if event["type"].startswith("surefoot.rollout.")]

    assert [event["type"].rpartition(".")[2] for event in told] == [
        *("pending", "warming", "shadow", "ramping", "held", "rolled_back")
    ]
    assert len({event["id"] for event in told}) == len(told)
    last = told[-1]["data"]
    assert (last["from"], last["by"], last["reason"]) == ("held", "bob", "CTR fell")
    assert (last["rollout_id"], last["surface"], last["candidate_bp"]) == (rollout_id, "home_feed", 0)


def test_an_approval_moves_no_phase_and_is_not_told(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        before = len(events_of(session))
        rollouts.apply_command(session, rollout_id, Command.APPROVE, by="bob", now=NOON)

        since = events_of(session)[before:]

    assert [event["type"] for event in since] == [SPLITS]


def test_quarantine_and_release_of_it_are_told_each_time_anew(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.registered(session, bad := a_version("bad", trunk="bad trunk"))
        for _ in range(2):
            rollouts.quarantine(session, bad.trunk, by="ada", reason="NaN scores", now=NOON)
            rollouts.release_quarantine(session, bad.trunk, by="bob", reason="false alarm", now=NOON)

        told = [event for event in events_of(session) if event["type"].startswith("surefoot.quarantine.")]

    assert [event["type"].rpartition(".")[2] for event in told] == ["added", "released"] * 2
    assert len({event["id"] for event in told}) == 4
    assert told[0]["data"] == {"digest": bad.trunk, "by": "ada", "reason": "NaN scores"}


def test_events_of_one_surface_have_one_ordering_key(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)

        assert {entry.ordering_key for entry in outbox.read(session)} == {"home_feed"}


def test_reading_goes_on_after_an_id(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_pending_rollout(session)
        first, *others = outbox.read(session)

        assert outbox.read(session, after=first.outbox_id) == others
        assert outbox.read(session, limit=1) == [first]
        assert outbox.last_id(session) == others[-1].outbox_id


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
        assert outbox.read(session) == []
        assert surfaces.list_surfaces(session) == []
