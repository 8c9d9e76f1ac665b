"""Releases and adaptive ramps end to end: traffic, judge, scheduler and registry as they run for real."""

from pathlib import Path

import pytest

from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Phase, Rollout
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.guardrails.replay import replay
from control_plane.registry import arrivals, evidence, history, release_rows, surfaces
from tests.builders import a_plan
from tests.stories.world import STORY_PLAN, Behaviour, World

pytestmark = pytest.mark.slow

HOME_FEED, SEARCH = Surface("home_feed"), Surface("search")
EDGE = Edge(
    upstream=HOME_FEED,
    downstream=SEARCH,
    share_bp=1_000,
    held_seconds=6 * 3_600.0,
    on_rollback=OnUpstreamRollback.CASCADE,
)


def a_release(world: World, *, home_feed: Behaviour | None = None, **plan: object) -> int:
    """Its trunk is proven, so that what goes wrong on one surface is that surface's export alone."""
    candidates = {
        HOME_FEED: world.candidate(HOME_FEED, trunk="trunk-1", behaviour=home_feed),
        SEARCH: world.candidate(SEARCH, trunk="trunk-1"),
    }
    with world.sessions.writing() as session:
        return arrivals.create_release(
            session, candidates, a_plan(**{**STORY_PLAN, **plan}), [EDGE], by="ann", now=world.now
        )


def of_release(world: World, release_id: int) -> dict[Surface, Rollout]:
    with world.sessions.reading() as session:
        return release_rows.rollouts_of(session, release_id)


def test_search_starts_once_home_feed_held_and_goes_back_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, HOME_FEED, SEARCH)
    release_id = a_release(world)
    started_with: dict[Phase, int] = {}

    for _ in range(40):
        world.live(1)
        found = of_release(world, release_id)
        started_with.setdefault(found[SEARCH].phase, found[HOME_FEED].candidate_bp)
        if found[SEARCH].phase is Phase.RAMPING:
            break
    world.behaviours[found[HOME_FEED].candidate] = Behaviour(ctr=0.3)
    world.live_until(found[HOME_FEED].rollout_id, Phase.ROLLED_BACK, at_most_days=4)

    after = of_release(world, release_id)
    assert started_with[Phase.PENDING] == 0
    assert started_with[Phase.WARMING] >= 1_000
    assert {rollout.phase for rollout in after.values()} == {Phase.ROLLED_BACK}
    with world.sessions.reading() as session:
        told = {surface: history.list_history(session, surface, 1)[0] for surface in (HOME_FEED, SEARCH)}
        assert [surfaces.get(session, surface).candidate_bp for surface in told] == [0, 0]
        assert history.verify(session) == []
    assert told[SEARCH].at == told[HOME_FEED].at
    assert told[SEARCH].reason == f"home_feed was rolled back: {told[HOME_FEED].reason}"


def test_an_adaptive_rollout_takes_what_its_budget_allows_on_the_way_to_the_next_step(tmp_path: Path) -> None:
    world = World(tmp_path, HOME_FEED)
    steps = [{"share": "5%", "bake": "3h"}, {"share": "50%", "bake": "3h"}, {"share": "100%", "bake": "3h"}]
    plan = a_plan(**{**STORY_PLAN, "steps": steps, "judge": {"loss_budget": "2%"}, "adaptive": True})
    rollout_id = world.roll_out(HOME_FEED, world.candidate(HOME_FEED), plan)

    rollout = world.live_until(rollout_id, Phase.DONE, Phase.ROLLED_BACK, Phase.EXPIRED, at_most_days=12)

    assert rollout.phase is Phase.DONE
    with world.sessions.reading() as session:
        shares = list(surfaces.shares_since(session, HOME_FEED, 1).values())
        raises = [share for share in shares if share not in (0, 500, 5_000, 10_000)]
        verdicts = evidence.list_verdicts(session, rollout_id)
        last_raise = next(one for one in verdicts if one.verdict.safe_share_bp == raises[-1])
        again = replay(evidence.inputs(session, last_raise.verdict_id))
    assert raises, "between 5 % and 50 % something was allowed"
    assert all(500 < share < 5_000 for share in raises)
    assert raises == sorted(raises)
    assert again.to_json() == last_raise.verdict.to_json()
