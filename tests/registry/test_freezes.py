"""Who may stop the line, where and for how long, and what an outside hears of it."""

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from control_plane.domain import event_types
from control_plane.domain.errors import Forbidden, Frozen, InvalidField, UnknownName
from control_plane.domain.freeze import Calendar, Freeze, StandingFreeze
from control_plane.domain.model_version import Surface
from control_plane.registry import changes, freezes, outbox, stables
from control_plane.registry.session import Sessions
from control_plane.registry.tables import FreezeRow, OutboxRow
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_version
from tests.registry import scene
from tests.registry.scene import LATER, SEARCH

ONCALL = frozenset({"oncall"})
WEEKENDS = Calendar(recurrence="FREQ=WEEKLY;BYDAY=FR", duration_seconds=64 * 3_600.0, time_zone="America/New_York")
FRIDAY_17_00 = datetime(2026, 3, 6, 22, tzinfo=UTC)  # in New York, in winter
MONDAY_09_00 = datetime(2026, 3, 9, 13, tzinfo=UTC)  # in New York, in summer


@pytest.fixture
def surface(sessions: Sessions) -> Surface:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
    return HOME_FEED


def declared(sessions: Sessions, surface: Surface | None = HOME_FEED, **given: Any) -> Freeze:
    with sessions.writing() as session:
        return freezes.declare(session, surface, **{"by": "ann", "reason": "code freeze", "now": NOON, **given})


def standing(sessions: Sessions, *, now: datetime = NOON, surface: Surface = HOME_FEED) -> StandingFreeze | None:
    with sessions.reading() as session:
        return freezes.standing(session, surface, now=now)


def grow(sessions: Sessions, *, groups: Collection[str] = (), reason: str = "", surface: Surface = HOME_FEED) -> None:
    with sessions.writing() as session:
        freezes.check(session, surface, now=NOON, by="bob", groups=groups, reason=reason)


def told(session: Session, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(text) for text in session.scalars(select(OutboxRow.event).order_by(OutboxRow.outbox_id))]
    return [event for event in events if event["type"] == kind]


