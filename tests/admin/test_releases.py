import re
from datetime import timedelta
from itertools import combinations

import pytest

from control_plane.admin.release_graph import LABEL_HEIGHT, LABEL_WIDTH, Node, condition_words, release_graph
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.registry import arrivals, rollouts
from tests.admin.site import Site
from tests.admin.test_pages import text_of
from tests.builders import a_plan

ADS, BOARDS, IDEAS = Surface("ads"), Surface("boards"), Surface("ideas")
EDGES = (
    Edge(upstream=ADS, downstream=BOARDS, share_bp=2_500, held_seconds=7_200.0),
    Edge(
        upstream=BOARDS,
        downstream=IDEAS,
        share_bp=10_000,
        held_seconds=0.0,
        needs_green=False,
        on_rollback=OnUpstreamRollback.CASCADE,
    ),
)


def test_a_release_s_page_draws_its_surfaces_and_the_edges_between_them(site: Site) -> None:
    release_id = a_release(site)
    begin(site, ADS)

    page = site.read(f"/releases/{release_id}")

    graph = page.split('<svg class="surface-graph')[1].split("</svg>")[0]
    assert "Ads: ramping at 1 %; Boards: pending; Ideas: pending" in graph
    assert re.findall(r'class="g-condition"[^>]*>([^<]+)<', graph) == ["at 25 % for 2 h, green", "at 100 %"]
    assert re.findall(r'class="g-policy"[^>]*>([^<]+)<', graph) == ["holds if it goes back", "goes back with it"]
    assert f'href="/rollouts/{rollout_of(site, BOARDS)}"' in graph


def test_a_release_s_page_says_what_each_surface_waits_for(site: Site) -> None:
    release_id = a_release(site)
    begin(site, ADS)

    page = text_of(site.client.get(f"/releases/{release_id}"))

    assert re.search(r"Boards rollout \d+ pending 0 % [0-9a-f]{8} Waiting for ads to reach 25 %\.", page)
    assert re.search(r"Ads rollout \d+ ramping at 1 % 1 % 0 % acknowledged", page)
    assert "Boards starts once Ads is at 25 % for 2 h, green ; if Ads is rolled back, Boards holds." in page
    assert "Ideas starts once Boards is at 100 % ; if Boards is rolled back, Ideas goes back with it." in page


def test_one_button_rolls_the_whole_release_back_furthest_downstream_first(site: Site) -> None:
    release_id = a_release(site)
    begin(site, ADS)

    page = text_of(site.client.get(f"/releases/{release_id}"))
    question = text_of(site.client.get(f"/releases/{release_id}/roll_back"))
    answer = site.press(f"/releases/{release_id}/roll_back", reason="clicks fell", operator="ann")

    assert "3 surfaces, furthest downstream first: Ideas, Boards, Ads" in page
    assert (
        question.index("Ideas: rollout") < question.index("Boards: rollout") < question.index("Ads: the 1 % of users")
    )
    assert answer.headers["location"] == f"/releases/{release_id}"
    assert {surface: phase_of(site, surface) for surface in (ADS, BOARDS, IDEAS)} == dict.fromkeys(
        (ADS, BOARDS, IDEAS), Phase.ROLLED_BACK
    )
    assert site.state("ads").candidate is None


def test_rolling_a_release_back_twice_is_the_same_as_once(site: Site) -> None:
    release_id = a_release(site)
    begin(site, ADS)
    site.press(f"/releases/{release_id}/roll_back")
    before = site.state("ads")

    again = site.press(f"/releases/{release_id}/roll_back")

    assert again.status_code == 303
    assert site.state("ads") == before
    assert "every surface of it is back already" in site.read(f"/releases/{release_id}")


def test_what_could_not_go_back_is_told_and_keeps_nobody_else(site: Site) -> None:
    release_id = a_release(site)
    finish(site, ADS)
    version_id = site.showcase.register("ads", "joint-2026-07-01")
    with site.showcase.sessions.writing() as session:
        arrivals.create(session, ADS, version_id, a_plan(), by="grace", now=site.showcase.now)

    answer = site.press(f"/releases/{release_id}/roll_back", reason="clicks fell")

    assert answer.status_code == 200
    assert "Release 1 went back, but not everywhere" in answer.text
    assert phase_of(site, ADS) is Phase.DONE
    assert phase_of(site, BOARDS) is Phase.ROLLED_BACK


