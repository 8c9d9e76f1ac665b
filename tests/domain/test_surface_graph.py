from datetime import timedelta

import pytest

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.model_version import Surface
from control_plane.domain.surface_graph import Edge, Progress, blocked_by, check_edges
from tests.builders import HOME_FEED, NOON

SEARCH, RELATED = Surface("search"), Surface("related_pins")
EDGE = Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=2_500, held_seconds=86_400)


def progress(share_bp: int = 2_500, *, hours: float = 24, green: bool = True, rolled_back: bool = False) -> Progress:
    since = NOON - timedelta(hours=hours)
    return Progress(candidate_bp=share_bp, reached=((share_bp, since),), is_green=green, was_rolled_back=rolled_back)


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
