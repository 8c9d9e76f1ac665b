"""Going on: nothing is inherited, nobody changes sides, and what was agreed on changes only openly."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from control_plane.app import create_app
from control_plane.domain.errors import MissingReason, MissingVerdict
from control_plane.domain.model_version import Surface
from control_plane.domain.plan_mapping import plan_to_mapping
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout, RolloutId
from control_plane.domain.split import Split, slot_of
from control_plane.domain.verdict import Outcome
from control_plane.plan_file import read_plan
from control_plane.registry import arrivals, rollouts, runtimes, surfaces
from control_plane.registry.session import Sessions
from control_plane.settings import Settings
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.http_client import in_process
from tests.registry import scene
from tests.registry.scene import LATER
from tests.stories.world import LOOK, STORY_PLAN, World

PLAN_YAML = """
name: as agreed
steps: [{share: 1%, bake: 1h}, {share: 25%, bake: 2h}, {share: 100%, bake: 1d}]
guardrails: [{metric: ctr}]
"""
ALL_SLOTS = np.arange(0, 2**64, 2**64 // 20_011, dtype=np.uint64)  # users enough that every basis point has some


def in_candidate(split: Split) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = slot_of(ALL_SLOTS, split.salt) < split.candidate_bp
    return found


def serving(sessions: Sessions, surface: Surface = HOME_FEED) -> Split:
    with sessions.reading() as session:
        return surfaces.splits(session, now=NOON)[surface]


def test_flagger_30_a_new_version_inherits_none_of_the_progress_of_the_one_it_replaces(world: World) -> None:
    """The old one stands at 10 % with evidence of days; the new one begins without weight, and finds none of it."""
    old = world.roll_out("home_feed", world.candidate("home_feed", name="old", trunk="t1"))
    world.live_until(old, Phase.RAMPING, at_most_days=2)
    world.live(2)
    new_candidate = world.candidate("home_feed", name="new", trunk="t2")
    with world.sessions.writing() as session:
        new = arrivals.create(
            session,
            HOME_FEED,
            new_candidate,
            world.rollout(old).plan,
            by="bob",
            now=world.now,
            on_busy=OnBusy.REPLACE,
        )

    assert (new.phase, new.step, new.approvals) == (Phase.PENDING, -1, frozenset())
    assert (world.surface("home_feed").candidate, world.surface("home_feed").candidate_bp) == (None, 0)
    world.heartbeat()
    phases = []
    for _ in range(4):  # however often it is looked at, without traffic of its own it gets no weight
        world.tick()
        world.heartbeat()
        phases.append(world.rollout(new.rollout_id).phase)
    assert phases == [Phase.WARMING, Phase.SHADOW, Phase.SHADOW, Phase.SHADOW]
    assert world.surface("home_feed").candidate_bp == 0


def test_flagger_30_a_verdict_on_another_digest_lets_nothing_grow(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        old = scene.a_rollout_in(session, Phase.RAMPING, a_version("old"))
        of_the_old = scene.a_passing_verdict(session, old)
        scene.commanded(session, old, Command.ABORT)
        new = scene.a_rollout_in(session, Phase.SHADOW, a_version("new"))

        with pytest.raises(MissingVerdict):
            scene.commanded(session, new, Command.ADVANCE, verdict_id=of_the_old)


def test_flagger_635_a_restart_of_the_control_plane_moves_no_traffic(
    tmp_path: Path, sessions: Sessions, registry_url: str
) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)
    settings = Settings(data_dir=tmp_path, database_url=registry_url, runs_scheduler=False)
    answers = []
    for _ in range(3):
        with in_process(create_app(settings, lambda: LATER)) as client:
            answers.append(client.get("/v1/splits").content)

    assert b'"candidate_bp"' in answers[0] or b"weights_bp" in answers[0]
    assert len(set(answers)) == 1


@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.WATCHING])
def test_flagger_635_a_rollout_that_is_restarted_leaves_its_users_on_stable_which_never_left(
    sessions: Sessions, phase: Phase
) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
        rollouts.restart(
            session, rollout_id, plan=None, by="ann", reason="from the top", now=LATER, seen_generation=None
        )

    split = serving(sessions)
    assert (split.stable, split.weights_bp) == (stable, {stable: 10_000})


def test_growthbook_kotlin_198_no_user_changes_sides_while_the_share_grows(sessions: Sessions) -> None:
    met, shares = [], []
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
    while serving(sessions).candidate is not None:
        met.append(in_candidate(serving(sessions)))
        shares.append(serving(sessions).candidate_bp)
        with sessions.writing() as session:
            passing = scene.a_passing_verdict(session, rollout_id)
            scene.commanded(session, rollout_id, Command.ADVANCE, verdict_id=passing)

    assert shares == [100, 2_500, 10_000]
    for fewer, more in pairwise(met):
        assert (fewer <= more).all(), "whoever had the candidate keeps it"
        assert fewer.sum() < more.sum()


def test_growthbook_kotlin_198_holding_and_resuming_moves_nobody(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
    before = in_candidate(serving(sessions))

    for command in (Command.HOLD, Command.RESUME):
        with sessions.writing() as session:
            scene.commanded(session, rollout_id, command)

        assert (in_candidate(serving(sessions)) == before).all()


def test_launchdarkly_a_restart_draws_a_cohort_of_its_own_and_takes_no_evidence_of_the_old_one_along(
    sessions: Sessions,
) -> None:
    """Users who met the candidate before would count twice; so a restart says openly that it draws anew."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        before = surfaces.get(session, HOME_FEED)
        after = rollouts.restart(
            session, rollout_id, plan=None, by="ann", reason="new index", now=LATER, seen_generation=before.generation
        )

        assert surfaces.get(session, HOME_FEED).salt != before.salt
        assert after.first_generation == after.stage_generation == before.generation + 1


