from typing import Any

import pytest

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.plan_reader import Reader
from control_plane.domain.release_mapping import edges_to_mapping, read_edge, release_from_mapping
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.plan_file import read_release
from tests.builders import HOME_FEED, a_plan, a_plan_mapping
from tests.registry.scene import SEARCH

EDGE = {"upstream": "home_feed", "downstream": "search", "share": "25%", "held": "24h"}


def a_release_mapping(**overrides: object) -> dict[str, Any]:
    candidates = {"home_feed": "a" * 16, "search": "b" * 16}
    return {"candidates": candidates, "plan": a_plan_mapping(), "edges": [EDGE], **overrides}


def test_a_release_is_its_candidates_its_plan_and_its_edges() -> None:
    release = release_from_mapping(a_release_mapping())

    assert release.candidates == {HOME_FEED: "a" * 16, SEARCH: "b" * 16}
    assert release.plan == a_plan()
    assert release.edges == (Edge(upstream=HOME_FEED, downstream=SEARCH, share_bp=2_500, held_seconds=86_400.0),)


def test_a_plan_may_stand_in_a_file_of_its_own() -> None:
    assert release_from_mapping(a_release_mapping(plan="plans/standard.yaml")).plan == "plans/standard.yaml"


def test_an_edge_written_out_reads_back_to_itself() -> None:
    edge = Edge(
        upstream=HOME_FEED,
        downstream=SEARCH,
        share_bp=1,
        held_seconds=0.0,
        needs_green=False,
        on_rollback=OnUpstreamRollback.CASCADE,
    )

    assert [read_edge(Reader(written)) for written in edges_to_mapping([edge])] == [edge]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"candidates": {}}, "candidates"),
        ({"candidates": ["home_feed"]}, "candidates"),
        ({"candidates": {"home_feed": 12}}, "candidates.home_feed"),
        ({"candidates": {"Home Feed": "a"}}, "candidates.Home Feed"),
        ({"plan": None}, "plan"),
        ({"plan": a_plan_mapping(steps=[])}, "plan.steps"),
        ({"edges": [{**EDGE, "share": "all"}]}, "edges[0].share"),
        ({"edges": [{**EDGE, "on_rollback": "panic"}]}, "edges[0].on_rollback"),
        ({"edges": [{**EDGE, "wait": "1h"}]}, "edges[0].wait"),
        ({"edges": [{**EDGE, "upstream": "ads"}]}, "edges[0].upstream"),
        ({"edges": [EDGE, {**EDGE, "upstream": "search", "downstream": "home_feed"}]}, "edges"),
        ({"surfaces": []}, "surfaces"),
    ],
)
def test_a_broken_rule_is_told_with_its_key(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidPlan) as refused:
        release_from_mapping(a_release_mapping(**change))

    assert refused.value.field == field


def test_a_release_files_broken_rule_is_told_with_its_line() -> None:
    text = """\
candidates:
  home_feed: aaaa
  search: bbbb
plan: standard.yaml
edges:
  - upstream: home_feed
    downstream: search
    share: 25%
    held: a while
"""
    with pytest.raises(InvalidPlan) as refused:
        read_release(text)

    assert (refused.value.field, refused.value.line) == ("edges[0].held", 9)
