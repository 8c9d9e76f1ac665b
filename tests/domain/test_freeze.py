from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.freeze import Freeze, StandingFreeze, Window, ends_last
from tests.builders import HOME_FEED, NOON

moments = st.integers(0, 10**8).map(lambda seconds: NOON + timedelta(seconds=seconds))


def standing(freeze_id: int = 1, *, until: datetime | None = None, bypass_group: str = "oncall") -> StandingFreeze:
    return StandingFreeze(
        freeze_id=freeze_id,
        owner="legal",
        reason="audit",
        until=until,
        bypass_group=bypass_group,
        declared_by="ann",
    )


@given(st.lists(st.none() | moments))
def test_of_freezes_that_overlap_the_one_that_ends_last_is_waited_for(ends: list[datetime | None]) -> None:
    found = ends_last(standing(number, until=until) for number, until in enumerate(ends))

    if not ends:
        assert found is None
    else:
        assert found is not None
        assert found.until == (None if None in ends else max(until for until in ends if until is not None))


@given(st.permutations(range(4)))
def test_of_freezes_that_end_together_it_is_always_the_same_one(order: list[int]) -> None:
    found = ends_last([standing(number, until=NOON) for number in order])

    assert found is not None
    assert found.freeze_id == 0


@pytest.mark.parametrize(
    ("groups", "reason", "passes"),
    [(("oncall",), "hotfix", True), (("oncall",), " ", False), (("leads",), "hotfix", False), ((), "hotfix", False)],
)
def test_a_freeze_lets_its_bypass_group_through_with_a_reason(
    groups: tuple[str, ...], reason: str, passes: bool
) -> None:
    assert standing().lets_through(groups, reason) is passes
    assert not standing(bypass_group="").lets_through((*groups, ""), reason)


def test_a_window_holds_its_first_moment_and_not_its_last() -> None:
    hour = Window(starts_at=NOON, ends_at=NOON + timedelta(hours=1))

    assert [hour.holds(NOON + timedelta(minutes=minutes)) for minutes in (-1, 0, 59, 60)] == [False, True, True, False]
    assert Window(starts_at=NOON, ends_at=None).holds(NOON + timedelta(days=9_000))


def test_a_refusal_names_who_why_until_when_and_who_may_overrule_or_lift_it_by_which_command() -> None:
    assert str(standing(until=NOON).refusal(HOME_FEED)) == (
        "home_feed is frozen until 2026-03-03T12:00:00Z by legal: audit; oncall may overrule it with a reason; "
        "`surefoot unfreeze 1 --reason …` lifts it, which legal, ann or anyone of oncall may"
    )
    assert str(standing(bypass_group="").refusal(HOME_FEED)) == (
        "home_feed is frozen until it is lifted by legal: audit; `surefoot unfreeze 1 --reason …` lifts it, "
        "which anyone may"
    )


@pytest.mark.parametrize(
    ("bypass_group", "name", "groups", "may"),
    [
        ("oncall", "legal", (), True),
        ("oncall", "ann", (), True),
        ("oncall", "bob", ("oncall",), True),
        ("oncall", "bob", ("leads",), False),
        ("", "bob", (), True),
    ],
)
def test_who_may_lift_a_freeze(bypass_group: str, name: str, groups: tuple[str, ...], may: bool) -> None:
    freeze = Freeze(
        freeze_id=1,
        surface=None,
        starts_at=NOON,
        ends_at=None,
        calendar=None,
        owner="legal",
        reason="audit",
        bypass_group=bypass_group,
        created_at=NOON,
        created_by="ann",
    )

    assert freeze.may_be_lifted_by(name, groups) is may