def test_kserve_a_candidate_gets_no_weight_before_every_live_runtime_has_it_in_memory(world: World) -> None:
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.heartbeat()
    world.tick()
    for _ in range(4):
        world.heartbeat()
        with world.sessions.writing() as session:
            runtimes.record_heartbeat(session, a_cold_runtime(world), now=world.now, seen_at=world.now)
        world.tick()

    assert world.rollout(rollout_id).phase is Phase.WARMING
    assert world.surface("home_feed").candidate_bp == 0


def test_a_plan_edited_under_a_rollout_applies_to_the_next_one_only(sessions: Sessions, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN_YAML)
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_pending_rollout(session, a_version("b"), plan=read_plan(path.read_text()))
        scene.walk(session, first, until=Phase.RAMPING)

    path.write_text(PLAN_YAML.replace("25%", "90%").replace("as agreed", "in a hurry"))

    with sessions.writing() as session:
        assert shares_of(session, first) == [100, 2_500, 10_000]
        passing = scene.a_passing_verdict(session, first)
        scene.commanded(session, first, Command.ADVANCE, verdict_id=passing)
        assert surfaces.get(session, HOME_FEED).candidate_bp == 2_500
        scene.commanded(session, first, Command.ABORT)
        second = scene.a_pending_rollout(session, a_version("c"), plan=read_plan(path.read_text()))
        assert shares_of(session, second) == [100, 9_000, 10_000]


def test_the_api_has_no_way_to_edit_a_plan_in_silence(tmp_path: Path) -> None:
    with in_process(create_app(Settings(data_dir=tmp_path, runs_scheduler=False), lambda: NOON)) as client:
        paths = client.get("/openapi.json").json()["paths"]

    methods = {method for path, found in paths.items() if path.startswith("/v1/rollouts") for method in found}
    assert methods.isdisjoint({"put", "patch", "delete"})


def test_an_operator_who_swaps_the_plan_says_why_and_begins_without_evidence_weight_or_approvals(
    sessions: Sessions,
) -> None:
    steps = [{"share": "1%", "approvals": 2}, {"share": "100%"}]
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=steps))
        scene.walk(session, rollout_id, until=Phase.RAMPING)
        scene.commanded(session, rollout_id, Command.APPROVE, by="bob", reason="fine")
        passing = scene.a_stored_verdict(session, rollout_id, Outcome.ADVANCE)
        before = rollouts.get(session, rollout_id)
        assert before.approvals == {"bob"}

    with sessions.writing() as session, pytest.raises(MissingReason):
        swap(session, rollout_id, reason=" ")
    with sessions.reading() as session:
        assert rollouts.get(session, rollout_id) == before

    with sessions.writing() as session:
        after = swap(session, rollout_id, reason="the first margin was a typing error")

        state = surfaces.get(session, HOME_FEED)
        assert plan_to_mapping(after.plan)["name"] == "mended"
        assert (after.phase, after.step, after.approvals, after.acknowledged_at) == (
            Phase.SHADOW,
            -1,
            frozenset(),
            None,
        )
        assert (state.candidate, state.candidate_bp) == (None, 0)
        assert after.first_generation == after.stage_generation == state.generation
        with pytest.raises(MissingVerdict):
            scene.commanded(session, rollout_id, Command.ADVANCE, verdict_id=passing)


def test_evidence_of_before_a_swap_is_not_asked_for_after_it(world: World) -> None:
    """With the real event log: what was shown in the first shadow counts for nothing in the second."""
    rollout_id = world.roll_out("home_feed", world.candidate("home_feed"))
    world.live_until(rollout_id, Phase.RAMPING, at_most_days=2)
    with world.sessions.writing() as session:
        swapped = rollouts.restart(
            session,
            rollout_id,
            plan=a_plan(**{**STORY_PLAN, "name": "mended"}),
            by="ann",
            reason="margins",
            now=world.now,
            seen_generation=world.surface("home_feed").generation,
        )
    assert swapped.phase is Phase.SHADOW

    for _ in range(3):  # nothing is served: all that the log holds is of before
        world.heartbeat()
        world.now += LOOK
        world.tick()

    assert world.rollout(rollout_id).phase is Phase.SHADOW
    assert world.surface("home_feed").candidate_bp == 0


def a_cold_runtime(world: World) -> runtimes.Heartbeat:
    """It answers for home_feed, and has nothing but stable in memory."""
    stable = world.surface("home_feed").stable
    assert stable is not None
    return runtimes.Heartbeat(
        runtime_id="runtime-cold",
        generations={surface: split.generation for surface, split in world.splits().items()},
        loaded=(stable,),
        counts={},
        shadow_dropped=0,
        splits_mode="stream",
    )


def shares_of(session: Session, rollout_id: RolloutId) -> list[int]:
    return [step.share_bp for step in rollouts.get(session, rollout_id).plan.steps]


def swap(session: Session, rollout_id: RolloutId, *, reason: str) -> Rollout:
    plan = a_plan(name="mended")
    return rollouts.restart(session, rollout_id, plan=plan, by="ann", reason=reason, now=LATER, seen_generation=None)