def test_a_form_from_elsewhere_rolls_nothing_back(site: Site) -> None:
    release_id = a_release(site)

    answer = site.client.post(f"/releases/{release_id}/roll_back", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert phase_of(site, ADS) is Phase.PENDING


def test_releases_are_listed_with_the_phase_of_each_surface(site: Site) -> None:
    empty = text_of(site.client.get("/releases"))
    a_release(site)
    begin(site, ADS)

    page = text_of(site.client.get("/releases"))

    assert "No release yet" in empty
    assert re.search(r"Release 1 Ads ramping at 1 % Boards pending Ideas pending", page)
    assert 'href="/releases/1"' in site.read(f"/rollouts/{rollout_of(site, ADS)}")


def test_a_release_that_is_not_there_is_a_page_too(site: Site) -> None:
    answer = site.client.get("/releases/999")

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (Edge(upstream=ADS, downstream=BOARDS, share_bp=50, held_seconds=0.0), "at 0.5 %, green"),
        (Edge(upstream=ADS, downstream=BOARDS, share_bp=50, held_seconds=90_000.0), "at 0.5 % for 1 d 1 h, green"),
    ],
)
def test_an_edge_s_condition_in_words(edge: Edge, words: str) -> None:
    assert condition_words(edge) == words


@pytest.mark.parametrize(
    "pairs", ["ab ac bd cd ad ed", "ac ad bc bd", "ab cd ce fd", "ad bd cd de df ef", "", "ab bc ac"]
)
def test_nothing_in_a_graph_lies_on_anything_else_and_upstream_lies_above(pairs: str) -> None:
    names = [Surface(name) for name in "abcdef"]
    edges = [
        Edge(upstream=Surface(pair[0]), downstream=Surface(pair[1]), share_bp=100, held_seconds=0.0)
        for pair in pairs.split()
    ]
    nodes = [Node(surface=name, words="pending", colour="neutral", candidate_bp=0, address="/") for name in names]

    drawn = str(release_graph(nodes, edges))

    corners = re.findall(r'class="g-node [^"]+" x="(-?\d+)" y="(\d+)"', drawn)
    where = {name: (int(x), int(y)) for name, (x, y) in zip(names, corners, strict=True)}
    assert len(set(where.values())) == len(names)
    assert all(where[edge.upstream][1] < where[edge.downstream][1] for edge in edges)
    assert min(x for x, _ in where.values()) >= 0
    labels = [(int(x), int(y)) for x, y in re.findall(r'class="g-label" x="(-?\d+)" y="(-?\d+)"', drawn)]
    assert len(labels) == len(edges)
    assert [pair for pair in combinations(labels, 2) if overlap(*pair)] == []


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] - other[0]) < LABEL_WIDTH and abs(one[1] - other[1]) < LABEL_HEIGHT


def a_release(site: Site) -> int:
    candidates = {}
    for surface in (ADS, BOARDS, IDEAS):
        site.showcase.open(surface)
        candidates[surface] = site.showcase.register(surface, "joint-2026-06-01")
    with site.showcase.sessions.writing() as session:
        return arrivals.create_release(session, candidates, a_plan(), EDGES, by="grace", now=site.showcase.now)


def begin(site: Site, surface: Surface) -> None:
    for command in (Command.START, Command.SKIP, Command.SKIP):
        apply(site, surface, command)


def finish(site: Site, surface: Surface) -> None:
    begin(site, surface)
    while phase_of(site, surface) is not Phase.DONE:
        site.showcase.now += timedelta(minutes=1)
        apply(site, surface, Command.SKIP)


def apply(site: Site, surface: Surface, command: Command) -> None:
    with site.showcase.sessions.writing() as session:
        rollouts.apply_command(
            session, rollout_of(site, surface), command, by="ann", now=site.showcase.now, reason="a test"
        )


def rollout_of(site: Site, surface: Surface) -> RolloutId:
    with site.showcase.sessions.reading() as session:
        return min(found.rollout_id for found in rollouts.list_rollouts(session, surface=surface))


def phase_of(site: Site, surface: Surface) -> Phase:
    return site.showcase.rollout(rollout_of(site, surface)).phase