@pytest.mark.usefixtures("surface")
class TestStanding:
    def test_nothing_stands_where_nothing_was_declared(self, sessions: Sessions) -> None:
        assert standing(sessions) is None
        grow(sessions)

    def test_a_freeze_stands_from_its_first_moment_up_to_its_last(self, sessions: Sessions) -> None:
        declared(sessions, starts_at=NOON + timedelta(hours=1), ends_at=NOON + timedelta(hours=2))

        held = [standing(sessions, now=NOON + timedelta(minutes=minutes)) for minutes in (59, 60, 119, 120)]

        assert [freeze is not None for freeze in held] == [False, True, True, False]

    def test_a_freeze_without_an_end_stands_until_it_is_lifted(self, sessions: Sessions) -> None:
        freeze = declared(sessions)
        in_years = NOON + timedelta(days=9_000)
        before = standing(sessions, now=in_years)

        with sessions.writing() as session:
            freezes.lift(session, freeze.freeze_id, by="ann", reason="shipped", now=LATER)

        assert before is not None
        assert before.until is None
        assert standing(sessions, now=in_years) is None

    def test_a_freeze_of_all_surfaces_holds_those_that_come_later_too(self, sessions: Sessions) -> None:
        declared(sessions, None)
        with sessions.writing() as session:
            scene.a_serving_surface(session, a_version("a", surface="search"))

        assert standing(sessions, surface=SEARCH) is not None

    def test_a_freeze_of_one_surface_leaves_the_others_alone(self, sessions: Sessions) -> None:
        with sessions.writing() as session:
            scene.a_serving_surface(session, a_version("a", surface="search"))
        declared(sessions)

        assert standing(sessions, surface=SEARCH) is None

    def test_of_several_freezes_the_one_that_ends_last_is_waited_for(self, sessions: Sessions) -> None:
        for hours in (1, 3, 2):
            declared(sessions, owner=f"owner-{hours}", ends_at=NOON + timedelta(hours=hours))
        found = standing(sessions)
        assert found is not None
        assert (found.owner, found.until) == ("owner-3", NOON + timedelta(hours=3))

        declared(sessions, owner="without end")
        found = standing(sessions)
        assert found is not None
        assert (found.owner, found.until) == ("without end", None)

    def test_a_recurring_freeze_says_until_when_on_the_day_that_the_clocks_go_forward(self, sessions: Sessions) -> None:
        declared(sessions, starts_at=FRIDAY_17_00, calendar=WEEKENDS)

        found = standing(sessions, now=FRIDAY_17_00)

        assert found is not None
        assert found.until == MONDAY_09_00
        assert standing(sessions, now=FRIDAY_17_00 - timedelta(seconds=1)) is None
        assert standing(sessions, now=MONDAY_09_00) is None

    def test_a_recurring_freeze_ends_with_its_expiry_in_the_middle_of_an_occurrence(self, sessions: Sessions) -> None:
        saturday = FRIDAY_17_00 + timedelta(days=1)
        declared(sessions, starts_at=FRIDAY_17_00, ends_at=saturday, calendar=WEEKENDS)

        found = standing(sessions, now=FRIDAY_17_00)

        assert found is not None
        assert found.until == saturday
        assert standing(sessions, now=saturday) is None
        assert standing(sessions, now=FRIDAY_17_00 + timedelta(days=7)) is None

    def test_a_freeze_declared_by_a_clock_ahead_stands_at_once_for_one_behind(self, sessions: Sessions) -> None:
        declared(sessions, now=NOON + timedelta(seconds=5), ends_at=NOON + timedelta(hours=1))

        assert standing(sessions, now=NOON - timedelta(seconds=5)) is not None

    def test_a_calendar_that_this_machine_cannot_read_is_taken_to_stand(self, sessions: Sessions) -> None:
        declared(sessions, starts_at=FRIDAY_17_00, calendar=WEEKENDS)
        with sessions.writing() as session:
            session.execute(update(FreezeRow).values(time_zone="Mars/Olympus_Mons"))

        found = standing(sessions, now=FRIDAY_17_00)

        assert found is not None
        assert found.until is None


@pytest.mark.usefixtures("surface")
class TestOverruling:
    def test_what_grows_is_refused_with_who_froze_it_why_and_until_when(self, sessions: Sessions) -> None:
        declared(sessions, owner="release team", bypass_group="oncall", ends_at=NOON + timedelta(hours=2))

        with pytest.raises(Frozen) as refusal:
            grow(sessions)

        assert str(refusal.value) == (
            "home_feed is frozen until 2026-03-03T14:00:00Z by release team: code freeze; "
            "oncall may overrule it with a reason; "
            "`surefoot unfreeze 1 --reason …` lifts it, which release team, ann or anyone of oncall may"
        )

    @pytest.mark.parametrize(
        ("groups", "reason"), [((), "hotfix"), ({"leads"}, "hotfix"), (ONCALL, ""), (ONCALL, "  ")]
    )
    def test_neither_a_reason_nor_the_group_alone_overrules(
        self, sessions: Sessions, groups: Collection[str], reason: str
    ) -> None:
        declared(sessions, bypass_group="oncall")

        with pytest.raises(Frozen):
            grow(sessions, groups=groups, reason=reason)

    def test_the_bypass_group_overrules_with_a_reason_and_the_outside_is_told(self, sessions: Sessions) -> None:
        freeze = declared(sessions, bypass_group="oncall")

        grow(sessions, groups=ONCALL, reason="hotfix for scrambled scores")

        with sessions.reading() as session:
            (event,) = told(session, event_types.FREEZE_OVERRULED)
        assert event["subject"] == HOME_FEED
        assert event["data"] == {
            "freeze_id": freeze.freeze_id,
            "surface": HOME_FEED,
            "by": "bob",
            "reason": "hotfix for scrambled scores",
        }

    def test_a_freeze_without_a_bypass_group_is_overruled_by_nobody(self, sessions: Sessions) -> None:
        declared(sessions)

        with pytest.raises(Frozen):
            grow(sessions, groups={"", "oncall"}, reason="hotfix")

    def test_who_may_overrule_one_of_two_freezes_is_held_by_the_other(self, sessions: Sessions) -> None:
        declared(sessions, bypass_group="oncall")
        declared(sessions, owner="legal", bypass_group="leads", ends_at=NOON + timedelta(hours=1))

        with pytest.raises(Frozen) as refusal:
            grow(sessions, groups=ONCALL, reason="hotfix")

        assert refusal.value.owner == "legal"


