from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.model_version import Surface
from control_plane.domain.surface_graph import (
    Aftermath,
    Edge,
    OnUpstreamRollback,
    Progress,
    aftermath,
    blocked_by,
    check_edges,
    hand_back_order,
)
from tests.builders import HOME_FEED, NOON

SEARCH, RELATED, SHOPPING = Surface("search"), Surface("related_pins"), Surface("shopping")
EDGE = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=2_500, held_seconds=86_400)
HOLD, CASCADE, IGNORE = OnUpstreamRollback


def progress(share_bp: int = 2_500, *, hours: float = 24, green: bool = True, rolled_back: bool = False) -> Progress:
    since = NOON - timedelta(hours=hours)
    return Progress(
        candidate_bp=0 if rolled_back else share_bp,
        reached=((share_bp, since),),
        is_green=green,
        rolled_back_at=NOON if rolled_back else None,
    )


def an_edge(upstream: str, downstream: str, on_rollback: OnUpstreamRollback = HOLD) -> Edge:
    return Edge(
        upstream=Surface(upstream),
        downstream=Surface(downstream),
        share_bp=100,
        held_seconds=0,
        on_rollback=on_rollback,
    )


@pytest.mark.parametrize(
    ("upstream", "waits_for"),
    [
        (progress(), None),
        (progress(10_000), None),
        (None, "home_feed to start"),
        (progress(500), "home_feed to reach 25 %"),
        (progress(hours=23), "home_feed to hold 25 % for 24 h"),
        (progress(green=False), "home_feed's guardrails to be green"),
        (progress(rolled_back=True), "a person: home_feed was rolled back"),
    ],
)
def test_a_surface_waits_for_its_upstream(upstream: Progress | None, waits_for: str | None) -> None:
    known = {} if upstream is None else {HOME_FEED: upstream}

    assert blocked_by(SEARCH, [EDGE], known, now=NOON) == waits_for


def test_a_share_is_held_through_further_raises() -> None:
    reached = ((500, NOON - timedelta(hours=40)), (2_500, NOON - timedelta(hours=24)), (5_000, NOON))
    upstream = Progress(candidate_bp=5_000, reached=reached, is_green=True)

    assert blocked_by(SEARCH, [EDGE], {HOME_FEED: upstream}, now=NOON) is None


def test_a_surface_without_an_upstream_waits_for_nothing() -> None:
    assert blocked_by(HOME_FEED, [EDGE], {}, now=NOON) is None


def test_every_upstream_must_be_ready() -> None:
    edges = [EDGE, Edge(upstream=RELATED, downstream=SEARCH, share_bp=100, held_seconds=0)]

    assert blocked_by(SEARCH, edges, {HOME_FEED: progress()}, now=NOON) == "related_pins to start"


def test_circles_are_refused() -> None:
    back = Edge(upstream=SEARCH, downstream=HOME_FEED, share_bp=100, held_seconds=0)

    with pytest.raises(InvalidPlan, match="go round in a circle through home_feed, search"):
        check_edges([EDGE, back], [HOME_FEED, SEARCH])


def test_edges_stay_within_the_release() -> None:
    with pytest.raises(InvalidPlan, match=r"edges\[0\]\.downstream: 'search' is not a surface of this release"):
        check_edges([EDGE], [HOME_FEED, RELATED])


def test_a_chain_is_fine() -> None:
    check_edges(
        [EDGE, Edge(upstream=SEARCH, downstream=RELATED, share_bp=1, held_seconds=0)], [HOME_FEED, SEARCH, RELATED]
    )


def test_two_edges_between_the_same_surfaces_are_refused() -> None:
    with pytest.raises(InvalidPlan, match=r"edges\[1\]: there is an edge from home_feed to search already"):
        check_edges([EDGE, replace(EDGE, share_bp=5_000)], [HOME_FEED, SEARCH])


def test_an_edge_may_do_without_green_guardrails() -> None:
    edge = replace(EDGE, needs_green=False)

    assert blocked_by(SEARCH, [edge], {HOME_FEED: progress(green=False)}, now=NOON) is None


@pytest.mark.parametrize(
    ("hours", "waits_for"), [(24, None), (23, "a person: home_feed was rolled back")], ids=["held before", "too short"]
)
def test_a_surface_that_ignores_a_roll_back_still_needs_the_share_to_have_been_held(
    hours: float, waits_for: str | None
) -> None:
    edge = replace(EDGE, on_rollback=IGNORE)

    assert blocked_by(SEARCH, [edge], {HOME_FEED: progress(hours=hours, rolled_back=True)}, now=NOON) == waits_for


def test_what_is_furthest_downstream_goes_back_first() -> None:
    edges = [an_edge("home_feed", "search", CASCADE), an_edge("search", "related_pins", CASCADE)]

    assert aftermath([HOME_FEED], edges) == Aftermath(go_back=(RELATED, SEARCH), hold=())
    assert hand_back_order([HOME_FEED, SEARCH, RELATED], edges) == (RELATED, SEARCH, HOME_FEED)


def test_each_edge_has_its_own_policy() -> None:
    edges = [
        an_edge("home_feed", "search", CASCADE),
        an_edge("home_feed", "related_pins", HOLD),
        an_edge("home_feed", "shopping", IGNORE),
    ]

    assert aftermath([HOME_FEED], edges) == Aftermath(go_back=(SEARCH,), hold=(RELATED,))


def test_a_held_surface_takes_nothing_below_it_along_but_one_that_goes_back_does() -> None:
    below = [an_edge("search", "related_pins", CASCADE), an_edge("related_pins", "shopping", HOLD)]

    assert aftermath([HOME_FEED], [an_edge("home_feed", "search", HOLD), *below]) == Aftermath(
        go_back=(), hold=(SEARCH,)
    )
    assert aftermath([HOME_FEED], [an_edge("home_feed", "search", CASCADE), *below]) == Aftermath(
        go_back=(RELATED, SEARCH), hold=(SHOPPING,)
    )


def test_of_two_policies_the_safer_rules() -> None:
    edges = [an_edge("home_feed", "related_pins", IGNORE), an_edge("search", "related_pins", CASCADE)]

    assert aftermath([HOME_FEED, SEARCH], edges).go_back == (RELATED,)


SURFACES = [Surface(name) for name in "abcdef"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(OnUpstreamRollback)), max_size=12),
    st.sets(st.sampled_from(SURFACES), min_size=1),
)
def test_no_surface_goes_back_before_one_that_follows_it(
    pairs: list[tuple[int, int, OnUpstreamRollback]], gone: set[Surface]
) -> None:
    edges = [an_edge(SURFACES[up], SURFACES[down], policy) for up, down, policy in pairs if up < down]

    order = hand_back_order(SURFACES, edges)
    after = aftermath(gone, edges)

    assert sorted(order) == SURFACES
    assert all(order.index(edge.downstream) < order.index(edge.upstream) for edge in edges)
    assert list(after.go_back) == [surface for surface in order if surface in after.go_back]
    assert not gone & {*after.go_back, *after.hold}
    assert not set(after.go_back) & set(after.hold)