@pytest.mark.usefixtures("surface")
class TestLifting:
    def test_lifting_twice_keeps_the_first_reason_and_is_told_once(self, sessions: Sessions) -> None:
        freeze_id = declared(sessions).freeze_id

        with sessions.writing() as session:
            first = freezes.lift(session, freeze_id, by="ann", reason="shipped", now=LATER)
        with sessions.writing() as session:
            second = freezes.lift(session, freeze_id, by="bob", reason="again", now=LATER + timedelta(hours=1))

        with sessions.reading() as session:
            assert second == first == freezes.get(session, freeze_id)
            assert len(told(session, event_types.FREEZE_LIFTED)) == 1

    @pytest.mark.parametrize(("name", "groups"), [("ann", ()), ("legal", ()), ("bob", ONCALL)])
    def test_owner_declarer_and_bypass_group_may_lift(
        self, sessions: Sessions, name: str, groups: Collection[str]
    ) -> None:
        freeze_id = declared(sessions, owner="legal", bypass_group="oncall").freeze_id

        with sessions.writing() as session:
            freezes.lift(session, freeze_id, by=name, groups=groups, reason="done", now=LATER)

        assert standing(sessions, now=LATER) is None

    def test_others_may_not_lift_what_has_a_bypass_group(self, sessions: Sessions) -> None:
        freeze_id = declared(sessions, bypass_group="oncall").freeze_id

        with pytest.raises(Forbidden, match="bob may not lift"), sessions.writing() as session:
            freezes.lift(session, freeze_id, by="bob", reason="in my way", now=LATER)

        assert standing(sessions, now=LATER) is not None

    def test_a_freeze_that_is_not_there_cannot_be_lifted(self, sessions: Sessions) -> None:
        with pytest.raises(UnknownName, match="no freeze '7'"), sessions.writing() as session:
            freezes.lift(session, 7, by="ann", reason="done", now=LATER)


@pytest.mark.usefixtures("surface")
class TestDeclaring:
    def test_the_outside_hears_of_what_was_declared_and_lifted(self, sessions: Sessions) -> None:
        freeze = declared(sessions, None, starts_at=FRIDAY_17_00, calendar=WEEKENDS, bypass_group="oncall")
        with sessions.writing() as session:
            freezes.lift(session, freeze.freeze_id, by="ann", reason="shipped", now=LATER)

        with sessions.reading() as session:
            entries = outbox.read(session)
            (declaring,), (lifting,) = (
                told(session, event_types.FREEZE_DECLARED),
                told(session, event_types.FREEZE_LIFTED),
            )
        assert declaring["id"] == f"freeze/{freeze.freeze_id}/declared"
        assert declaring["subject"] == "all surfaces"
        assert declaring["data"] == {
            "freeze_id": freeze.freeze_id,
            "surface": None,
            "starts_at": "2026-03-06T22:00:00+00:00",
            "ends_at": None,
            "recurrence": "FREQ=WEEKLY;BYDAY=FR",
            "duration_seconds": 230_400.0,
            "time_zone": "America/New_York",
            "owner": "ann",
            "bypass_group": "oncall",
            "by": "ann",
            "reason": "code freeze",
        }
        assert (lifting["data"]["by"], lifting["data"]["reason"]) == ("ann", "shipped")
        keys = {entry.ordering_key for entry in entries if entry.kind.startswith("surefoot.freeze.")}
        assert keys == {f"freeze/{freeze.freeze_id}"}, "told in the order in which they came"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"reason": " "}, "reason"),
            ({"ends_at": NOON}, "ends_at"),
            ({"starts_at": NOON - timedelta(hours=2), "ends_at": NOON - timedelta(hours=1)}, "ends_at"),
            ({"starts_at": LATER, "ends_at": LATER}, "ends_at"),
            ({"ends_at": NOON + timedelta(days=4_000)}, "ends_at"),
            ({"starts_at": NOON + timedelta(days=4_000)}, "starts_at"),
            ({"calendar": Calendar(recurrence="FREQ=DAILY", duration_seconds=0.0, time_zone="UTC")}, "duration"),
            ({"calendar": Calendar(recurrence="FREQ=NEVER", duration_seconds=1.0, time_zone="UTC")}, "recurrence"),
            ({"calendar": Calendar(recurrence="FREQ=DAILY", duration_seconds=1.0, time_zone="Mars")}, "time_zone"),
        ],
    )
    def test_a_declaration_that_makes_no_sense_is_refused_by_its_field(
        self, sessions: Sessions, given: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidField) as refusal:
            declared(sessions, **given)

        assert refusal.value.field == field
        with sessions.reading() as session:
            assert freezes.list_freezes(session, now=NOON) == []

    def test_a_surface_that_is_not_there_is_refused(self, sessions: Sessions) -> None:
        with pytest.raises(UnknownName, match="no surface 'serach'; known: home_feed"):
            declared(sessions, Surface("serach"))

    def test_lists_tell_open_freezes_from_those_that_are_over(self, sessions: Sessions) -> None:
        over = declared(sessions, ends_at=NOON + timedelta(minutes=5))
        everywhere = declared(sessions, None)
        with sessions.writing() as session:
            stables.create_surface(session, SEARCH, VIEW_TYPES, by="ada", now=NOON)
        elsewhere = declared(sessions, SEARCH)

        with sessions.reading() as session:
            every = freezes.list_freezes(session, now=LATER)
            still_open = freezes.list_freezes(session, now=LATER, open_only=True)
            here = freezes.list_freezes(session, now=LATER, surface=HOME_FEED)

        assert every == [elsewhere, everywhere, over]
        assert still_open == [elsewhere, everywhere]
        assert here == [everywhere, over]


@pytest.mark.usefixtures("surface")
@pytest.mark.parametrize("frozen", [HOME_FEED, None], ids=["one surface", "all surfaces"])
def test_once_a_declaration_has_returned_nothing_grows_any_more(sessions: Sessions, frozen: Surface | None) -> None:
    """A change that had asked already is waited for; one that asks later is refused."""
    has_asked, may_go_on, ended = Event(), Event(), list[str]()

    def grow_slowly() -> None:
        with sessions.writing() as session:
            changes.lock_one(session, HOME_FEED)
            freezes.check(session, HOME_FEED, now=NOON, by="bob", groups=(), reason="")
            has_asked.set()
            assert may_go_on.wait(30)
            ended.append("grew")

    def stop_the_line() -> None:
        declared(sessions, frozen)
        ended.append("frozen")

    with ThreadPoolExecutor(2) as pool:
        growing = pool.submit(grow_slowly)
        assert has_asked.wait(30)
        freezing = pool.submit(stop_the_line)
        assert wait([freezing], timeout=0.5).done == set()
        may_go_on.set()
        growing.result(30)
        freezing.result(30)

    assert ended == ["grew", "frozen"]
    with pytest.raises(Frozen):
        grow(sessions)
